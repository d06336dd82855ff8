"""The answer of `moe search --pools`: the best pair of prefill and decode pools beside the best single pool."""

from collections.abc import Sequence
from dataclasses import dataclass
from math import inf
from typing import TYPE_CHECKING, Any

from moe_plan.cost.pools import Demand, network
from moe_plan.errors import ManifestError, Violation
from moe_plan.hardware import LinkTier
from moe_plan.pools.given import GivenPool, given_rows, in_number
from moe_plan.pools.match import Value, best_pair, density, multiplied, total, unbeaten
from moe_plan.pools.question import Question, ask, demand_of
from moe_plan.pools.result import Comparison, PoolPair, PoolsResult
from moe_plan.pools.single import Singles
from moe_plan.pools.tell import pool_pair
from moe_plan.pools.why import why, why_no_pair, why_no_single
from moe_plan.pools.workers import Workers, decode_workers, prefill_workers
from moe_plan.search.compare import gpus_of, refuse_kept, target_of
from moe_plan.search.result import Found
from moe_plan.search.space import Field
from moe_plan.spec import MAX_GPUS, MoEDeployment
from moe_plan.subject import Subject, resolve

if TYPE_CHECKING:
    from moe_plan.loads import ExpertLoads


@dataclass(frozen=True, slots=True)
class _Pools:
    """Pools of every number of workers, within the target for TPOT; what others beat is left out."""

    question: Question
    prefill: Workers
    decode: Workers

    def best(self, demand: Demand, value: Value, max_gpus: int) -> PoolPair | None:
        """The pair of most value under a demand."""
        pair = best_pair(self.prefill, self.decode, self.question.link, demand, max_gpus, value)
        if pair is None:
            return None
        prefill, decode = self.prefill.one(pair.prefill), self.decode.one(pair.decode)
        return pool_pair(self.question, prefill, decode, pair.per_s, demand)


def compare_pools(
    deployment: MoEDeployment,
    config: dict[str, Any] | None = None,
    gpus: int | None = None,
    keep: Sequence[Field] = (),
    given: tuple[GivenPool, GivenPool] | None = None,
    loads: "ExpertLoads | None" = None,
) -> PoolsResult:
    """Search prefill and decode pools for a manifest, with every layout in either, on at most so many GPUs together.

    Without `gpus` they are as many as the manifest asks for. `given` are a prefill and a decode pool to predict besides,
    `loads` measured expert loads. Raises ManifestError where no layout holds the model, where neither pools nor a
    single pool meet the targets, where the hardware has no link between nodes, where nothing is decoded, and for given
    pools that cannot work.
    """
    subject = resolve(deployment, config, loads)
    refuse_kept(subject, keep)
    link = _link(subject)
    most = gpus or gpus_of(subject)
    asked = None if given is None else _given(subject, link, given)
    question = ask(subject, link, most, keep)
    pools, singles = _unbeaten(question), Singles.of(question.decode_rows, question.decode)
    workload = subject.spec.workload
    loaded = _compared(pools, demand_of(subject, workload.concurrency), total, singles.best(), singles)
    dense = _compared(pools, demand_of(subject, inf), density, singles.densest(), singles)
    if dense.pools is None and dense.single is None:
        raise ManifestError((_out_of_reach(question, singles),))
    return PoolsResult(
        name=deployment.metadata.name,
        model=subject.shape.name,
        hardware=subject.hardware.name,
        engine=subject.spec.runtime.engine,
        workload=target_of(subject),
        max_gpus=most,
        kept=tuple(keep),
        pairs=len(pools.prefill) * len(pools.decode),
        at_workload=loaded,
        at_any_load=dense,
        given=asked,
    )


def _unbeaten(question: Question) -> _Pools:
    tpot = question.subject.spec.workload.tpot
    steady = question.decode.take(question.decode.step_s <= (inf if tpot is None else tpot))
    prefill, decode = (
        unbeaten(multiplied(unbeaten(workers), question.max_gpus)) for workers in (question.prefill, steady)
    )
    return _Pools(question, prefill, decode)


def _compared(pools: _Pools, demand: Demand, value: Value, single: Found | None, singles: Singles) -> Comparison:
    """The pair of most value beside the best single pool under the same load."""
    question = pools.question
    pair = pools.best(demand, value, question.max_gpus)
    if pair is None or single is None:
        reasons = ([] if pair else [why_no_pair(question, demand)]) + (
            [] if single else [why_no_single(question, singles)]
        )
        return Comparison(pools=pair, single=single, gain=None, why="; ".join(reasons))
    figure = "tokens_per_s_per_gpu" if value is density else "tokens_per_s"
    gain = getattr(pair, figure) / getattr(single, figure) - 1
    return Comparison(pools=pair, single=single, gain=gain, why=why(pair, single, demand.output_tokens))


def _given(subject: Subject, link: LinkTier, given: tuple[GivenPool, GivenPool]) -> PoolPair:
    """Given pools with the batches that serve most; with such as miss a target where none meet them."""
    rows = [given_rows(subject, pool) for pool in given]
    prefill, decode = prefill_workers(rows[0], link), decode_workers(rows[1], link)
    pools = _Pools(
        Question(subject, MAX_GPUS, link, rows[0], rows[1], prefill, decode),
        in_number(prefill, given[0]),
        in_number(decode, given[1]),
    )
    if not len(prefill) or not len(decode):
        pool = given[0] if not len(prefill) else given[1]
        message = "a shard's KV cache has no room for a request and the next"
        raise ManifestError((Violation(pool.name, "NoRoomForRequests", message, "choose more GPUs a worker"),))
    demand = demand_of(subject, subject.spec.workload.concurrency)
    tpot = inf if subject.spec.workload.tpot is None else subject.spec.workload.tpot
    steady = _Pools(pools.question, pools.prefill, pools.decode.take(pools.decode.step_s <= tpot))
    found = steady.best(demand, total, 2 * MAX_GPUS) or pools.best(demand.without_target(), total, 2 * MAX_GPUS)
    assert found is not None, "without targets some request is served"
    return found


def _link(subject: Subject) -> LinkTier:
    """The tier that KV caches cross. Raises ManifestError without one, and where there is nothing to serve or decode."""
    link, workload = network(subject.hardware), subject.spec.workload
    found = []
    if link is None:
        found.append(
            Violation(
                "spec.hardware.spec.links",
                "NoClusterLink",
                "KV caches go from the prefill pool to the decode pool between nodes, and the hardware has no link for it",
                "add one: {scope: cluster, bandwidth: …, latency: …}",
            )
        )
    if workload.output_tokens == 1:
        message = "the prefill pool computes a request's first token, so that a decode pool would be idle"
        found.append(Violation("spec.workload.outputTokens", "NothingToDecode", message, "set it to 2 or more"))
    if workload.mode == "training":
        message = "prefill and decode pools are for serving"
        found.append(Violation("spec.workload.mode", "NothingToServe", message, "set it to serving"))
    if found or link is None:
        raise ManifestError(tuple(found))
    return link


def _out_of_reach(question: Question, singles: Singles) -> Violation:
    demand = demand_of(question.subject, inf)
    message = (
        f"neither pools nor a single pool of up to {question.max_gpus:,} GPUs meet the targets: "
        f"{why_no_pair(question, demand)}; {why_no_single(question, singles)}"
    )
    return Violation("spec.workload", "TargetsOutOfReach", message, "relax the targets, or give more GPUs with --gpus")
