"""Why pools are better or worse than a single pool, and why there are none: a sentence each."""

import numpy as np

from moe_plan.cost.pools import Demand
from moe_plan.pools.question import Question
from moe_plan.pools.result import PoolPair
from moe_plan.pools.single import Singles
from moe_plan.pools.workers import Workers
from moe_plan.search.arrays import Floats
from moe_plan.search.compare import describe
from moe_plan.search.result import Found
from moe_plan.units import format_seconds


def why(pools: PoolPair, single: Found, output_tokens: int) -> str:
    """What a request holds of either: GPU-seconds, and how long the steps take that it waits for."""
    prefill, decode = pools.prefill, pools.decode
    alone = single.gpus * output_tokens / single.tokens_per_s
    return (
        f"a request holds {prefill.gpu_s + decode.gpu_s:.3g} GPU-seconds of the pools, {prefill.gpu_s:.3g} to prefill "
        f"(busy {prefill.utilisation:.0%} of the time) and {decode.gpu_s:.3g} to decode, and {alone:.3g} of the single "
        f"pool; a decode step takes {format_seconds(pools.tpot)} for {_requests(decode.batch)} a shard, the single pool's "
        f"mean step, which shares with prompts, {format_seconds(single.tpot)} for {single.batch_per_shard:,}"
    )


def why_no_pair(question: Question, demand: Demand) -> str:
    """What no pair of pools can do, and what comes nearest."""
    prefill, decode, most = question.prefill, question.decode, question.max_gpus
    tpot = question.subject.spec.workload.tpot or float("inf")
    if not len(prefill) or not len(decode):
        pool = "prefill" if not len(prefill) else "decode"
        return f"no layout of up to {most:,} GPUs has room for the KV caches that a {pool} pool holds"
    first_s = prefill.step_s + prefill.moved_s + demand.admission_s + question.link.latency_s
    if first_s.min() > demand.ttft:
        return f"the shortest TTFT of a prefill pool, without a queue, {_nearest(prefill, first_s, demand.ttft)}"
    if decode.step_s.min() > tpot:
        return f"the shortest TPOT of a decode pool {_nearest(decode, decode.step_s, tpot)}"
    need = int(prefill.gpus[first_s <= demand.ttft].min() + decode.gpus[decode.step_s <= tpot].min())
    if need > most:
        return f"two pools, each with the whole model, take at least {need:,} GPUs, and there are {most:,}"
    return "within the target for TTFT no prefill pool has time to send the KV cache to a decode pool that meets TPOT"


def why_no_single(question: Question, singles: Singles) -> str:
    """What comes nearest of the single pools."""
    nearest = singles.nearest()
    assert nearest is not None, "the layouts of decode pools are those of single pools"
    load = question.subject.spec.workload
    reached = f"TTFT {format_seconds(nearest.ttft)} and TPOT {format_seconds(nearest.tpot)}"
    return (
        f"no single pool meets the targets: with {load.concurrency:,} requests at once the nearest, {describe(nearest)}, "
        f"reaches {reached}"
    )


def _nearest(workers: Workers, times: Floats, target: float) -> str:
    best = int(np.argmin(times))
    gpus = f"{workers.gpus[best]:,} GPUs a worker" if workers.gpus[best] > 1 else "1 GPU a worker"
    return f"is {format_seconds(float(times[best]))}, with {gpus}, and misses {format_seconds(target)}"


def _requests(number: int) -> str:
    return "1 request" if number == 1 else f"{number:,} requests"
