"""A plan is whole, small and the same each time."""

import json
import random
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from manifests import manifest

from moe_plan.errors import ManifestError
from moe_plan.layout import Layout
from moe_plan.manifest import parse_deployment
from moe_plan.plan import Plan
from moe_plan.planner import make_plan
from moe_plan.spec import MoEDeployment

EXAMPLES = Path(__file__).parents[2] / "examples"


def violations(deployment: MoEDeployment, config: dict[str, Any] | None = None) -> dict[str, str]:
    with pytest.raises(ManifestError) as caught:
        make_plan(deployment, config)
    return {violation.code: str(violation) for violation in caught.value.violations}


def config_of(name: str) -> dict[str, Any]:
    return make_plan(manifest({"ep": 8}, name)).model.config


def test_the_same_manifest_gives_the_same_bytes_whatever_order_its_fields_are_in() -> None:
    data = yaml.safe_load((EXAMPLES / "seed-s4.yaml").read_text())

    def shuffled(value: Any) -> Any:
        if not isinstance(value, dict):
            return value
        keys = list(value)
        random.Random(7).shuffle(keys)
        return {key: shuffled(value[key]) for key in keys}

    first, second = (make_plan(parse_deployment(one)) for one in (data, shuffled(data)))
    assert first.model_dump_json() == second.model_dump_json()


def test_a_plan_survives_its_json() -> None:
    plan = make_plan(manifest({"ep": 8, "tp": 2, "pp": 3}))
    assert Plan.model_validate_json(plan.model_dump_json()) == plan


def test_the_plan_of_128_ranks_and_94_layers_is_below_64_kib() -> None:
    plan = make_plan(manifest({"ep": 2, "tp": 1, "pp": 64}, "qwen3-235b-a22b"))
    assert (plan.degrees.world, sum(stage.layers for stage in plan.stages)) == (128, 94)
    assert len(plan.model_dump_json()) < 64 * 2**10


@settings(max_examples=40, deadline=None)
@given(
    ep=st.sampled_from([1, 2, 4, 8, 16, 32, 64, 128]),
    tp=st.sampled_from([1, 2, 4, 8]),
    pp=st.sampled_from([1, 2, 3, 5, 8]),
)
def test_every_plan_accounts_for_every_layer_expert_byte_and_second(ep: int, tp: int, pp: int) -> None:
    deployment = manifest({"ep": ep, "tp": tp, "pp": pp})
    try:
        plan = make_plan(deployment)
    except ManifestError:
        return
    layout = Layout(ep, tp, pp, plan.rank_order)
    assert plan.slots * plan.ranks_per_slot == layout.world
    assert [layer for s in plan.stages for layer in range(s.first_layer, s.first_layer + s.layers)] == list(range(48))
    assert plan.experts.per_rank * ep == plan.experts.logical + plan.experts.redundant == 128
    for memory in plan.memory:
        parts = memory.model_dump(exclude={"pp", "total"})
        assert sum(parts.values()) == memory.total <= plan.hardware.usable_bytes
    for parts in (plan.prediction.ttft_parts, plan.prediction.tpot_parts):
        seconds = parts.model_dump(exclude={"total"})
        assert sum(seconds.values()) == pytest.approx(parts.total)


def test_limits_default_to_the_workload_and_8192_tokens_a_step() -> None:
    short = make_plan(manifest({"ep": 8}, workload={"inputTokens": 100, "outputTokens": 28}))
    assert (short.limits.max_model_length, short.limits.max_batch_tokens) == (128, 128)
    long = make_plan(manifest({"ep": 8}, workload={"inputTokens": 10000, "outputTokens": 2000}))
    assert (long.limits.max_model_length, long.limits.max_batch_tokens) == (12000, 8192)


def test_a_manifest_without_replicas_is_planned_all_the_same() -> None:
    plan = make_plan(manifest({"ep": 8}, replicas=0))
    assert plan.replicas == 0
    assert plan.prediction.tokens_per_s > 0


