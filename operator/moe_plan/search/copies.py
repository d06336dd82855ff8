"""More copies of experts than even dealing needs: only for layouts that they could bring among the best.

Copies even out the load of ranks: the busiest rank is dealt a smaller share of the routed tokens, and of that a
smaller multiple by skewed routing. Nothing else of a step becomes less, since each copy takes memory and may have to be
read. With shares a and a' of the routed tokens by dealing, and r and r' by dealing and skew, a step takes at least
g = min(a' / a, r' / r, 1) of its time before: rows computed fall by r' / r; of a layer's weights those are read that a
token reaches, which is a concave function of a; the rest is no shorter. So:

1. A number of copies for which g is 0.99 or more, seen from a smaller number, saves at most 1 % of any step. Such numbers
   are left out, and what a search calls best is the best to within 1 %.
2. With a' and r' at least 1 / ep, an even share, the times of a layout without more copies bound what it could do with
   them. A layout whose bounds are beaten already needs no look; nor does a number of copies whose own bounds are.

The bounds take requests to come no more slowly than before. With steps that grow for other reasons they would, and the
wait for other prompts would shorten a little: what a layout gained by that alone is not looked for.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

import numpy as np

from moe_plan.cost.constants import constants
from moe_plan.cost.kernels import Experts, skew
from moe_plan.model import MoeFfn
from moe_plan.rules import map_fits
from moe_plan.search.arrays import Bools, Floats, Ints, distinct
from moe_plan.search.layouts import Layouts, busiest_columns
from moe_plan.search.rows import Rows, copied_rows
from moe_plan.search.sweep import Loads
from moe_plan.search.swept import Swept, sweep
from moe_plan.shares import layer_kinds
from moe_plan.subject import Subject

_KEPT = 0.99
"""Share of a step's time below which more copies must be able to bring it."""

_KEPT_BY_LOAD = 0.97
"""The same where experts are packed by measured loads, a number of copies after the other."""

_MORE_BY_LOAD = 6
"""Copies a rank beyond the fewest that are then looked at."""

_NEAR = 1.1
"""Multiple of the least share of rows within which a number of copies is tried first."""


@dataclass(frozen=True, slots=True)
class Bounds:
    """What candidates could do at best: of times lower bounds, of rates upper ones. `[candidates]` each."""

    ttft: Floats
    tpot: Floats
    tokens_per_s: Floats
    gpus: Ints
    crowding: Floats
    """Requests for each one that the KV caches hold; beyond 1 the other bounds say nothing."""


Hopeful = Callable[[Bounds], Bools]
"""Which candidates are not yet beaten by what is known, going by their bounds."""


@dataclass(frozen=True, slots=True)
class _Known:
    """What is predicted of rows with some copies, against which those with more are held."""

    swept: Swept
    row: Ints
    """For each row without more copies its row here, or -1."""

    def bounds(self, copied: Swept, parent: Ints) -> Bounds:
        """Bounds on candidates with more copies; none where nothing is known."""
        base, loads, row = self.swept, copied.loads, self.row[parent]
        shares = [_shares_of(copied.subject, layouts) for layouts in (copied.layouts, base.layouts)]
        gain = np.where(row < 0, 0.0, np.minimum(1.0, (shares[0] / shares[1][:, row]).min(axis=0)))
        gain[copied.layouts.per_rank <= base.layouts.per_rank[row]] = 0.0
        found, before = _before(base, loads, row[loads.row], base.layouts.ep)
        bound = np.zeros((2, len(loads)))
        bound[:, found] = np.stack([base.times.ttft, base.times.tpot])[:, before] * gain[loads.row[found]]
        return Bounds(bound[0], bound[1], _rate(copied, *bound), copied.gpus, copied.crowding)


