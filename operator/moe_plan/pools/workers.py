"""Candidates for the workers of a pool, in columns: every layout that fits, with every batch, and what one worker does."""

from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np

from moe_plan.columns import Column
from moe_plan.cost.kernels import Setting
from moe_plan.cost.pools import decode_pool, decode_s, moved_bytes, moving_s, prefill_pool, prefill_s
from moe_plan.cost.step import Case, Seconds
from moe_plan.hardware import LinkTier
from moe_plan.search.arrays import Bools, Floats, Ints
from moe_plan.search.copies import near_balance
from moe_plan.search.layouts import layouts, requests_at_any_load
from moe_plan.search.rows import Rows, copied_rows, make_rows
from moe_plan.search.space import Space
from moe_plan.search.sweep import CHUNK, Loads, make_cases, make_setting_of, micro_batched
from moe_plan.subject import Subject


@dataclass(frozen=True, slots=True)
class Worker:
    """One candidate of `Workers`, in numbers."""

    of: int
    row: int
    count: int
    micro_batches: int
    batch: int
    gpus: int
    per_s: float
    step_s: float
    moved_s: float


@dataclass(frozen=True, slots=True)
class Workers:
    """Pools of so many equal workers, `[candidates]` each."""

    of: Ints
    """0 for a layout with the fewest copies of experts, 1 for one with more: the index into the rows it is of."""
    row: Ints
    count: Ints
    """Workers."""
    micro_batches: Ints
    batch: Ints
    """Prompts of a shard's step, or requests of a shard."""
    gpus: Ints
    """Of all workers."""
    per_s: Floats
    """Requests a second of all workers that are always busy, or always full."""
    step_s: Floats
    """Of a prefill pool the time of its steps; of a decode pool TPOT."""
    moved_s: Floats
    """Time of sending the KV caches of a step, or of receiving that of a request."""

    def __len__(self) -> int:
        return len(self.row)

    def one(self, number: int) -> Worker:
        """A candidate."""
        return Worker(*(getattr(self, field.name)[number].item() for field in fields(self)))

    def take(self, which: Ints | Bools | slice) -> "Workers":
        """Some of the candidates, repeats allowed."""
        return Workers(*(getattr(self, field.name)[which] for field in fields(self)))

    def times(self, which: Ints | slice, count: Ints) -> "Workers":
        """Some of the candidates, with so many times as many workers."""
        some = self.take(which)
        return replace(some, count=some.count * count, gpus=some.gpus * count, per_s=some.per_s * count)

    def joined(self, other: "Workers") -> "Workers":
        """These candidates, then the others."""
        pairs = ((getattr(self, field.name), getattr(other, field.name)) for field in fields(self))
        return Workers(*map(np.concatenate, pairs))


@dataclass(frozen=True, slots=True)
class PoolRows:
    """The layouts of a pool's workers."""

    subject: Subject
    """With the lengths that the pool holds."""
    space: Space
    rows: tuple[Rows, Rows]
    """With the fewest copies of experts, and with those that come near to the best balance."""


def holding_prompts(subject: Subject) -> Subject:
    """The same subject for a pool whose shards hold the KV caches of prompts alone, and of a prompt at least."""
    spec, limits = subject.spec, subject.limits
    workload = spec.workload.model_copy(update={"output_tokens": 1})
    longest = spec.serving.max_model_length or workload.input_tokens + 1
    changed = subject.deployment.model_copy(update={"spec": spec.model_copy(update={"workload": workload})})
    return replace(subject, deployment=changed, limits=limits.model_copy(update={"max_model_length": longest}))


def packs(gpus: Any, per_node: int) -> Any:
    """Whether workers of so many GPUs fill whole nodes or part a node evenly; a number, or a column of them."""
    return (per_node % gpus == 0) | (gpus % per_node == 0)


def pool_rows(subject: Subject, space: Space) -> PoolRows:
    """Layouts of which a shard holds whole requests: workers that fill whole nodes, or so many a node."""
    candidates = layouts(subject, space)
    rows = make_rows(subject, space, candidates.take(packs(candidates.world, subject.hardware.gpus_per_node)))
    if space.redundant is not None or not len(rows):
        return PoolRows(subject, space, (rows, rows.take(np.zeros(0, dtype=np.int64))))
    _, copied = copied_rows(subject, space, rows, *near_balance(subject, rows.layouts))
    return PoolRows(subject, space, (rows, copied))