def test_stages_of_another_plan_can_be_kept() -> None:
    plan = make_plan(manifest({"ep": 4, "pp": 2}), stage_layers=(20, 28))
    assert [stage.layers for stage in plan.stages] == [20, 28]


counts = st.sampled_from([1, 1, 2, 3, 4, 8, 16, 64, 1000, 2**20, 2**31 - 1])
degrees = st.just("auto") | counts
parallelisms = st.fixed_dictionaries(
    {"ep": degrees},
    optional={
        "tp": degrees,
        "pp": degrees,
        "gpus": counts,
        "redundantExperts": st.just(0) | counts,
        "microBatches": degrees,
        "rankOrder": st.permutations(["pp", "ep", "tp"]),
        "allowCrossNodeTensorParallel": st.booleans(),
    },
)
workloads = st.fixed_dictionaries(
    {},
    optional={
        "inputTokens": counts,
        "outputTokens": counts,
        "concurrency": counts,
        "ttft": st.sampled_from(["1ns", "1s", "1000h"]),
        "mode": st.sampled_from(["serving", "training"]),
    },
)


@settings(max_examples=80, deadline=None)
@given(
    parallelisms,
    workloads,
    st.fixed_dictionaries({}, optional={"maxModelLength": counts, "maxBatchTokens": counts}),
    st.sampled_from(["qwen3-30b-a3b", "gpt-oss-120b", "deepseek-v3", "seed-s2", "mixtral-8x7b"]),
    st.sampled_from([0, 1, 2**31 - 1]),
)
def test_any_valid_manifest_has_a_plan_or_reasons_why_not(
    parallelism: dict[str, Any], workload: dict[str, Any], serving: dict[str, Any], model: str, replicas: int
) -> None:
    deployment = manifest(parallelism, model, workload=workload, serving=serving, replicas=replicas)
    try:
        plan = make_plan(deployment)
    except ManifestError as error:
        reasons = str(error)
        assert reasons
    else:
        assert plan.degrees.world == plan.slots * plan.ranks_per_slot


class TestHash:
    def test_scaling_the_workload_and_the_name_leave_pods_as_they_are(self) -> None:
        before = make_plan(manifest({"ep": 8})).hash
        assert make_plan(manifest({"ep": 8}, replicas=3)).hash == before
        assert make_plan(manifest({"ep": 8}, name="other")).hash == before
        assert make_plan(manifest({"ep": 8}, workload={"concurrency": 64, "ttft": "1ms"})).hash == before
        assert make_plan(manifest({"ep": 8}, rollout={"maxSurge": 1}, failure={"maxRestarts": 1})).hash == before

    @pytest.mark.parametrize(
        "change",
        [
            {"parallelism": {"ep": 4}},
            {"parallelism": {"ep": 8, "rankOrder": ["ep", "pp", "tp"]}},
            {"parallelism": {"ep": 8, "redundantExperts": 8}},
            {"runtime": {"image": "registry.example/moe:2"}},
            {"runtime": {"env": [{"name": "NCCL_DEBUG", "value": "INFO"}]}},
            {"serving": {"port": 9000}},
            {"serving": {"maxModelLength": 4096}},
            {"scheduling": {"priorityClassName": "high"}},
            {"topology": {"required": {"tp": "kubernetes.io/hostname"}}},
            {"model": {"architecture": "qwen3-30b-a3b", "revision": "v2"}},
            {"hardware": {"accelerator": "h200-sxm", "memoryReserve": "20%"}},
            {"hardware": {"accelerator": "h200-sxm", "resourceName": "example.com/gpu"}},
        ],
        ids=str,
    )
    def test_what_reaches_the_pods_changes_it(self, change: dict[str, Any]) -> None:
        sections: dict[str, Any] = {"parallelism": {"ep": 8}, **change}
        assert make_plan(manifest(**sections)).hash != make_plan(manifest({"ep": 8})).hash


