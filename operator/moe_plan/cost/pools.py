"""Prefill and decode on GPUs of their own: steps of either pool, the KV cache's way between them, the queue, the rate.

A prompt waits for the prefill pool, is computed there beside prompts only, and its KV cache is sent to a shard of the
decode pool, whose steps compute no prompts. Both pools pass the same requests, so the slower one sets the rate (rate
matching: DistServe, arXiv 2401.09670, section 4). Figures may be columns of candidates that broadcast with each other.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from moe_plan.columns import Column, ceil, maximum, minimum, where
from moe_plan.cost.constants import Constants
from moe_plan.cost.kernels import Load, Setting
from moe_plan.cost.step import Case, Seconds, StageClass, step_s
from moe_plan.hardware import Hardware, LinkTier
from moe_plan.kv import fixed_bytes, growing_bytes
from moe_plan.shares import layer_kinds


@dataclass(frozen=True, slots=True)
class Prefill:
    """A prefill pool: all of its workers, with so many prompts in a step of a shard."""

    per_s: Column
    """Prompts a second when it always computes."""
    step_s: Column
    """Time of a step: arithmetic, or sending what the step before computed where that takes longer."""
    sent_s: Column
    """Time of sending the KV caches of a step from the rank that sends most."""


@dataclass(frozen=True, slots=True)
class Decode:
    """A decode pool: all of its workers, with so many requests on a shard."""

    per_s: Column
    """Requests a second that end when all shards are full."""
    tpot: Column
    received_s: Column
    """Time of receiving the KV cache of a prompt on the rank that receives most."""


@dataclass(frozen=True, slots=True)
class Demand:
    """What is asked of two pools."""

    output_tokens: int
    admission_s: float
    """Time of a first token beside queue, steps and transfer."""
    ttft: float
    """Target; infinite where there is none."""
    concurrency: float
    """Requests at once at most; infinite where as many come as the pools take."""
    constants: Constants

    def without_target(self) -> "Demand":
        """The same with no target for TTFT."""
        return replace(self, ttft=float("inf"))

    def with_any_load(self) -> "Demand":
        """The same with as many requests as come."""
        return replace(self, concurrency=float("inf"))

    @property
    def burst(self) -> float:
        """Share of the requests at once that a prompt waits for, as a mean, since all clients begin together."""
        return 1 / (2 * self.constants.requests_per_client)


@dataclass(frozen=True, slots=True)
class FirstToken:
    """Where TTFT goes."""

    prefill_s: Column
    admission_s: Column
    queueing_s: Column
    transfer_s: Column

    @property
    def total(self) -> Column:
        """TTFT."""
        return self.prefill_s + self.admission_s + self.queueing_s + self.transfer_s


def prefill_s(setting: Setting, case: Case, prompts: Column) -> Seconds:
    """Computing so many prompts on each shard: in one step, or a long one in as many as its length takes."""
    pieces = maximum(1.0, ceil(case.input_tokens / setting.step_tokens))
    tokens = prompts * case.input_tokens / pieces
    load = Load(tokens, case.input_tokens, 0.0, case.input_tokens, tokens * case.shards)
    step = step_s(case, load, setting.engine.prompt_layer_s, setting)
    time: Seconds = step * pieces
    return time


def decode_s(setting: Setting, case: Case, requests: Column) -> Seconds:
    """A step of so many requests on each shard, half of their output there: TPOT, since no prompts share it."""
    context = case.input_tokens + case.output_tokens / 2
    load = Load(0.0, case.input_tokens, requests, context, requests * case.shards)
    return step_s(case, load, setting.engine.layer_s, setting)


def admission_s(setting: Setting) -> float:
    """Time that a first token takes beside its steps, as in a deployment without pools."""
    return setting.engine.first_token_layer_s * len(setting.shape.layers)


def moved_bytes(setting: Setting, tp: Column, stages: Sequence[StageClass], tokens: int) -> Column:
    """Bytes of a prompt's KV cache that one rank sends or receives: its tp share of the fullest stage.

    Each byte crosses the cluster's network once. What several tp ranks hold alike (KV heads beyond their number, MLA's
    latent) is sent in parts and copied inside the node, which is not counted.
    """
    kinds = [layer.attention for layer in layer_kinds(setting.shape)]
    each = [
        growing_bytes(attention, 1, setting.cache_bytes) * tokens
        + fixed_bytes(attention, 1, setting.cache_bytes, tokens)
        for attention in kinds
    ]
    fullest: Column = 0.0
    for stage in stages:
        fullest = maximum(fullest, sum(size * count for size, count in zip(each, stage.counts, strict=True)))
    return fullest / tp


def network(hardware: Hardware) -> LinkTier | None:
    """The tier that KV caches cross, since the pools lie on different nodes; None where the hardware names none."""
    return next((tier for tier in hardware.links if tier.scope == "cluster"), None)


def moving_s(size_bytes: Column, over: LinkTier, constants: Constants) -> Column:
    """Time of moving so many bytes over a rank's link, its latency apart."""
    return size_bytes / (over.bandwidth_bytes_per_s * constants.pools.transfer_bandwidth)


