"""Predictions of rows under loads: the cost model's formulas over columns, a few thousand candidates at a time."""

from collections.abc import Iterator
from dataclasses import dataclass, fields, replace

import numpy as np

from moe_plan.columns import Column
from moe_plan.cost.kernels import Experts, Setting
from moe_plan.cost.predict import make_setting
from moe_plan.cost.serving import forecast
from moe_plan.cost.step import Case, StageClass
from moe_plan.kv import ELEMENT_BYTES, growing_bytes
from moe_plan.search.arrays import Bools, Floats, Ints, shared
from moe_plan.search.layouts import requests_at_any_load
from moe_plan.search.pipeline import StageColumns
from moe_plan.search.rows import Rows
from moe_plan.search.space import Space
from moe_plan.shares import layer_kinds
from moe_plan.subject import Subject

CHUNK = 8192
"""Candidates computed at a time, so that a column stays in the processor's cache."""


@dataclass(frozen=True, slots=True)
class Loads:
    """What candidates are asked to do: a row under a load, `[candidates]` each."""

    row: Ints
    replicas: Ints
    micro_batches: Ints
    concurrency: Ints
    """Requests at once, over the whole deployment."""

    def __len__(self) -> int:
        return len(self.row)

    def joined(self, other: "Loads", rows: int) -> "Loads":
        """These loads, then those of other rows that come after so many."""
        moved = replace(other, row=other.row + rows)
        pairs = ((getattr(self, field.name), getattr(moved, field.name)) for field in fields(self))
        return Loads(*map(np.concatenate, pairs))

    def take(self, which: Ints | Bools | slice) -> "Loads":
        """Some of them."""
        return Loads(self.row[which], self.replicas[which], self.micro_batches[which], self.concurrency[which])


@dataclass(frozen=True, slots=True)
class Times:
    """What is predicted of loads, `[candidates]` each."""

    ttft: Floats
    tpot: Floats
    tokens_per_s: Floats
    """Output tokens over the whole deployment."""
    batch: Ints
    """Requests decoded together on a shard."""

    def joined(self, other: "Times") -> "Times":
        """These times, then the others."""
        pairs = ((getattr(self, field.name), getattr(other, field.name)) for field in fields(self))
        return Times(*map(np.concatenate, pairs))


def predict_columns(subject: Subject, rows: Rows, loads: Loads) -> Times:
    """What `cost.predict` says of each load."""
    setting = make_setting_of(subject)
    parts = [_part(subject, setting, rows, loads.take(slice(i, i + CHUNK))) for i in range(0, len(loads), CHUNK)]
    columns = np.concatenate(parts, axis=1) if parts else np.zeros((4, 0))
    return Times(columns[0], columns[1], columns[2], columns[3].astype(np.int64))


def at_any_load(subject: Subject, space: Space, rows: Rows) -> Loads:
    """One replica of each row with each batch: 1, 2, 4, … requests a shard, up to what its KV cache holds.

    More replicas serve as many more requests in the same times, so that one tells the rate of a GPU.
    """
    training = subject.spec.workload.mode == "training"
    held = np.ones_like(rows.order)
    if not training:
        held = requests_at_any_load(subject, rows.layouts, rows.stages, rows.busiest)
    most = int(held.max(initial=0))
    ladder = np.array([2**step for step in range(most.bit_length())], dtype=np.int64)
    batches = np.minimum(ladder, held[:, None])
    fresh = np.ones_like(batches, dtype=np.bool_)
    fresh[:, 1:] = batches[:, 1:] > batches[:, :-1]
    row, rung = np.nonzero(fresh & (batches > 0))
    concurrency = batches[row, rung] * rows.layouts.ep[row]
    return micro_batched(subject, space, rows, Loads(row, np.ones_like(row), row, concurrency))


