"""The best single pool, that prefills and decodes: the same layouts as those of a decode pool, under the same loads.

Its steps take no less than those of a decode pool with as many requests, which are known already. So layouts and batches
whose bare step misses the target for TPOT are left out, and so are those that could not reach what others do if all their
steps were as short. Those of which most may be hoped are looked at first.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from math import inf

import numpy as np

from moe_plan.pools.workers import PoolRows, Workers
from moe_plan.search.arrays import Bools, Floats, Ints
from moe_plan.search.front import rounded
from moe_plan.search.layouts import requests_at_any_load
from moe_plan.search.result import Found
from moe_plan.search.sweep import Loads, at_workload, micro_batched
from moe_plan.search.swept import Swept, sweep

_FIRST = 2000
"""Candidates that are looked at first, for either figure."""


@dataclass(frozen=True, slots=True)
class Singles:
    """Layouts as single pools."""

    at_workload: Swept
    """With the workload's requests, on every number of replicas that can be best."""
    at_any_load: Swept
    """One replica with each batch, as far as it can be best."""

    @classmethod
    def of(cls, pool: PoolRows, decode: Workers) -> "Singles":
        """The layouts of a pool that holds whole requests; `decode` are its workers, one each."""
        loaded = [at_workload(pool.subject, pool.space, rows) for rows in pool.rows]
        first, then = (sweep(pool.subject, pool.space, *pair) for pair in zip(pool.rows, loaded, strict=True))
        return cls(first.joined(then), _at_any_load(pool, decode))

    def best(self) -> Found | None:
        """Within the targets, with up to the workload's requests: the most tokens/s, then the fewest GPUs.

        All of the requests, dealt over replicas, or as many times a replica's batch as there are requests and GPUs for.
        """
        whole, one = self.at_workload, self.at_any_load
        times = _times(one)
        meets = np.concatenate((whole.shortfall == 0, (one.shortfall == 0) & (times > 0)))
        if not meets.any():
            return None
        tokens_per_s = np.concatenate((whole.times.tokens_per_s, one.times.tokens_per_s * times))
        best = _most(tokens_per_s, np.concatenate((whole.gpus, one.gpus * times)), meets)
        if best < len(whole):
            return whole.found(best)
        return _repeated(one.found(best - len(whole)), int(times[best - len(whole)]))

    def densest(self) -> Found | None:
        """Within the targets: the most tokens/s a GPU, whatever the requests."""
        swept = self.at_any_load
        meets = swept.shortfall == 0
        return swept.found(_most(swept.rate, swept.gpus, meets)) if meets.any() else None

    def nearest(self) -> Found | None:
        """With the workload's requests the nearest to the targets; None where no layout fits."""
        swept = self.at_workload
        best = swept.best_first(np.ones(len(swept), dtype=np.bool_), 1)
        return swept.found(int(best[0])) if len(best) else None


def _most(value: Floats, gpus: Ints, among: Bools) -> int:
    """The candidate of most value, of those the one with fewest GPUs."""
    which = np.flatnonzero(among)
    return int(which[np.lexsort((which, gpus[which], -rounded(value[which])))[0]])


def _times(one: Swept) -> Ints:
    """Replicas for which there are GPUs and requests of the workload."""
    concurrency = one.subject.spec.workload.concurrency
    return np.minimum(one.space.max_gpus // one.gpus, concurrency // one.loads.concurrency)


def _at_any_load(pool: PoolRows, decode: Workers) -> Swept:
    """Candidates that may be best in tokens/s or tokens/s a GPU, with their predictions."""
    every = _candidates(pool, decode)
    bound, times = every.bound, every.times
    hopes = (bound / every.gpus, np.where(times > 0, bound * np.maximum(times, 1), 0.0))
    first = np.zeros(len(bound), dtype=np.bool_)
    for hope in hopes:
        first[np.argsort(-hope, kind="stable")[:_FIRST]] = True
    found = every.swept(pool, first)
    met = found.shortfall == 0
    reached = (found.rate * met).max(initial=0.0), (found.times.tokens_per_s * _times(found) * met).max(initial=0.0)
    rest = ~first & np.logical_or(*(hope >= known for hope, known in zip(hopes, reached, strict=True)))
    return found.joined(every.swept(pool, rest))


@dataclass(frozen=True, slots=True)
class _Candidates:
    """Loads of both kinds of rows, those with the fewest copies of experts first."""

    parts: tuple[Loads, Loads]
    bound: Floats
    """Tokens/s if all steps were as short as those of decodes alone."""
    gpus: Ints
    times: Ints

    def swept(self, pool: PoolRows, which: Bools) -> Swept:
        """Predictions of some."""
        ends = (slice(0, len(self.parts[0])), slice(len(self.parts[0]), None))
        first, then = (
            sweep(pool.subject, pool.space, rows, part.take(which[end]))
            for rows, part, end in zip(pool.rows, self.parts, ends, strict=True)
        )
        return first.joined(then)


def _candidates(pool: PoolRows, decode: Workers) -> _Candidates:
    """A replica with each batch of a decode pool's worker whose steps are short enough, and with the most it holds."""
    workload = pool.subject.spec.workload
    steady = decode.take(decode.step_s <= (inf if workload.tpot is None else workload.tpot))
    parts, bounds, gpus = zip(*_parts(pool, steady), strict=True)
    world, requests = np.concatenate(gpus), np.concatenate([part.concurrency for part in parts])
    times = np.minimum(pool.space.max_gpus // world, workload.concurrency // requests)
    return _Candidates((parts[0], parts[1]), np.concatenate(bounds), world, times)


def _parts(pool: PoolRows, steady: Workers) -> Iterator[tuple[Loads, Floats, Ints]]:
    output_tokens = pool.subject.spec.workload.output_tokens
    for of, rows in enumerate(pool.rows):
        own = steady.take(steady.of == of)
        requests = own.batch * rows.layouts.ep[own.row]
        bound = requests * output_tokens / ((output_tokens - 1) * own.step_s)
        held = requests_at_any_load(pool.subject, rows.layouts, rows.stages, rows.busiest)
        row = np.flatnonzero(held)
        full = Loads(row, np.ones_like(row), row, (held * rows.layouts.ep)[row])
        full = micro_batched(pool.subject, pool.space, rows, full)
        loads = Loads(own.row, own.count, own.micro_batches, requests).joined(full, 0)
        yield loads, np.concatenate((bound, np.full(len(full), inf))), rows.layouts.world[loads.row]


def _repeated(found: Found, times: int) -> Found:
    """So many replicas instead of one."""
    return found.model_copy(
        update={
            "replicas": times,
            "gpus": found.gpus * times,
            "concurrency": found.concurrency * times,
            "tokens_per_s": found.tokens_per_s * times,
        }
    )