def prefill_pool(workers: Column, shards: Column, prompts: Column, step: Column, sent_s: Column) -> Prefill:
    """Workers that compute `prompts` on each of their shards in a `step`; what a step computed is sent under the next."""
    step = maximum(step, sent_s)
    return Prefill(workers * shards * prompts / step, step, sent_s)


def decode_pool(
    workers: Column, shards: Column, requests: Column, tpot: Column, received_s: Column, output_tokens: int
) -> Decode:
    """Workers with `requests` on each shard, which live for the tokens after the first and are received one by one."""
    life_s = (output_tokens - 1) * tpot
    shard_s = maximum(life_s / requests, received_s)
    per_s = where(shard_s > 0, workers * shards / maximum(shard_s, 1e-12), float("inf"))
    return Decode(per_s, tpot, received_s)


def first_token(of: Prefill, then: Decode, rate: Column, link: LinkTier, demand: Demand) -> FirstToken:
    """TTFT at so many requests a second.

    Queueing is that of steps of constant length, u/(2(1-u)) of them (Pollaczek–Khinchine), and a tenth of the burst in
    which all clients begin: so many prompts as are at once, by Little's law, at the pool's rate.
    """
    busy = rate / of.per_s
    transfer_s = link.latency_s + maximum(of.sent_s, then.received_s)
    steady_s = busy / (2 * (1 - busy)) * of.step_s
    own_s = of.step_s + demand.admission_s + transfer_s
    life_s = own_s + steady_s + (demand.output_tokens - 1) * then.tpot
    share = demand.burst * busy
    return FirstToken(of.step_s, demand.admission_s, steady_s + share * life_s / (1 - share), transfer_s)


def requests_per_s(of: Prefill, then: Decode, link: LinkTier, demand: Demand) -> Column:
    """The most requests a second within the target for TTFT and the requests at once; 0 where even one misses TTFT.

    With u the share of time that the prefill pool computes, both bounds are quadratic in u and have one root from 0 to
    1: TTFT = `first_token`, and rate · (TTFT + the life in the decode pool) = concurrency.
    """
    own_s = of.step_s + demand.admission_s + link.latency_s + maximum(of.sent_s, then.received_s)
    life_s = (demand.output_tokens - 1) * then.tpot
    busy = minimum(demand.constants.pools.prefill_utilisation, then.per_s / of.per_s)
    if demand.ttft < float("inf"):
        busy = minimum(busy, _busy_within_ttft(of, own_s, life_s, demand))
    if demand.concurrency < float("inf"):
        busy = minimum(busy, _busy_with(of, own_s + life_s, demand))
    return busy * of.per_s


def _busy_within_ttft(of: Prefill, own_s: Column, life_s: Column, demand: Demand) -> Column:
    """u of (1 - u)(c - e u) = u step / 2, with c what the target leaves for queueing and e the wait of the burst."""
    left_s = maximum(0.0, demand.ttft - own_s)
    burst_s = demand.burst * (demand.ttft + life_s)
    b = left_s + burst_s + of.step_s / 2
    return 2 * left_s / (b + maximum(0.0, b * b - 4 * burst_s * left_s) ** 0.5)


def _busy_with(of: Prefill, alone_s: Column, demand: Demand) -> Column:
    """u of u p (K + u step / (2(1 - u))) = N (1 - q u): p prompts a second, K a life without queue, q the burst's share."""
    at_once, burst = demand.concurrency, demand.burst
    a = (2 * alone_s - of.step_s) * of.per_s + 2 * at_once * burst
    b = 2 * alone_s * of.per_s + 2 * at_once * (1 + burst)
    return 4 * at_once / (b + maximum(0.0, b * b - 8 * a * at_once) ** 0.5)
