"""The best single pool, that prefills and decodes: the same layouts as those of a decode pool, under the same loads."""

from dataclasses import dataclass

import numpy as np

from moe_plan.pools.workers import PoolRows, at_each_batch
from moe_plan.search.front import rounded
from moe_plan.search.layouts import requests_at_any_load
from moe_plan.search.result import Found
from moe_plan.search.rows import Rows
from moe_plan.search.sweep import Loads, at_workload
from moe_plan.search.swept import Swept, sweep


@dataclass(frozen=True, slots=True)
class Singles:
    """Every layout as a single pool."""

    at_workload: Swept
    """With the workload's requests, on every number of replicas that can be best."""
    at_any_load: Swept
    """One replica with every batch."""

    @classmethod
    def of(cls, pool: PoolRows) -> "Singles":
        """The layouts of a pool that holds whole requests."""
        loaded = [at_workload(pool.subject, pool.space, rows) for rows in pool.rows]
        return cls(_swept(pool, loaded), _swept(pool, [_at_each_batch(pool, rows) for rows in pool.rows]))

    def best(self) -> Found | None:
        """Within the targets, with up to the workload's requests: the most tokens/s, then the fewest GPUs.

        All of the requests, dealt over replicas, or as many times a replica's batch as there are requests and GPUs for.
        """
        whole, one = self.at_workload, self.at_any_load
        concurrency = whole.subject.spec.workload.concurrency
        times = np.minimum(whole.space.max_gpus // one.gpus, concurrency // one.loads.concurrency)
        meets = np.concatenate(((whole.shortfall == 0), (one.shortfall == 0) & (times > 0)))
        if not meets.any():
            return None
        tokens_per_s = np.concatenate((whole.times.tokens_per_s, one.times.tokens_per_s * times))
        gpus = np.concatenate((whole.gpus, one.gpus * times))
        which = np.flatnonzero(meets)
        best = int(which[np.lexsort((which, gpus[which], -rounded(tokens_per_s[which])))[0]])
        return (
            whole.found(best)
            if best < len(whole)
            else _repeated(one.found(best - len(whole)), int(times[best - len(whole)]))
        )

    def densest(self) -> Found | None:
        """Within the targets: the most tokens/s a GPU, whatever the requests."""
        swept = self.at_any_load
        met = np.flatnonzero(swept.shortfall == 0)
        if not len(met):
            return None
        return swept.found(int(met[np.lexsort((met, swept.gpus[met], -rounded(swept.rate[met])))[0]]))

    def nearest(self) -> Found | None:
        """With the workload's requests the nearest to the targets; None where no layout fits."""
        swept = self.at_workload
        best = swept.best_first(np.ones(len(swept), dtype=np.bool_), 1)
        return swept.found(int(best[0])) if len(best) else None


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


def _at_each_batch(pool: PoolRows, rows: Rows) -> Loads:
    held = requests_at_any_load(pool.subject, rows.layouts, rows.stages, rows.busiest)
    return at_each_batch(pool, rows, held)


def _swept(pool: PoolRows, loads: list[Loads]) -> Swept:
    first, second = (sweep(pool.subject, pool.space, rows, some) for rows, some in zip(pool.rows, loads, strict=True))
    return first.joined(second)