def with_copies(
    rows: Rows,
    base: Swept,
    make_loads: Callable[[Rows], Loads],
    hopeful: Callable[[Swept], Hopeful],
    numbers: Literal["balanced", "all"],
) -> Swept:
    """The candidates of rows, and those with more copies of experts that may be among the best.

    The number of copies that comes near to the best balance is tried first, since what it reaches beats most others,
    and then, if asked for, all others.
    """
    subject, layouts = base.subject, rows.layouts
    if base.space.redundant is not None or not len(base):
        return base
    even = np.minimum(1.0, 1 / layouts.ep / _shares_of(subject, layouts).max(axis=0))[base.loads.row]
    ttft, tpot = even * base.times.ttft, even * base.times.tpot
    judge = hopeful(base)
    hope = judge(Bounds(ttft, tpot, _rate(base, ttft, tpot), base.gpus, base.crowding))
    hopeful_rows = base.loads.row[hope]
    more = _more(subject, layouts, hopeful_rows[distinct(hopeful_rows)[0]])
    known, swept = [_Known(base, np.arange(len(rows)))], base
    for round_number, (parent, per_rank) in enumerate(more if numbers == "all" else more[:1]):
        if round_number:
            judge = hopeful(swept)
        of, copied = copied_rows(subject, base.space, rows, parent, per_rank)
        if not len(copied):
            continue
        found = Swept.without_times(subject, base.space, copied, make_loads(copied))
        kept = judge(_tightest([each.bounds(found, of) for each in known]))
        found = sweep(subject, base.space, copied, found.loads.take(kept))
        here = np.full(len(rows), -1)
        here[of] = np.arange(len(of))
        known.append(_Known(found, here))
        swept = swept.joined(found)
    return swept


def _rate(swept: Swept, ttft: Floats, tpot: Floats) -> Floats:
    """Tokens/s with such times, if all requests are served at once."""
    output = swept.subject.spec.workload.output_tokens
    life = ttft + (output - 1) * tpot
    rate = np.full(len(life), np.inf)
    np.divide(swept.loads.concurrency * output, life, out=rate, where=life > 0)
    return rate


def _tightest(bounds: list[Bounds]) -> Bounds:
    """The tightest of several bounds on the same candidates."""
    first = bounds[0]
    for other in bounds[1:]:
        rate = np.minimum(first.tokens_per_s, other.tokens_per_s)
        first = Bounds(
            np.maximum(first.ttft, other.ttft), np.maximum(first.tpot, other.tpot), rate, first.gpus, first.crowding
        )
    return first


def _before(base: Swept, loads: Loads, parent: Ints, ep: Ints) -> tuple[Ints, Ints]:
    """Which loads are known without more copies, and as which candidates.

    A load is that of the same row, replicas and micro-batches with as many requests a shard, or with the power of two
    below: fewer requests take no longer.
    """
    asked = np.zeros(len(ep) + 1, dtype=np.bool_)
    asked[parent] = True  # -1, a row of which nothing is known, is the last one here
    among = np.flatnonzero(asked[base.loads.row])
    own = _keys(base.loads.take(among), base.loads.row[among], ep)
    order = np.argsort(own, kind="stable")
    wanted = _keys(loads, parent, ep)
    at = np.searchsorted(own[order], wanted)
    known = np.flatnonzero(at < len(order))
    known = known[own[order[at[known]]] == wanted[known]]
    return known, among[order[at[known]]]


def _keys(loads: Loads, row: Ints, ep: Ints) -> Ints:
    """One number for row, replicas, micro-batches and the power of two of the requests a shard."""
    power = np.frexp(loads.concurrency / (ep[row] * loads.replicas))[1] + 32
    micro_batches = np.minimum(loads.micro_batches, 2**14 - 1)
    row = np.maximum(row, -1)
    return np.asarray((((row << 14 | micro_batches) << 11) | np.minimum(loads.replicas, 2**11 - 1)) << 7 | power)


def near_balance(subject: Subject, layouts: Layouts) -> tuple[Ints, Ints]:
    """Rows and the least physical experts a rank beyond theirs that come near to the best balance, where that pays."""
    return _more(subject, layouts, np.arange(len(layouts)))[0]


def _more(subject: Subject, layouts: Layouts, rows: Ints) -> list[tuple[Ints, Ints]]:
    """Rows and physical experts a rank beyond theirs, those of no use left out: first one near the best, then the rest."""
    ep = layouts.ep[rows]
    first, inverse = distinct(ep)
    useful = _useful(subject, tuple(ep[first].tolist()))
    parts = []
    for of_each in useful:
        found = [of_each[number] for number in inverse.tolist()]
        counts = [len(per_rank) for per_rank in found]
        parts.append((np.repeat(rows, counts), np.concatenate(found) if found else rows))
    return parts


def _useful(subject: Subject, eps: tuple[int, ...]) -> tuple[list[Ints], list[Ints]]:
    """As `_useful_evenly`, or by measured loads."""
    if subject.dealer is None:
        return _useful_evenly(subject.experts, _chosen(subject), eps)
    found = [_useful_by_load(subject, ep) for ep in eps]
    return [first for first, _ in found], [rest for _, rest in found]


