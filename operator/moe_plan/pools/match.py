"""The best pair of pools: which workers, how many of each, and the requests a second at which they meet the targets.

What beats a candidate in a pool beats it in every pair, so most candidates are left out before pairs are looked at:

1. Of workers with as many GPUs only those are kept that no other beats in rate, time of a step and time of moving a KV
   cache at once: each bound on the rate of a pair (`cost.pools.requests_per_s`) loosens with either.
2. Decode pools are taken in the order of a bound on what any prefill pool makes of them, until that bound is below what
   some pair does already.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from moe_plan.cost.pools import Decode, Demand, Prefill, requests_per_s
from moe_plan.hardware import LinkTier
from moe_plan.pools.workers import Workers
from moe_plan.search.arrays import Floats, Ints
from moe_plan.search.front import front, rounded

_PAIRS = 2**18
"""Pairs that are looked at together."""

Value = Callable[[Floats, Floats | Ints], Floats]
"""What is to be most, of requests a second and GPUs."""


@dataclass(frozen=True, slots=True)
class Pair:
    """Two pools: candidates by number, and the requests a second that they serve within the targets."""

    prefill: int
    decode: int
    per_s: float


def unbeaten(workers: Workers) -> Workers:
    """Those that none with as many GPUs beats in rate, step and moving at once."""
    kept = [np.zeros(0, dtype=np.int64)]
    for gpus in np.unique(workers.gpus):
        same = np.flatnonzero(workers.gpus == gpus)
        kept.append(same[front(workers.per_s[same], workers.step_s[same], workers.moved_s[same])])
    return workers.take(np.concatenate(kept))


def multiplied(workers: Workers, max_gpus: int) -> Workers:
    """Pools of one worker, of two, and so on, up to so many GPUs."""
    most = max_gpus // workers.gpus
    which = np.repeat(np.arange(len(workers)), most)
    count = np.arange(len(which)) - np.repeat(np.cumsum(most) - most, most) + 1
    return workers.times(which, count)


def total(per_s: Floats, _gpus: Floats | Ints) -> Floats:
    """Requests a second of the pair."""
    return per_s


def density(per_s: Floats, gpus: Floats | Ints) -> Floats:
    """Requests a second and GPU."""
    return per_s / gpus


def best_pair(
    prefill: Workers, decode: Workers, link: LinkTier, demand: Demand, max_gpus: int, value: Value
) -> Pair | None:
    """The pair of most value, of those the one with fewest GPUs; None where none serves a request within the targets."""
    if not len(prefill) or not len(decode):
        return None
    bound = _bound(prefill, decode, link, demand, value)
    order = np.argsort(-bound, kind="stable")
    best, best_key = None, (0.0, 0.0)
    chunk = max(1, _PAIRS // len(prefill))
    for start in range(0, len(order), chunk):
        some = order[start : start + chunk]
        if bound[some[0]] < best_key[0]:
            break
        per_s, gpus = _grid(prefill, decode.take(some), link, demand)
        worth = np.where(gpus <= max_gpus, rounded(value(per_s, gpus)), 0.0)
        key, at = _first(worth, gpus)
        if key > best_key:
            best_key = key
            best = Pair(int(at // len(some)), int(some[at % len(some)]), float(per_s.ravel()[at]))
    return best


def as_prefill(of: Workers) -> Prefill:
    """A column of candidates `[candidates, 1]`."""
    return Prefill(of.per_s[:, None], of.step_s[:, None], of.moved_s[:, None])


def as_decode(of: Workers) -> Decode:
    """A row of candidates `[candidates]`."""
    return Decode(of.per_s, of.step_s, of.moved_s)


def _grid(prefill: Workers, decode: Workers, link: LinkTier, demand: Demand) -> tuple[Floats, Ints]:
    """Requests a second and GPUs of each pair, `[prefill, decode]`."""
    per_s = requests_per_s(as_prefill(prefill), as_decode(decode), link, demand)
    return np.asarray(per_s), prefill.gpus[:, None] + decode.gpus


def _first(worth: Floats, gpus: Ints) -> tuple[tuple[float, float], int]:
    """The greatest worth, of those the fewest GPUs, of those the first: key and place."""
    most = worth.max()
    few = np.where(worth == most, gpus, np.inf)
    at = int(few.argmin())
    return (float(most), -float(few.ravel()[at])), at


def _bound(prefill: Workers, decode: Workers, link: LinkTier, demand: Demand, value: Value) -> Floats:
    """No pair of a decode pool is worth more: with a prefill pool that is in each figure as good as the best of any.

    It has the highest rate and the shortest step, sends in no time, and needs no more GPUs than the densest pool would
    for the rate.
    """
    ideal = Prefill(prefill.per_s.max(), prefill.step_s.min(), 0.0)
    per_s = np.asarray(requests_per_s(ideal, as_decode(decode), link, demand))
    least = np.maximum(prefill.gpus.min(), per_s / (prefill.per_s / prefill.gpus).max())
    return rounded(value(per_s, decode.gpus + least))