def prefill_workers(pool: PoolRows, over: LinkTier) -> Workers:
    """One worker of each layout with each number of prompts a step that its tokens and its KV cache allow.

    The cache holds the prompts of a step and those of the one before, which are being sent.
    """
    setting = make_setting_of(pool.subject)
    within = max(1, setting.step_tokens // pool.subject.spec.workload.input_tokens)

    def one_worker(of: int, rows: Rows) -> Workers:
        loads = at_each_batch(pool, rows, np.minimum(within, rows.kv_requests // 2))
        batch = loads.concurrency // rows.layouts.ep[loads.row]
        step_s, moved_s = _steps(pool.subject, setting, rows, loads, over, prefill_s)
        worker = prefill_pool(1, rows.layouts.ep[loads.row], batch, step_s, moved_s * batch)
        return _workers(of, rows, loads, batch, worker.per_s, worker.step_s, worker.sent_s)

    return _of_both(pool, one_worker)


def decode_workers(pool: PoolRows, over: LinkTier) -> Workers:
    """One worker of each layout with each number of requests a shard, for which and for one that arrives it has room."""
    subject = pool.subject
    setting, output_tokens = make_setting_of(subject), subject.spec.workload.output_tokens

    def one_worker(of: int, rows: Rows) -> Workers:
        held = requests_at_any_load(subject, rows.layouts, rows.stages, rows.busiest)
        loads = at_each_batch(pool, rows, np.minimum(subject.limits.max_batch_tokens, held - 1))
        batch = loads.concurrency // rows.layouts.ep[loads.row]
        tpot, received_s = _steps(subject, setting, rows, loads, over, decode_s)
        worker = decode_pool(1, rows.layouts.ep[loads.row], batch, tpot, received_s, output_tokens)
        return _workers(of, rows, loads, batch, worker.per_s, tpot, received_s)

    return _of_both(pool, one_worker)


def ladder(most: int) -> Ints:
    """Batches that are looked at: all up to 8, then four to each doubling, and the most."""
    octaves = range(1, max(1, most.bit_length()))
    steps = [*range(1, 9), *(quarter << octave for octave in octaves for quarter in (5, 6, 7, 8))]
    return np.asarray([*(step for step in steps if step < most), *([most] if most > 0 else [])], dtype=np.int64)


def at_each_batch(pool: PoolRows, rows: Rows, most: Ints) -> Loads:
    """Each row with each batch up to the most that it takes, and that; with each number of micro-batches."""
    batches = np.minimum(ladder(int(most.max(initial=0))), most[:, None])
    fresh = batches > 0
    fresh[:, 1:] &= batches[:, 1:] > batches[:, :-1]
    row, rung = np.nonzero(fresh)
    requests = batches[row, rung] * rows.layouts.ep[row]
    return micro_batched(pool.subject, pool.space, rows, Loads(row, np.ones_like(row), row, requests))


def _steps(
    subject: Subject,
    setting: Setting,
    rows: Rows,
    loads: Loads,
    over: LinkTier,
    step: Callable[[Setting, Case, Column], Seconds],
) -> tuple[Floats, Floats]:
    """Time of a step of each load, and of moving one prompt's KV cache."""
    steps, moves = [np.zeros(0)], [np.zeros(0)]
    tokens = subject.spec.workload.input_tokens
    for start in range(0, len(loads), CHUNK):
        part = loads.take(slice(start, start + CHUNK))
        case = make_cases(subject, rows, part)
        steps.append(np.broadcast_to(step(setting, case, part.concurrency // case.shards).total, len(part)))
        moved = moving_s(moved_bytes(setting, case.tp, case.stages, tokens), over, setting.constants)
        moves.append(np.broadcast_to(moved, len(part)))
    return np.concatenate(steps), np.concatenate(moves)


def _workers(of: int, rows: Rows, loads: Loads, batch: Ints, per_s: Floats, step_s: Floats, moved_s: Floats) -> Workers:
    gpus = rows.layouts.world[loads.row]
    return Workers(
        np.full_like(gpus, of), loads.row, loads.replicas, loads.micro_batches, batch, gpus, per_s, step_s, moved_s
    )


def _of_both(pool: PoolRows, one_worker: Callable[[int, Rows], Workers]) -> Workers:
    first, second = (one_worker(of, rows) for of, rows in enumerate(pool.rows))
    return first.joined(second)