def _useful_by_load(subject: Subject, ep: int) -> tuple[Ints, Ints]:
    """The same for experts dealt by load, for which the two shares are one, in steps of 3 % instead of 1 %.

    Numbers are looked at one after another, a few at most, until none can save as much: packing takes longer than
    bounding, and copies by load do not need to be many.
    """
    kept: list[tuple[int, float]] = []
    assert subject.dealer is not None
    least = ep * _rows_share(subject, ep, -(-subject.experts // ep))
    fewest = -(-subject.experts // ep)
    for per_rank in range(fewest + 1, min(subject.experts, fewest + _MORE_BY_LOAD) + 1):
        if _KEPT_BY_LOAD * least <= 1 or not map_fits(subject, ep * per_rank):
            break
        share = ep * _rows_share(subject, ep, per_rank)
        if share < _KEPT_BY_LOAD * least:
            kept.append((per_rank, share))
            least = share
    near = [per_rank for per_rank, share in kept if share <= _NEAR * least][:1]
    rest = [per_rank for per_rank, _ in kept if per_rank not in near]
    return np.asarray(near, dtype=np.int64), np.asarray(rest, dtype=np.int64)


def _rows_share(subject: Subject, ep: int, per_rank: int) -> float:
    """Share of the rows that the busiest rank computes."""
    assert subject.dealer is not None
    return subject.dealer.evenness(ep * per_rank - subject.experts, ep).imbalance / ep


@lru_cache(maxsize=64)
def _useful_evenly(experts: int, chosen: tuple[int, ...], eps: tuple[int, ...]) -> tuple[list[Ints], list[Ints]]:
    """Physical experts a rank, beyond the fewest, that bring some step below 0.99 of what any smaller number does.

    For each ep first the least number that is near to the least share, none where there is none, and then the others.
    """
    ep = np.asarray(eps, dtype=np.int64)[:, None]
    per_rank = np.minimum(-(-experts // ep) + np.arange(experts), experts)
    shares = _shares(experts, chosen, np.broadcast_to(ep, per_rank.shape).ravel(), per_rank.ravel())
    shares = shares.reshape(2, *per_rank.shape)
    kept = _lessening(shares)
    near = kept & (shares[1] <= _NEAR * np.where(kept, shares[1], np.inf).min(axis=1, initial=np.inf)[:, None])
    near &= np.cumsum(near, axis=1) == 1
    pairs = list(zip(per_rank, near, kept & ~near, strict=True))
    return [numbers[first] for numbers, first, _ in pairs], [numbers[rest] for numbers, _, rest in pairs]


def _lessening(shares: Floats) -> Bools:
    """Numbers whose shares, `[2, eps, numbers]`, are below 0.99 of any smaller number's, `[eps, numbers]`.

    Smaller numbers are represented by those with the least shares so far, one for dealing and one for routing.
    """
    by_number = np.ascontiguousarray(np.moveaxis(shares, 2, 0))
    kept = np.zeros(by_number[:, 0].shape, dtype=np.bool_)
    least = [by_number[0], by_number[0]]
    for number, share in enumerate(by_number[1:], start=1):
        kept[number] = np.logical_and(*((share < _KEPT * known).any(axis=0) for known in least))
        if kept[number].any():
            least = [
                np.where(kept[number] & (share[kind] < known[kind]), share, known) for kind, known in enumerate(least)
            ]
    return kept.T


def _chosen(subject: Subject) -> tuple[int, ...]:
    """Experts that a token chooses: distinct numbers over the model's layers."""
    return tuple(sorted({kind.ffn.top_k for kind in layer_kinds(subject.shape) if isinstance(kind.ffn, MoeFfn)}))


def _shares_of(subject: Subject, layouts: Layouts) -> Floats:
    if subject.dealer is None:
        return _shares(subject.experts, _chosen(subject), layouts.ep, layouts.per_rank)
    columns = subject.dealer.columns(layouts.ep, layouts.per_rank)
    return np.stack([columns.busiest, columns.busiest * columns.skew])


def _shares(logical: int, chosen: tuple[int, ...], ep: Ints, per_rank: Ints) -> Floats:
    """Shares of the routed tokens that the busiest rank is dealt, and of their rows with skew, `[2, candidates]`."""
    dealt = busiest_columns(logical, ep, per_rank)
    experts = Experts(logical, ep * per_rank - logical, per_rank, ep, 1, dealt)
    skews = [skew(experts, top_k, constants().routing) for top_k in chosen]
    return np.stack([dealt, dealt * np.max(skews, axis=0)])
