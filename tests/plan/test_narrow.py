"""A rehearsal keeps every rank's coordinate, layers and experts, and only its widths shrink."""

from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from manifests import manifest

from moe_plan.catalogue.models import model_names
from moe_plan.errors import ManifestError
from moe_plan.manifest import parse_deployment
from moe_plan.narrow import choose_factor, narrow_config, rehearse, rehearse_checkpoint
from moe_plan.plan import Plan
from moe_plan.planner import make_plan
from moe_plan.spec import MoEDeployment

EXAMPLES = Path(__file__).parents[2] / "examples"
SEEDS = ["seed-s1", "seed-s2", "seed-s3", "seed-s4"]


def example(name: str) -> MoEDeployment:
    return parse_deployment(yaml.safe_load((EXAMPLES / f"{name}.yaml").read_text()))


def rehearsed(deployment: MoEDeployment, plan: Plan, factor: int) -> Plan:
    return make_plan(rehearse(deployment, plan, factor), stage_layers=[stage.layers for stage in plan.stages])


def assert_same_layout(rehearsal: Plan, plan: Plan) -> None:
    kept = ("degrees", "rank_order", "stages", "experts", "micro_batches", "slots", "ranks_per_slot", "name")
    assert [getattr(rehearsal, part) for part in kept] == [getattr(plan, part) for part in kept]


@pytest.mark.parametrize("name", SEEDS)
def test_the_seeds_rehearse_with_the_layout_of_their_128_ranks(name: str) -> None:
    deployment = example(name)
    plan = make_plan(deployment)
    rehearsal = rehearsed(deployment, plan, choose_factor(plan))
    assert_same_layout(rehearsal, plan)
    assert plan.degrees.world == 128
    assert rehearsal.hardware.device == "cpu"
    assert (rehearsal.model.source, rehearsal.model.compute_dtype) == ("random", "float32")


@pytest.mark.parametrize("name", model_names())
def test_every_model_of_the_catalogue_rehearses(name: str) -> None:
    deployment = manifest({"ep": "auto", "tp": 4, "pp": 3, "gpus": 96}, name)
    plan = make_plan(deployment)
    rehearsal = rehearsed(deployment, plan, choose_factor(plan))
    assert_same_layout(rehearsal, plan)
    assert rehearsal.model.total_params < 250e6
    assert rehearsal.model.config["model_type"] == plan.model.config["model_type"]


def test_what_shrinks_are_widths_and_nothing_else() -> None:
    config = make_plan(example("qwen3-235b")).model.config
    narrowed = narrow_config(config, 64, tp=2)
    changed = {name for name in config if narrowed.get(name) != config[name]}
    assert changed == {
        "hidden_size",
        "head_dim",
        "intermediate_size",
        "moe_intermediate_size",
        "vocab_size",
        "bos_token_id",
        "eos_token_id",
    }
    assert (narrowed["hidden_size"], narrowed["moe_intermediate_size"]) == (64, 24)
    assert "eos_token_id" not in narrowed


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 10**6), st.sampled_from([1, 2, 3, 4, 6, 8, 16]))
def test_widths_that_tp_splits_stay_multiples_of_it_whatever_the_factor(factor: int, tp: int) -> None:
    config = {
        "model_type": "mixtral",
        "hidden_size": 6144,
        "intermediate_size": 16384 * 3,
        "vocab_size": 32000,
        "num_attention_heads": 48,
        "num_local_experts": 8,
    }
    narrowed = narrow_config(config, factor, tp)
    assert narrowed["intermediate_size"] % tp == 0
    assert narrowed["head_dim"] % 2 == 0
    assert all(narrowed[name] <= value for name, value in config.items() if isinstance(value, int))
    assert (narrowed["num_attention_heads"], narrowed["num_local_experts"]) == (48, 8)


def test_the_given_config_is_left_as_it_is() -> None:
    config = make_plan(example("mixtral-8x22b")).model.config
    before = dict(config)
    narrow_config(config, 96, tp=1)
    assert config == before


def test_a_factor_below_1_is_refused() -> None:
    deployment = example("seed-s1")
    with pytest.raises(ValueError, match="widths are divided by 1 or more, not by 0"):
        rehearse(deployment, make_plan(deployment), 0)


def test_auto_degrees_are_those_of_the_plan() -> None:
    deployment = manifest({"ep": "auto", "tp": "auto", "pp": "auto", "gpus": 16}, "qwen3-30b-a3b")
    plan = make_plan(deployment)
    parallelism = rehearse(deployment, plan, 32).spec.parallelism
    assert (parallelism.ep, parallelism.tp, parallelism.pp) == (plan.degrees.ep, plan.degrees.tp, plan.degrees.pp)


def test_long_requests_are_cut_to_what_a_cpu_can_do() -> None:
    deployment = example("seed-s2")
    rehearsal = make_plan(rehearse(deployment, make_plan(deployment), 64))
    assert (rehearsal.limits.max_model_length, rehearsal.limits.max_batch_tokens) == (1024, 256)


def test_a_checkpoint_of_another_width_takes_the_layout_as_it_is() -> None:
    deployment = example("seed-s1")
    plan = make_plan(deployment)
    config = {**narrow_config(plan.model.config, 16, tp=2), "max_position_embeddings": 512}
    rehearsal = make_plan(rehearse_checkpoint(deployment, plan, config))
    assert_same_layout(rehearsal, plan)
    assert rehearsal.limits.max_model_length == 512


@pytest.mark.parametrize("config", [{}, [], {"model_type": "llama"}, None])
def test_a_checkpoint_that_is_no_moe_model_is_refused(config: Any) -> None:
    deployment = example("seed-s1")
    with pytest.raises(ManifestError, match=r"spec\.model\.config"):
        make_plan(rehearse_checkpoint(deployment, make_plan(deployment), config))


def test_a_checkpoint_with_fewer_experts_is_refused_with_the_reason() -> None:
    deployment = example("seed-s1")
    plan = make_plan(deployment)
    config = {**narrow_config(plan.model.config, 16, tp=2), "num_local_experts": 8}
    with pytest.raises(ManifestError, match="ep 64 over 8 experts leaves 56 ranks without an expert"):
        make_plan(rehearse_checkpoint(deployment, plan, config))
