"""Predictions of whole deployments: what must hold for any of them, and what people expect of some."""

from dataclasses import replace

import pytest
from costs import PARTS, active_params, degrees, faster, hardware, loads, machines, model, predicted, shapes, workload
from hypothesis import assume, given
from hypothesis import strategies as st

from moe_plan.cost.collectives import (
    distinct_targets,
)
from moe_plan.cost.constants import engine, interval
from moe_plan.cost.predict import make_setting
from moe_plan.experts import deal
from moe_plan.model import ModelShape
from moe_plan.plan import Prediction
from moe_plan.shares import busiest_load
from moe_plan.spec import Workload


@given(shapes, loads, degrees, machines)
def test_parts_add_up_and_none_is_negative(
    shape: ModelShape, load: Workload, layout: dict[str, int], name: str
) -> None:
    found = predicted(shape, load=load, of=hardware(name), **layout)
    for parts, total in ((found.ttft_parts, found.ttft), (found.tpot_parts, found.tpot)):
        assert sum(getattr(parts, part) for part in PARTS) == pytest.approx(total, rel=1e-9)
        assert parts.total == total
        assert min(getattr(parts, part) for part in PARTS) >= 0


@given(shapes, loads, degrees, machines)
def test_no_layout_computes_more_than_its_gpus_can(
    shape: ModelShape, load: Workload, layout: dict[str, int], name: str
) -> None:
    of = hardware(name)
    found = predicted(shape, load=load, of=of, **layout)
    computed = found.tokens_per_s * (load.input_tokens + load.output_tokens - 1) / load.output_tokens
    gpus = layout["ep"] * layout["tp"] * layout["pp"] * layout["replicas"]
    assert 2 * active_params(shape) * computed <= gpus * of.flops_per_s("bfloat16")


@given(shapes, loads, degrees, machines)
def test_no_token_comes_sooner_than_its_weights_are_read(
    shape: ModelShape, load: Workload, layout: dict[str, int], name: str
) -> None:
    of = hardware(name)
    found = predicted(shape, load=load, of=of, **layout)
    held = sum(layer.attention.query_params for layer in shape.layers) / layout["tp"]
    assert min(found.tpot, found.ttft) >= 2 * held / of.memory_bandwidth_bytes_per_s


@given(
    shapes,
    loads,
    degrees,
    machines,
    st.sampled_from([{"memory": 2.0}, {"flops": 2.0}, {"links": 2.0}, {"latency": 2.0}]),
)
def test_better_hardware_is_never_slower(
    shape: ModelShape, load: Workload, layout: dict[str, int], name: str, better: dict[str, float]
) -> None:
    here = predicted(shape, load=load, of=hardware(name), **layout)
    there = predicted(shape, load=load, of=faster(hardware(name), **better), **layout)
    # Quicker decodes leave less time between the prompts, so that the wait for those of others may grow a little.
    assert own_s(there) <= own_s(here) * (1 + 1e-9)
    assert there.tpot <= here.tpot * (1 + 1e-9)
    assert there.tokens_per_s >= here.tokens_per_s * 0.95


def own_s(found: Prediction) -> float:
    """TTFT of a request that waits for nobody."""
    return found.ttft - found.ttft_parts.queueing


@given(shapes, loads, degrees, machines, st.integers(1, 500))
def test_more_requests_never_make_one_of_them_faster(
    shape: ModelShape, load: Workload, layout: dict[str, int], name: str, more: int
) -> None:
    of = replace(hardware(name), memory_bytes=1e18)  # room for all of them
    crowded = workload(load.input_tokens, load.output_tokens, load.concurrency + more)
    here, there = (predicted(shape, load=each, of=of, **layout) for each in (load, crowded))
    assert own_s(there) >= own_s(here) * (1 - 1e-9)
    assert there.ttft >= here.ttft * 0.99  # decodes that take longer spread the prompts of others a little
    assert there.tpot >= here.tpot * (1 - 1e-9)
    assert there.batch_per_shard >= here.batch_per_shard


