"""A pair of pools as it is told: layouts, times and their parts, what either pool holds for each request."""

from dataclasses import replace
from math import inf

from moe_plan.cost.pools import Decode, Demand, FirstToken, Prefill, first_token
from moe_plan.pools.question import Question
from moe_plan.pools.result import FirstTokenParts, Pool, PoolPair
from moe_plan.pools.workers import PoolRows, Worker

_ALIKE = 1 + 1e-9
"""How much a target is exceeded by the last digits of a root."""


def pool_pair(question: Question, prefill: Worker, decode: Worker, per_s: float, demand: Demand) -> PoolPair:
    """Two pools at so many requests a second."""
    workload = question.subject.spec.workload
    of, then = (
        Prefill(prefill.per_s, prefill.step_s, prefill.moved_s),
        Decode(decode.per_s, decode.step_s, decode.moved_s),
    )
    life_s = (workload.output_tokens - 1) * decode.step_s
    parts = _with_all(first_token(of, then, per_s, question.link, demand), per_s, life_s, demand)
    gpus = prefill.gpus + decode.gpus
    tokens_per_s = per_s * workload.output_tokens
    in_time = workload.ttft is None or parts.total <= workload.ttft * _ALIKE
    steady = workload.tpot is None or decode.step_s <= workload.tpot
    return PoolPair(
        prefill=_pool(question.prefill_rows, prefill, per_s),
        decode=_pool(question.decode_rows, decode, per_s),
        gpus=gpus,
        concurrency=per_s * (parts.total + life_s),
        requests_per_s=per_s,
        ttft=parts.total,
        ttft_parts=_parts(parts),
        tpot=decode.step_s,
        tokens_per_s=tokens_per_s,
        tokens_per_s_per_gpu=tokens_per_s / gpus,
        meets=in_time and steady,
    )


def _with_all(parts: FirstToken, per_s: float, life_s: float, demand: Demand) -> FirstToken:
    """The same with the rest of the requests waiting for room in the decode pool, where the target leaves time for it."""
    if demand.concurrency == inf:
        return parts
    longer_s = demand.concurrency / per_s - life_s - parts.total
    if longer_s < 0 or parts.total + longer_s > demand.ttft:
        return parts
    return replace(parts, queueing_s=parts.queueing_s + longer_s)


def _pool(of: PoolRows, worker: Worker, per_s: float) -> Pool:
    rows = of.rows[worker.of]
    layouts, row = rows.layouts, worker.row
    ep, tp, pp, per_rank = (int(column[row]) for column in (layouts.ep, layouts.tp, layouts.pp, layouts.per_rank))
    return Pool(
        ep=ep,
        tp=tp,
        pp=pp,
        workers=worker.count,
        gpus=worker.gpus,
        redundant_experts=ep * per_rank - of.subject.experts,
        rank_order=of.space.rank_orders[int(rows.order[row])],
        micro_batches=worker.micro_batches,
        batch=worker.batch,
        step_s=worker.step_s,
        moved_s=worker.moved_s,
        utilisation=per_s / worker.per_s,
        gpu_s=worker.gpus / per_s,
    )


def _parts(parts: FirstToken) -> FirstTokenParts:
    return FirstTokenParts(
        prefill=float(parts.prefill_s),
        admission=float(parts.admission_s),
        queueing=float(parts.queueing_s),
        transfer=float(parts.transfer_s),
    )
