"""TTFT, TPOT and tokens a second of a closed loop: each of so many clients sends its next request when one ends.

Steps decode a shard's whole batch, and some of them compute a prompt, or a piece of one, besides. Work is conserved:
while a request lives, the prompts of all others of its batch are computed once. Throughput follows from the times by
Little's law (Operations Research 9(3), 1961).
"""

from dataclasses import dataclass

from moe_plan.columns import Column, ceil, exp, maximum, minimum, where
from moe_plan.cost.kernels import Load, Setting
from moe_plan.cost.step import Case, Seconds, steps_s
from moe_plan.shares import ceil_div


@dataclass(frozen=True, slots=True)
class Forecast:
    """What a case comes to; columns where the case has columns."""

    ttft: Seconds
    tpot: Seconds
    tokens_per_s: Column
    """Output tokens of the whole deployment."""
    batch: Column
    """Requests decoded together on the fullest shard."""
    steady_s: Column
    """The part of TTFT's queueing that steady arrivals cause: all that may fall when a step gets longer."""


@dataclass(frozen=True, slots=True)
class _Crowd:
    """How the requests are spread."""

    batch: Column
    """On the fullest shard."""
    active: Column
    """On the fullest replica."""
    busy: Column
    """Shards of it that have any."""
    served: Column
    """On the whole deployment, at once."""
    waiting: Column
    """For each one served, those that wait for room in the KV cache."""


def forecast(setting: Setting, case: Case) -> Forecast:
    """Concurrency dealt over replicas and shards as far as the KV cache allows; the rest of the clients wait.

    TTFT is the mean over a client's requests (see `constants.toml`, requests_per_client), the first of which all
    clients send at once; TPOT includes the steps in which the prompts of others are computed.
    """
    crowd = _crowd(case)
    pieces = maximum(1.0, ceil(case.input_tokens / setting.step_tokens))
    often = (crowd.batch - 1) * pieces / maximum(1, case.output_tokens - 1)
    together = where(case.output_tokens > 1, often / maximum(1e-9, 1 - exp(-often)), crowd.batch)
    prompt_tokens = case.input_tokens / pieces * maximum(1.0, together)
    plain, loaded, burst = _steps_s(setting, case, crowd, prompt_tokens)
    loaded = loaded.slower(plain)
    loaded_share = where(case.output_tokens > 1, 1 - exp(-often), 0.0)
    tpot = plain * (1 - loaded_share) + loaded * loaded_share
    own = loaded * pieces
    admission = Seconds(overhead=setting.engine.first_token_layer_s * len(setting.shape.layers))
    steady_s = _steady_s(crowd, own.total, loaded.total * loaded_share / tpot.total)
    burst_s = _burst_s(setting, case, crowd, burst.total)
    ttft = own + admission + Seconds(queueing=steady_s + burst_s)
    life_s = ttft.total + (case.output_tokens - 1) * tpot.total
    return Forecast(
        ttft=ttft + Seconds(queueing=crowd.waiting * life_s),
        tpot=tpot,
        tokens_per_s=crowd.served * case.output_tokens / life_s,
        batch=crowd.batch,
        steady_s=steady_s,
    )


def _steps_s(setting: Setting, case: Case, crowd: _Crowd, prompt_tokens: Column) -> list[Seconds]:
    """Three steps: of decodes alone, of so many tokens of prompts besides, and a full one of the first burst."""
    engine = setting.engine
    loads = [_load(case, crowd, prompts) for prompts in (0.0, prompt_tokens, _burst_tokens(setting, case, crowd))]
    return steps_s(case, loads, [engine.layer_s, engine.prompt_layer_s, engine.prompt_layer_s], setting)


def _crowd(case: Case) -> _Crowd:
    shards = case.replicas * case.shards
    batch = maximum(1, minimum(ceil_div(case.concurrency, shards), case.kv_requests))
    served = minimum(case.concurrency, batch * shards)
    active = ceil_div(served, case.replicas)
    return _Crowd(batch, active, minimum(case.shards, active), served, case.concurrency / served - 1)


def _load(case: Case, crowd: _Crowd, prompt_tokens: Column) -> Load:
    """A step that computes so many tokens of prompts on each busy shard and a token of every other request."""
    prompts = prompt_tokens / case.input_tokens
    others = maximum(0.0, crowd.active - minimum(crowd.active, prompts * crowd.busy))
    return Load(
        prompt_tokens=prompt_tokens,
        prompt_length=case.input_tokens,
        decodes=maximum(0.0, crowd.batch - prompts),
        context=case.input_tokens + case.output_tokens / 2,
        stage_tokens=prompt_tokens * crowd.busy + others,
    )


def _steady_s(crowd: _Crowd, own_s: Column, utilisation: Column) -> Column:
    """Waiting for the prompts of others in the steady state.

    A queue with constant service, u/(2(1-u)) services long (Pollaczek–Khinchine), and never longer than half of the
    others.
    """
    queue = utilisation / (2 * maximum(1e-9, 1 - utilisation))
    return minimum((crowd.batch - 1) / 2, queue) * own_s


def _burst_tokens(setting: Setting, case: Case, crowd: _Crowd) -> Column:
    """Tokens of prompts that a shard computes in a step when all clients send at once: as many as it admits."""
    return minimum(crowd.batch * case.input_tokens, maximum(setting.step_tokens, case.input_tokens))


def _burst_s(setting: Setting, case: Case, crowd: _Crowd, full_s: Column) -> Column:
    """Waiting, as a mean over a client's requests, of the first of them, which all clients send at once.

    They are computed in full steps of `full_s`, so that a request waits for half of the others.
    """
    each_s = full_s * case.input_tokens / _burst_tokens(setting, case, crowd)
    return (crowd.batch - 1) / 2 * each_s / setting.constants.requests_per_client