@given(shapes, loads, degrees)
def test_a_longer_prompt_takes_longer(shape: ModelShape, load: Workload, layout: dict[str, int]) -> None:
    longer = workload(load.input_tokens + 64, load.output_tokens, load.concurrency)
    here, there = (predicted(shape, load=each, **layout) for each in (load, longer))
    assume(here.batch_per_shard == there.batch_per_shard)
    assert there.ttft > here.ttft


def test_the_batch_is_limited_by_the_kv_cache() -> None:
    shape = model("mixtral-8x7b")
    found = predicted(shape, ep=2, of=hardware("a100-sxm-80gb"), load=workload(16_000, 16_000, 100_000))
    assert 1 <= found.batch_per_shard < 50


def test_no_replicas_make_no_tokens_and_still_have_latencies() -> None:
    found = predicted(model("mixtral-8x7b"), ep=8, replicas=0)
    assert (found.tokens_per_s, found.tokens_per_s_per_gpu) == (0, 0)
    assert found.ttft > found.tpot > 0


def test_a_small_batch_waits_for_memory_and_a_long_prompt_for_arithmetic() -> None:
    found = predicted(model("mixtral-8x7b"), ep=8, load=workload(8192, 1024, 8))
    assert found.tpot_parts.memory > found.tpot_parts.compute
    assert found.ttft_parts.compute > found.ttft_parts.memory


def test_degrees_of_one_have_no_communication() -> None:
    found = predicted(model("olmoe-1b-7b"))
    talk = ("tp_all_reduce", "dispatch", "combine", "pp_send", "pp_bubble")
    assert [getattr(found.tpot_parts, part) for part in talk] == [0] * 5


def test_dispatch_across_nodes_costs_more_than_within_one() -> None:
    shape = model("qwen3-30b-a3b")
    within = predicted(shape, ep=16, of=hardware(gpusPerNode=16))
    across = predicted(shape, ep=16)
    assert across.ttft_parts.dispatch > 2 * within.ttft_parts.dispatch
    assert across.ttft_parts.compute == within.ttft_parts.compute


def test_an_nvlink_domain_joins_nodes_that_a_cluster_link_would_part() -> None:
    shape = model("deepseek-v3")
    domain = predicted(shape, ep=64, of=hardware("gb200-nvl72"))
    parted = predicted(shape, ep=64, of=hardware("b200-sxm"))
    assert domain.ttft_parts.dispatch < parted.ttft_parts.dispatch / 4


def test_micro_batches_fill_the_pipeline_and_shrink_the_bubble() -> None:
    shape, load = model("mixtral-8x22b"), workload(8192, 64, 64)
    bubbles = [predicted(shape, ep=2, tp=1, pp=4, load=load, micro_batches=m).ttft_parts.pp_bubble for m in (1, 4, 16)]
    assert bubbles[0] > 3 * bubbles[1] > 6 * bubbles[2]


def test_redundant_experts_that_halve_an_experts_load_speed_up_a_long_prefill() -> None:
    shape, load = model("mixtral-8x7b"), workload(8192, 16, 8)
    plain = predicted(shape, ep=8, load=load).ttft_parts.compute
    doubled = predicted(shape, ep=16, redundant=8, load=load).ttft_parts.compute
    assert doubled < plain


@pytest.mark.parametrize(
    ("redundant", "ep", "share"),
    [(0, 4, 1 / 4), (8, 8, 1 / 8), (48, 8, 1 / 8), (4, 4, (1 + 1 + 1 / 2) / 8)],
)
def test_the_busiest_rank_holds_the_experts_that_have_the_fewest_copies(redundant: int, ep: int, share: float) -> None:
    assert busiest_load(deal(8, redundant, ep)) == pytest.approx(share)


