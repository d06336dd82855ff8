"""Kernels and the steps made of them: against figures worked out by hand, and against how attention and routing are defined."""

import math
from dataclasses import replace
from typing import Any

import pytest
from costs import (
    COLLECTIVES,
    DENSE,
    HIDDEN,
    KERNELS,
    MOE,
    ROUTING,
    any_shape,
    gqa,
    hardware,
    latent,
    model,
    predicted,
    workload,
)
from hypothesis import assume, given
from hypothesis import strategies as st

from moe_plan.cost.collectives import (
    all_reduce_s,
    spans,
)
from moe_plan.cost.constants import engine
from moe_plan.cost.kernels import Experts, KernelTime, Load, Setting, attention_core_s, distinct_experts, kernel_s, skew
from moe_plan.cost.predict import make_setting
from moe_plan.experts import deal
from moe_plan.kv import attended_entries, mean_attended_entries
from moe_plan.layout import Layout
from moe_plan.model import Layer, ModelShape
from moe_plan.shares import busiest_load


@pytest.mark.parametrize(
    ("figures", "context", "entries"),
    [
        ({}, 1000, 1000),
        ({"window": 128}, 1000, 128),
        ({"window": 128}, 100, 100),
        ({"selected": 256}, 1000, 256),
        ({"compression": 4}, 1000, 250),
        ({"compression": 4, "window": 128}, 1000, 250 + 128),
        ({"compression": 4, "window": 128, "selected": 200}, 1000, 200 + 128),
        ({"kind": "linear"}, 1000, 0),
    ],
)
def test_a_query_reads_the_entries_that_its_attention_leaves(
    figures: dict[str, Any], context: float, entries: float
) -> None:
    assert attended_entries(replace(gqa(HIDDEN, 16, 8, 128), **figures), context) == entries


@given(st.integers(1, 10_000))
def test_a_causal_prompt_attends_half_of_itself_on_average(tokens: int) -> None:
    assert mean_attended_entries(gqa(HIDDEN, 16, 8, 128), tokens) == pytest.approx(tokens / 2)
    windowed = mean_attended_entries(gqa(HIDDEN, 16, 8, 128, window=64), tokens)
    exact = tokens / 2 if tokens <= 64 else 64 - 64 * 64 / 2 / tokens
    assert windowed == pytest.approx(exact)


def setting(shape: ModelShape, runtime: str = "moe") -> Setting:
    return make_setting(shape, hardware(), runtime, 2)


def test_a_decode_step_of_one_request_a_shard_is_as_worked_out_by_hand() -> None:
    of, load = hardware(), workload(1024, 1024, 8)
    found = predicted(model("qwen3-235b-a22b"), ep=8, tp=4, of=of, load=load).tpot_parts
    layers, hidden, row = 94, 4096, 4096 * 2
    attention = 2 * (2 * hidden * 64 * 128 / 4 + 2 * hidden * 4 * 128 / 4 + 2 * 128) + 2 * row
    cache = 1536 * 2 * 128 * 2
    small = 2 * (2 * hidden + hidden * 128) + 8 * row
    u, p = ROUTING.unevenness, 8 / 128
    reached = 16 * (1 - (1 - p) * (1 + u * p * 7) ** (-1 / u))
    rows = 8 * 8 / 8 * (1 + ROUTING.spread * math.sqrt(2 * math.log(8) / 16))
    experts = reached * 3 * hidden * (1536 / 4) * 2 + rows * (2 * hidden + 2 * 3 * 1536 / 4) * 2
    head = 151936 / 4 * hidden * 2 + row
    traffic = layers * (attention + cache + small + experts) + head
    assert found.memory == pytest.approx(traffic / (4.8e12 * KERNELS.memory_efficiency), rel=1e-6)
    ring_s, tree_s = (2 * steps * 3e-6 + 2 * part * row / (450e9 * 0.7) for steps, part in ((3, 3 / 4), (2, 1)))
    assert found.tp_all_reduce == pytest.approx((2 * layers + 1) * min(ring_s, tree_s))
    assert found.dispatch == found.combine > 0
    runtime = engine("moe")
    assert found.overhead == pytest.approx(layers * runtime.layer_s + runtime.step_s + runtime.request_s)
    assert (found.pp_send, found.pp_bubble, found.queueing) == (0, 0, 0)


def test_stages_pass_each_micro_batch_on() -> None:
    found = predicted(model("mixtral-8x22b"), pp=4, load=workload(4096, 1, 1), of=hardware(gpusPerNode=4)).ttft_parts
    assert found.pp_send == pytest.approx(3 * (3e-6 + 4096 * 6144 * 2 / (450e9 * 0.7)))


def test_the_first_stage_reduces_its_embedding_too() -> None:
    shape = any_shape(*[Layer(gqa(HIDDEN, 16, 8, 128), MOE, 0)] * 8)
    found = predicted(shape, tp=2, pp=2, load=workload(4096, 1, 1)).ttft_parts
    over = spans(Layout(1, 2, 2), "tp", hardware())
    once = all_reduce_s(4096 * HIDDEN * 2, over, engine("moe"), COLLECTIVES)
    assert found.tp_all_reduce == pytest.approx((2 * 4 + 1) * once)


