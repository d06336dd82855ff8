"""Every layout that the algebra allows, in columns, with what its stages hold and how many requests its caches hold."""

from dataclasses import dataclass, fields

import numpy as np

from moe_plan.cost.constants import constants
from moe_plan.memory import Held, requests_held, stage_sizes
from moe_plan.search.arrays import Bools, Floats, Ints, distinct
from moe_plan.search.pipeline import StageColumns, stage_columns
from moe_plan.search.space import Space
from moe_plan.spec import Workload
from moe_plan.stages import layer_costs
from moe_plan.subject import Subject

_BLOCK = 512
"""Candidates, sorted by ep, whose ranks are looked at together, so that few look at more ranks than they have."""


@dataclass(frozen=True, slots=True)
class Layouts:
    """Degrees and experts of candidates, `[candidates]` each."""

    ep: Ints
    tp: Ints
    pp: Ints
    per_rank: Ints
    """Physical experts of a MoE layer on a rank."""

    def __len__(self) -> int:
        return len(self.ep)

    @property
    def world(self) -> Ints:
        """GPUs of a replica."""
        return self.ep * self.tp * self.pp

    def take(self, rows: Ints | Bools) -> "Layouts":
        """Some of the candidates, repeats allowed."""
        return Layouts(self.ep[rows], self.tp[rows], self.pp[rows], self.per_rank[rows])

    def joined(self, other: "Layouts") -> "Layouts":
        """These candidates, then the others."""
        pairs = ((getattr(self, field.name), getattr(other, field.name)) for field in fields(self))
        return Layouts(*map(np.concatenate, pairs))


@dataclass(frozen=True, slots=True)
class Dealt:
    """Candidates dealt over their ranks."""

    layouts: Layouts
    stages: StageColumns
    busiest: Floats
    """Share of a layer's routed tokens that the busiest rank computes."""
    kv_requests: Ints
    """Requests of the workload's length that the KV cache of a shard holds; 0 where a stage does not fit."""
    fits: Bools
    """Whether every stage is within the usable memory."""


def layouts(subject: Subject, space: Space) -> Layouts:
    """All of a space that the algebra allows, with the fewest copies of experts where these are free.

    gpus apart, that is: experts are dealt evenly, tp and pp are of the space, and a replica is a part of a node or
    fills whole nodes. Those whose weights cannot fit are left out. Sorted by GPUs, pp, tp.
    """
    ep, per_rank = _experts(subject, space)
    tp, pp = np.asarray(space.tp), np.asarray(space.pp)
    grid = np.meshgrid(np.arange(len(ep)), tp, pp, indexing="ij")
    row, tps, pps = (axis.ravel() for axis in grid)
    found = Layouts(ep[row], tps, pps, per_rank[row])
    world, per_node = found.world, subject.hardware.gpus_per_node
    found = found.take((world <= space.max_world) & ((world <= per_node) | (world % per_node == 0)))
    found = found.take(weights_may_fit(subject, found))
    return found.take(np.lexsort((found.tp, found.pp, found.world)))


def deal_columns(subject: Subject, candidates: Layouts) -> Dealt:
    """Stages, experts and memory of candidates."""
    tp, per_rank, pp = candidates.tp, candidates.per_rank, candidates.pp
    first, which = distinct(tp, per_rank, pp)
    stages = stage_columns(subject, tp[first], per_rank[first], pp[first]).take(which)
    busiest = dealt_columns(subject, candidates.ep, candidates.per_rank)
    fits, requests = _requests(subject, candidates, stages, busiest, subject.spec.workload)
    return Dealt(candidates, stages, busiest, requests, fits)


def requests_at_any_load(subject: Subject, candidates: Layouts, stages: StageColumns, busiest: Floats) -> Ints:
    """Requests that a shard's KV cache holds beside the buffers that any number of requests at once may need."""
    workload = subject.spec.workload
    most = max(workload.concurrency, subject.limits.max_batch_tokens)
    return _requests(subject, candidates, stages, busiest, workload.model_copy(update={"concurrency": most}))[1]