def test_throughput_is_what_latency_and_concurrency_make_it() -> None:
    found = predicted(model("qwen3-235b-a22b"), ep=8, tp=4, load=workload(1024, 512, 64), replicas=2)
    assert found.batch_per_shard == 4
    assert found.tokens_per_s == pytest.approx(64 * 512 / (found.ttft + 511 * found.tpot))
    assert found.tokens_per_s_per_gpu == pytest.approx(found.tokens_per_s / 64)


def test_one_output_token_is_a_prefill_alone() -> None:
    found = predicted(model("mixtral-8x7b"), ep=8, load=workload(2048, 1, 64))
    assert found.tokens_per_s == pytest.approx(64 / found.ttft)


def test_requests_beyond_the_kv_cache_wait_for_those_within_and_slow_nothing() -> None:
    shape = model("mixtral-8x7b")
    full, over = (predicted(shape, ep=2, load=workload(8000, 8000, n)) for n in (10**5, 2 * 10**5))
    assert over.batch_per_shard == full.batch_per_shard
    assert over.ttft > 1.9 * full.ttft
    assert over.tokens_per_s == pytest.approx(full.tokens_per_s)


def test_prompts_of_others_slow_a_service_beyond_its_bare_decode_step() -> None:
    shape = model("qwen3-235b-a22b")
    short, long = (predicted(shape, tp=8, load=workload(n, 64, 64)).tpot for n in (64, 4096))
    assert long > 2 * short


def test_a_crowd_waits_for_its_first_tokens() -> None:
    shape = model("qwen3-235b-a22b")
    alone, crowd = (predicted(shape, tp=8, load=workload(4096, 512, n)).ttft_parts for n in (1, 128))
    assert alone.queueing == 0
    assert crowd.queueing > 2 * alone.total


def test_an_engine_is_chosen_by_its_name_and_the_rehearsal_has_its_own() -> None:
    shape, load = model("qwen3-30b-a3b"), workload(concurrency=4)
    ours, vllm = (predicted(shape, load=load, runtime=name) for name in ("moe", "vllm"))
    assert vllm.tpot < ours.tpot
    assert make_setting(shape, hardware("cpu"), "moe", 2).engine.name == "moe-cpu"
    with pytest.raises(KeyError):
        engine("unknown")


def test_each_engine_that_a_manifest_may_name_has_a_profile() -> None:
    for name in ("moe", "sglang", "vllm", "tensorrt-llm"):
        profile = engine(name)
        assert min(profile.layer_s, profile.prompt_layer_s, profile.request_s, profile.step_s) > 0


def test_overlap_hides_communication_above_its_threshold_alone() -> None:
    shape, layout = model("deepseek-v3"), {"ep": 64}
    small, large = (
        predicted(shape, load=workload(4096, 1024, n), runtime="sglang", **layout).tpot_parts for n in (64, 64 * 1500)
    )
    apart = predicted(shape, load=workload(4096, 1024, 64 * 1500), runtime="tensorrt-llm", **layout).tpot_parts
    assert small.dispatch > 0
    assert large.dispatch < apart.dispatch / 2


def test_weights_that_the_gpu_must_widen_take_longer_than_their_bytes() -> None:
    shape, load = model("gpt-oss-120b"), workload(concurrency=64)
    hopper, blackwell = (predicted(shape, load=load, of=hardware(name)).tpot_parts for name in ("h200-sxm", "b200-sxm"))
    assert hopper.memory / blackwell.memory > 1.3 * 8 / 4.8


def test_eighty_per_cent_lie_around_the_prediction() -> None:
    found = predicted(model("qwen3-235b-a22b"), tp=8)
    for (low, high), centre in ((found.ttft_interval, found.ttft), (found.tpot_interval, found.tpot)):
        assert 0.5 * centre < low < centre < high < 2 * centre
    assert found.tpot_interval[0] == pytest.approx(found.tpot * interval("tpot")[0])


@given(st.floats(1, 1e6), st.integers(1, 64))
def test_choices_reach_at_least_one_target_and_no_more_than_there_are(targets: float, choices: int) -> None:
    assert 1 - 1e-6 <= distinct_targets(targets, choices) <= min(targets, choices) + 1e-6