def test_shared_experts_take_the_time_of_reading_them() -> None:
    routed = replace(MOE, shared_width=0, shared_params=0)
    layers = (Layer(gqa(HIDDEN, 16, 8, 128), ffn, 0) for ffn in (MOE, routed))
    with_shared, without = (predicted(any_shape(layer), load=workload(concurrency=1)).tpot_parts for layer in layers)
    shared_s = (2 * MOE.shared_params + 2 * HIDDEN * 2) / (4.8e12 * KERNELS.memory_efficiency)
    assert with_shared.memory - without.memory == pytest.approx(shared_s)


def test_mla_decodes_in_its_latent_space() -> None:
    load = Load(prompt_tokens=0, prompt_length=1, decodes=64, context=10_000, stage_tokens=64)
    shape = any_shape(Layer(latent(HIDDEN, 16), DENSE, 0))
    time = attention_core_s(shape.layers[0].attention, 2, load, setting(shape))
    assert time.compute_s == pytest.approx(64 * 2 * 10_000 * 8 * 2 * 576 / (989.4e12 * 0.6))
    assert time.memory_s == pytest.approx(64 * 10_000 * 576 * 2 / (4.8e12 * KERNELS.memory_efficiency))


def test_a_float8_cache_is_read_in_half_the_time() -> None:
    shape, load = model("qwen3-235b-a22b"), workload(16_000, 16_000, 8)
    wide, narrow = (
        predicted(shape, ep=8, load=load, cache=cache).tpot_parts.memory for cache in ("bfloat16", "float8")
    )
    assert wide - narrow == pytest.approx(94 * 24_000 * 4 * 256 / (4.8e12 * KERNELS.memory_efficiency))


def test_a_kernel_takes_its_arithmetic_and_its_traffic() -> None:
    shape = any_shape(Layer(gqa(HIDDEN, 16, 8, 128), MOE, 0))
    assert kernel_s(1e12, 0, 1e12, setting(shape)) == KernelTime(1.0, 0.0)
    late = kernel_s(1e12, 4.8e13, 1e12, setting(shape))
    assert (late.compute_s, late.memory_s) == (1.0, pytest.approx(10 / KERNELS.memory_efficiency))


@given(st.integers(1, 64), st.floats(0.01, 8), st.floats(0, 1e5), st.floats(0, 1e5), st.sampled_from([0.01, 1.0, 5.0]))
def test_tokens_reach_ever_more_experts_up_to_all(
    per_rank: int, hit: float, few: float, more: float, unevenness: float
) -> None:
    assume(few <= more)
    reached = [distinct_experts(per_rank, hit, tokens, unevenness) for tokens in (few, more, 1e12)]
    assert -1e-9 <= reached[0] <= reached[1] * (1 + 1e-9) <= per_rank * (1 + 1e-9)
    assert reached[2] == pytest.approx(per_rank, rel=0.05)


@pytest.mark.parametrize("unevenness", [1e-6, 1.0, 5.0])
def test_one_token_reaches_its_top_k_experts(unevenness: float) -> None:
    assert distinct_experts(128, 8, 1, unevenness) == pytest.approx(8)


def test_evenly_wanted_experts_are_reached_by_the_well_known_formula_and_uneven_ones_less() -> None:
    even = 128 * (1 - (1 - 8 / 128) ** 16)
    assert distinct_experts(128, 8, 16, 1e-6) == pytest.approx(even, rel=0.02)
    assert distinct_experts(128, 8, 16, 4.0) < 0.8 * even


def dealt(ep: int, redundant: int = 0, logical: int = 256) -> Experts:
    dealt_to = deal(logical, redundant, ep)
    return Experts(logical, redundant, dealt_to.per_rank, ep, 1, busiest_load(dealt_to))


def test_skewed_routing_loads_the_busiest_rank_ever_more_as_ep_grows() -> None:
    found = [skew(dealt(ep), 8, ROUTING) for ep in (1, 2, 8, 32, 64, 256)]
    assert found[0] == 1
    assert found == sorted(found)
    # Power-law routing of exponent 1.01 at EP32 and thousands of tokens: 2.1 to 2.5 times.
    assert 2.0 <= found[3] <= 2.6


def test_redundant_experts_even_out_the_busiest_rank() -> None:
    found = [skew(dealt(32, redundant), 8, ROUTING) for redundant in (0, 32, 64, 128)]
    assert found == sorted(found, reverse=True)
    assert found[1] < found[0] * 0.8


def test_no_rank_computes_more_rows_than_there_are() -> None:
    of = dealt(128, logical=128)
    assert skew(of, 8, replace(ROUTING, spread=100.0)) * of.busiest * 8 == pytest.approx(1.0)


def test_a_map_of_measured_load_has_no_skew_left() -> None:
    assert skew(replace(dealt(32), imbalance=1.0), 8, ROUTING) == 1.0