def dealt_columns(subject: Subject, ep: Ints, per_rank: Ints) -> Floats:
    """`shares.busiest_load` of experts as a plan of each candidate deals them."""
    if subject.dealer is None:
        return busiest_columns(subject.experts, ep, per_rank)
    return subject.dealer.columns(ep, per_rank).busiest


def busiest_columns(logical: int, ep: Ints, per_rank: Ints) -> Floats:
    """`shares.busiest_load` of even dealing, candidate by candidate."""
    first, which = distinct(ep, per_rank)
    blocks = [first[start : start + _BLOCK] for start in range(0, max(1, len(first)), _BLOCK)]
    return np.concatenate([_busiest(logical, ep[block], per_rank[block]) for block in blocks])[which]


def _busiest(logical: int, ep: Ints, per_rank: Ints) -> Floats:
    base, extra = np.divmod(ep * per_rank, logical)
    narrow = np.int32  # half the memory traffic: ranks times experts stay far below 2**31
    rank = np.minimum(np.arange(min(logical, int(ep.max(initial=1))), dtype=narrow), ep[:, None].astype(narrow) - 1)
    start = rank * per_rank[:, None].astype(narrow) % narrow(logical)
    end, first = start + per_rank[:, None].astype(narrow), extra[:, None].astype(narrow)
    among = np.minimum(end, first) - np.minimum(start, first) + np.minimum(np.maximum(end - logical, 0), first)
    fewest = among.min(axis=1)
    return np.asarray((fewest / (base + 1) + (per_rank - fewest) / base) / logical)


def _experts(subject: Subject, space: Space) -> tuple[Ints, Ints]:
    """ep and physical experts a rank: even, and no two copies of an expert on a rank."""
    logical = subject.experts
    ep = np.arange(1, space.max_world + 1) if space.ep is None else np.asarray([space.ep])
    if space.redundant is None:
        return ep, -(-logical // ep)
    physical = logical + space.redundant
    ep = ep[(physical % ep == 0) & (ep <= physical) & (space.redundant <= logical * (ep - 1))]
    return ep, physical // ep


def weights_may_fit(subject: Subject, candidates: Layouts) -> Bools:
    """Whether the average stage's layers alone leave room: the fullest stage holds no less than the average one."""
    formats = subject.shape.formats
    costs = layer_costs(subject.shape, candidates.tp, candidates.per_rank)
    least = sum(costs[kind] * subject.kinds.count(kind) for kind in set(subject.kinds)) / candidates.pp
    if subject.spec.workload.mode == "training":
        widest = max(formats.experts.bytes_per_param, formats.linear.bytes_per_param, formats.other.bytes_per_param)
        least = least * (1 + (constants().gradient_bytes + constants().optimizer_bytes) / widest)
    return np.asarray(least <= subject.hardware.usable_bytes)


def _requests(
    subject: Subject, candidates: Layouts, stages: StageColumns, busiest: Floats, workload: Workload
) -> tuple[Bools, Ints]:
    """Whether every stage fits, and the requests that the KV cache of a shard holds."""
    shape, hardware = subject.shape, subject.hardware
    every = Held(
        ep=candidates.ep,
        tp=candidates.tp,
        pp=candidates.pp,
        experts=subject.experts,
        per_rank=candidates.per_rank,
        busiest=busiest,
        counts=dict(enumerate(np.stack(stages.counts, axis=1))),
        embedding=np.stack(stages.embedding),
        head=np.stack(stages.head),
    )
    sizes = stage_sizes(shape, every, hardware, subject.limits, workload, subject.kv_cache_dtype)
    fit = np.all(sum(sizes.values()) <= hardware.usable_bytes, axis=0)
    held = requests_held(shape, every, sizes["kv_cache"], workload, subject.kv_cache_dtype)
    return fit, np.where(fit, held.min(axis=0), 0).astype(np.int64)
