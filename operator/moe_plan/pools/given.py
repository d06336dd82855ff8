"""Two pools that somebody has in mind: proved as two manifests would be, and predicted with the batches that suit best."""

from dataclasses import dataclass, replace

from moe_plan.errors import ManifestError, Violation
from moe_plan.planner import reasons
from moe_plan.pools.workers import PoolRows, Workers, holding_prompts, packs, pool_rows
from moe_plan.search.arrays import Ints
from moe_plan.search.space import FIELDS, space
from moe_plan.spec import MAX_GPUS
from moe_plan.subject import Subject


@dataclass(frozen=True, slots=True)
class GivenPool:
    """Degrees and number of a pool's workers."""

    name: str
    """prefill or decode."""
    ep: int
    tp: int = 1
    pp: int = 1
    redundant: int = 0
    workers: int = 1


def given_rows(subject: Subject, pool: GivenPool) -> PoolRows:
    """The one layout of a given pool. Raises ManifestError with each reason why it cannot work."""
    degrees = {"ep": pool.ep, "tp": pool.tp, "pp": pool.pp, "redundant_experts": pool.redundant, "gpus": None}
    spec = subject.spec
    spec = spec.model_copy(update={"parallelism": spec.parallelism.model_copy(update=degrees), "replicas": 1})
    own = replace(subject, deployment=subject.deployment.model_copy(update={"spec": spec}))
    if pool.name == "prefill":
        own = holding_prompts(own)
    found = [_of_pool(violation, pool) for violation in reasons(own)] or list(_size_rules(own, pool))
    if found:
        raise ManifestError(tuple(found))
    return pool_rows(own, space(own, MAX_GPUS, [field for field in FIELDS if field != "microBatches"]))


def in_number(workers: Workers, pool: GivenPool) -> Workers:
    """As many of each candidate as the pool has workers."""
    every: Ints = workers.row * 0 + pool.workers
    return workers.times(slice(None), every)


def _size_rules(subject: Subject, pool: GivenPool) -> list[Violation]:
    world, per_node = pool.ep * pool.tp * pool.pp, subject.hardware.gpus_per_node
    found = []
    if not packs(world, per_node):
        message = f"workers of {world:,} GPUs neither fill nodes of {per_node} nor part them evenly"
        found.append(Violation(pool.name, "WorkersDoNotPack", message, "choose degrees whose product does"))
    if world * pool.workers > MAX_GPUS:
        message = f"{pool.workers:,} workers of {world:,} GPUs are {world * pool.workers:,}; at most {MAX_GPUS:,} are looked at"
        found.append(Violation(pool.name, "TooManyGpus", message))
    return found


def _of_pool(violation: Violation, pool: GivenPool) -> Violation:
    """A manifest's violation as one of a pool."""
    field = violation.field.replace("spec.parallelism", pool.name, 1)
    return replace(violation, field=field)