def at_workload(subject: Subject, space: Space, rows: Rows) -> Loads:
    """The workload's requests on each row, with each number of replicas that can be best.

    Of the numbers that leave as many requests to a replica, the least gives the same times with the fewest GPUs, as
    long as a replica holds its requests; where it does not, each further replica holds more.
    """
    workload = subject.spec.workload
    world = rows.layouts.world
    if space.replicas is not None:
        row, replicas = np.arange(len(rows)), np.full(len(rows), space.replicas)
    else:
        most = np.minimum(space.max_gpus // world, workload.concurrency)
        row = np.repeat(np.arange(len(rows)), most)
        replicas = np.arange(len(row)) - np.repeat(np.cumsum(most) - most, most) + 1
    share, before = (-(-workload.concurrency // np.maximum(1, count)) for count in (replicas, replicas - 1))
    full = share > rows.kv_requests[row] * rows.layouts.ep[row]
    useful = full | (share != before) | (replicas == 1) | (space.replicas is not None)
    row, replicas = row[useful], replicas[useful]
    concurrency = np.full(len(row), workload.concurrency)
    return micro_batched(subject, space, rows, Loads(row, replicas, row, concurrency))


def micro_batched(subject: Subject, space: Space, rows: Rows, loads: Loads) -> Loads:
    """Each load with each number of micro-batches that `auto` may take."""
    found = []
    pp = rows.layouts.pp[loads.row]
    tried: list[Ints] = []
    for micro_batches, which in _micro_batches(subject, space, pp):
        fresh = which.copy()
        for before in tried:
            fresh &= before != micro_batches
        tried.append(np.where(which, micro_batches, 0))
        chosen = loads.take(fresh)
        found.append(Loads(chosen.row, chosen.replicas, micro_batches[fresh], chosen.concurrency))
    return _joined(found)


def _micro_batches(subject: Subject, space: Space, pp: Ints) -> Iterator[tuple[Ints, Bools]]:
    """As `choice.micro_batch_choices`: a number for each load, and the loads that it is for."""
    if space.micro_batches is not None:
        yield np.full_like(pp, space.micro_batches), np.ones_like(pp, dtype=np.bool_)
        return
    yield np.ones_like(pp), np.ones_like(pp, dtype=np.bool_)
    for multiple in (1, 2, 4):
        yield np.minimum(multiple * pp, subject.limits.max_batch_tokens), pp > 1


def _joined(loads: list[Loads]) -> Loads:
    return Loads(
        *(
            np.concatenate([getattr(part, name) for part in loads])
            for name in ("row", "replicas", "micro_batches", "concurrency")
        )
    )


def make_setting_of(subject: Subject) -> Setting:
    """As `cost.predict` makes it; bytes of a cached element are the compute format's where no layer's cache grows."""
    grows = any(growing_bytes(kind.attention, 1, 1) for kind in layer_kinds(subject.shape))
    cached = ELEMENT_BYTES[subject.kv_cache_dtype if grows else subject.shape.formats.compute]
    spec = subject.spec
    return make_setting(subject.shape, subject.hardware, spec.runtime.engine, cached, subject.limits.max_batch_tokens)


def _part(subject: Subject, setting: Setting, rows: Rows, loads: Loads) -> Floats:
    """The figures of `Times` of a chunk, `[4, candidates]`."""
    found = forecast(setting, make_cases(subject, rows, loads))
    columns = (found.ttft.total, found.tpot.total, found.tokens_per_s, found.batch)
    return np.stack([np.broadcast_to(column, len(loads)) for column in columns])


def make_cases(subject: Subject, rows: Rows, loads: Loads) -> Case:
    """Rows under loads as one case of columns, `[loads]` each."""
    workload, here = subject.spec.workload, rows.take(loads.row)
    layouts, tp = here.layouts, shared(here.layouts.tp)
    return Case(
        tp=tp,
        pp=_factor(layouts.pp),
        shards=layouts.ep,
        experts=Experts(
            logical=subject.experts,
            redundant=_factor(here.redundant(subject)),
            per_rank=_factor(layouts.per_rank),
            ep=_factor(layouts.ep),
            tp=tp,
            busiest=here.busiest,
            imbalance=None if subject.dealer is None else subject.dealer.columns(layouts.ep, layouts.per_rank).skew,
        ),
        tp_links=here.links(subject, "tp"),
        ep_links=here.links(subject, "ep"),
        pp_links=here.links(subject, "pp"),
        stages=_classes(here.stages),
        replicas=shared(loads.replicas),
        micro_batches=_factor(loads.micro_batches),
        concurrency=shared(loads.concurrency),
        input_tokens=workload.input_tokens,
        output_tokens=workload.output_tokens,
        kv_requests=here.kv_requests,
    )


def _factor(column: Ints) -> Column:
    """A column that only ever multiplies times: floating point, so that it is not converted each time."""
    one = shared(column)
    return one if isinstance(one, int) else one.astype(np.float64)


def _classes(stages: StageColumns) -> list[StageClass]:
    """The classes of stages, without those that are like the one before."""
    found: list[StageClass] = []
    before: list[Ints] = []
    for counts, embedding, head in zip(stages.counts, stages.embedding, stages.head, strict=True):
        columns = [*counts, embedding, head]
        if not before or not all(map(np.array_equal, columns, before)):
            found.append(StageClass(tuple(map(_factor, counts)), _factor(embedding), _factor(head)))
        before = columns
    return found
