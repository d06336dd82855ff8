"""The best pair of pools: which workers, how many of each, and the requests a second at which they meet the targets.

What beats a candidate in a pool beats it in every pair, so most candidates are left out before pairs are looked at:

1. Of workers with as many GPUs only those are kept that no other beats in rate, time of a step and time of moving a KV
   cache at once: each bound on the rate of a pair (`cost.pools.requests_per_s`) loosens with either.
2. With a bound on the requests at once no pair is faster than its longest-lived request allows. Decode pools that could
   be faster are no better for it, and are beaten by those with fewer GPUs.
3. Decode pools are taken in the order of a bound on what any prefill pool makes of them, until that bound is below what
   some pair does already.
"""

from collections.abc import Callable
from dataclasses import dataclass
from math import inf

import numpy as np

from moe_plan.cost.pools import Decode, Demand, Prefill, requests_per_s
from moe_plan.hardware import LinkTier
from moe_plan.pools.workers import Workers
from moe_plan.search.arrays import Floats, Ints
from moe_plan.search.front import front, rounded

_PAIRS = 2**18
"""Pairs that are looked at together."""

_LEAST = 1e-12
"""Worth below which nothing is served."""

_KNOWN = 256
"""Decode pools with fewer GPUs that others are held against: any number of them is right."""

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
    hope = _Hope.of(prefill, decode, link, demand, value)
    decode_bound = hope.of_decode
    order = _needed(decode, hope.fastest) if demand.concurrency < inf else np.arange(len(decode))
    order = order[np.argsort(-decode_bound[order], kind="stable")]
    best, best_key, done = None, (0.0, 0.0), 0
    while done < len(order) and decode_bound[order[done]] >= max(best_key[0], _LEAST):
        rows = np.flatnonzero(hope.of_prefill(decode.take(order[done:])) >= best_key[0])
        some = order[done : done + max(1, _PAIRS // max(1, len(rows)))]
        done += len(some)
        if not len(rows):
            break
        per_s, gpus = _grid(prefill.take(rows), decode.take(some), link, demand)
        key, at = _first(np.where(gpus <= max_gpus, rounded(value(per_s, gpus)), 0.0), gpus)
        if key > best_key:
            best_key = key
            best = Pair(int(rows[at // len(some)]), int(some[at % len(some)]), float(per_s.ravel()[at]))
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


@dataclass(frozen=True, slots=True)
class _Hope:
    """What pools could be worth beside one that is in each figure as good as the best of any."""

    prefill: Workers
    decode: Workers
    value: Value
    prefill_per_s: Floats
    """Requests a second of each prefill pool with such a decode pool, and the other way round."""
    decode_per_s: Floats
    unbound_per_s: Floats
    """Of each prefill pool with as many requests at once as come."""

    @classmethod
    def of(cls, prefill: Workers, decode: Workers, link: LinkTier, demand: Demand, value: Value) -> "_Hope":
        ideal_prefill = Prefill(prefill.per_s.max(), prefill.step_s.min(), 0.0)
        ideal_decode = Decode(inf, decode.step_s.min(), 0.0)
        own = Prefill(prefill.per_s, prefill.step_s, prefill.moved_s)
        rates = (
            requests_per_s(own, ideal_decode, link, demand),
            requests_per_s(ideal_prefill, as_decode(decode), link, demand),
            requests_per_s(own, ideal_decode, link, demand.with_any_load()),
        )
        return cls(prefill, decode, value, *(np.asarray(rate) for rate in rates))

    @property
    def fastest(self) -> float:
        """No pair serves more requests a second."""
        return float(self.decode_per_s.max())

    @property
    def of_decode(self) -> Floats:
        """No pair of each decode pool is worth more."""
        densest = float((self.unbound_per_s / self.prefill.gpus).max())
        return self._worth(self.decode_per_s, self.decode.gpus, int(self.prefill.gpus.min()), densest)

    def of_prefill(self, decode: Workers) -> Floats:
        """No pair of each prefill pool with one of some decode pools is worth more."""
        densest = float((decode.per_s / decode.gpus).max())
        return self._worth(self.prefill_per_s, self.prefill.gpus, int(decode.gpus.min()), densest)

    def _worth(self, per_s: Floats, gpus: Ints, others: int, densest: float) -> Floats:
        """As if the other pool took no more GPUs than the densest of any would for the rate."""
        if densest == 0:
            return np.zeros(len(per_s))
        return rounded(self.value(per_s, gpus + np.maximum(others, per_s / densest)))


def _needed(decode: Workers, fastest: float) -> Ints:
    """Decode pools that none with fewer GPUs beats, where nothing is faster than so many requests a second."""
    per_s = np.minimum(decode.per_s, fastest)
    figures = np.stack([-per_s, decode.step_s, decode.moved_s])
    kept = np.zeros(0, dtype=np.int64)
    for gpus in np.unique(decode.gpus):
        same = np.flatnonzero(decode.gpus == gpus)
        known = figures[:, kept[:_KNOWN], None]
        beaten = (known <= figures[:, None, same]).all(axis=0).any(axis=0)
        kept = np.concatenate((kept, same[~beaten]))
    return kept