class TestModelSource:
    def test_an_inline_config_plans_like_the_catalogues_and_has_random_weights(self) -> None:
        inline = make_plan(manifest({"ep": 8}, {"config": config_of("qwen3-30b-a3b")}))
        catalogue = make_plan(manifest({"ep": 8}))
        assert inline.model.source == "random"
        assert catalogue.model.source == "hf://Qwen/Qwen3-30B-A3B"
        assert inline.memory == catalogue.memory
        assert inline.prediction == catalogue.prediction

    def test_a_config_map_is_named_when_its_config_is_not_at_hand(self) -> None:
        model = {"configFrom": {"configMapKeyRef": {"name": "models", "key": "config.json"}}}
        found = violations(manifest({"ep": 8}, model))
        assert "ConfigMap models, key config.json" in found["ConfigNotGiven"]
        plan = make_plan(manifest({"ep": 8}, model), config_of("qwen3-30b-a3b"))
        assert plan.model.family == "qwen3_moe"

    def test_the_compute_format_is_the_kv_caches_unless_it_is_given(self) -> None:
        assert make_plan(manifest({"ep": 8})).model.kv_cache_dtype == "bfloat16"
        model = {"architecture": "qwen3-30b-a3b", "kvCacheDtype": "float8"}
        halved = make_plan(manifest({"ep": 8}, model))
        assert halved.kv_cache.bytes_per_token * 2 == make_plan(manifest({"ep": 8})).kv_cache.bytes_per_token


class TestWarnings:
    def test_missed_targets_are_warnings(self) -> None:
        plan = make_plan(manifest({"ep": 8}, workload={"ttft": "1us", "tpot": "1us"}))
        assert [warning.partition(":")[0] for warning in plan.warnings] == ["workload.ttft", "workload.tpot"]

    def test_too_many_requests_for_the_kv_cache_are_a_warning(self) -> None:
        plan = make_plan(manifest({"ep": 8}, workload={"concurrency": 10**6}))
        held = plan.kv_cache.requests_per_shard * 8
        assert plan.warnings == (
            f"workload.concurrency: the KV cache holds {held:,} requests of 2,048 tokens at once, 1,000,000 are "
            "expected; the others wait",
        )

    def test_shards_without_requests_are_a_warning(self) -> None:
        (warning,) = make_plan(manifest({"ep": 8}, workload={"concurrency": 6})).warnings
        assert warning.startswith("workload.concurrency: 6 requests leave 2 of 8 shards without one")

    def test_requests_longer_than_admitted_are_a_warning(self) -> None:
        (warning,) = make_plan(manifest({"ep": 8}, serving={"maxModelLength": 2047})).warnings
        assert warning.startswith("serving.maxModelLength: requests of the workload have 2,048 tokens")

    def test_micro_batches_that_overlap_nothing_are_a_warning(self) -> None:
        (warning,) = make_plan(manifest({"ep": 8, "microBatches": 4})).warnings
        assert warning == "parallelism.microBatches: 4 overlap nothing, since pp is 1"

    def test_unused_gpus_are_a_warning(self) -> None:
        (warning,) = make_plan(manifest({"ep": 8, "gpus": 12})).warnings
        assert warning == "parallelism.gpus: ep 8, tp 1, pp 1 use 8 of 12 GPUs a replica"


def test_training_counts_gradients_and_optimizer_and_no_kv_cache() -> None:
    plan = make_plan(manifest({"ep": 32, "tp": 4}, workload={"mode": "training"}))
    (memory,) = plan.memory
    assert memory.kv_cache == 0
    assert memory.optimizer > memory.gradients > 0
    assert plan.warnings == ()


def test_a_plan_is_plain_json() -> None:
    text = make_plan(manifest({"ep": 8})).model_dump_json()
    assert json.loads(text)["version"] == "moe-operator.dev/plan/v1"
