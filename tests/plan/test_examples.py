"""The manifests that people copy: each plans, or is refused with the right advice."""

from pathlib import Path

import pytest
import yaml

from moe_plan.errors import ManifestError
from moe_plan.experts import copies_of, owner
from moe_plan.layout import Coordinate, Layout
from moe_plan.manifest import parse_deployment
from moe_plan.plan import Plan
from moe_plan.planner import make_plan

EXAMPLES = Path(__file__).parents[2] / "examples"
REFUSED = "seed-s2-as-written"
WARNED = {"seed-s1": ["model.dtype"], "seed-s3": ["serving.capacityFactor"], "seed-s4": ["parallelism.microBatches"]}
NAMES = sorted(path.stem for path in EXAMPLES.glob("*.yaml"))


def planned(name: str) -> Plan:
    return make_plan(parse_deployment(yaml.safe_load((EXAMPLES / f"{name}.yaml").read_text())))


def layout_of(plan: Plan) -> Layout:
    return Layout(plan.degrees.ep, plan.degrees.tp, plan.degrees.pp, plan.rank_order)


@pytest.mark.parametrize("name", [name for name in NAMES if name != REFUSED])
def test_an_example_plans_without_a_word_but_for_what_the_seeds_ask_in_vain(name: str) -> None:
    plan = planned(name)
    assert plan.name == name
    assert [warning.partition(":")[0] for warning in plan.warnings] == WARNED.get(name, [])


@pytest.mark.parametrize("name", NAMES)
def test_an_example_says_at_its_head_what_it_is(name: str) -> None:
    assert (EXAMPLES / f"{name}.yaml").read_text().startswith("# ")


def test_seed_s1_has_half_of_one_expert_a_gpu_and_expert_e_on_gpus_2e_and_2e_plus_1() -> None:
    plan = planned("seed-s1")
    layout = layout_of(plan)
    assert (plan.degrees.world, plan.slots, plan.experts.per_rank, plan.model.dtype) == (128, 16, 1, "float8")
    for expert, (copy,) in enumerate(copies_of(plan.experts, layer=0)):
        assert layout.rank(Coordinate(0, owner(plan.experts, copy), 0)) == 2 * expert
    assert plan.memory[0].experts == pytest.approx(16 * 3 * 1024 * 2048 / 2, rel=0.01)


def test_seed_s2_as_written_is_refused_with_48_redundant_experts_or_ep_16() -> None:
    with pytest.raises(ManifestError) as caught:
        planned(REFUSED)
    assert str(caught.value) == (
        "spec.parallelism.ep: ep 64 over 16 experts leaves 48 ranks without an expert; "
        "set redundantExperts to 48, or ep to 16"
    )
    assert caught.value.nearest == (
        "ep 64, tp 2, pp 1, redundantExperts 48 (128 GPUs)",
        "ep 16, tp 2, pp 1 (32 GPUs)",
        "ep 8, tp 2, pp 1 (16 GPUs)",
    )


def test_seed_s2_has_four_copies_of_each_expert_on_16_nodes() -> None:
    plan = planned("seed-s2")
    assert (plan.slots, plan.ranks_per_slot) == (16, 8)
    assert (plan.experts.logical, plan.experts.redundant, plan.experts.per_rank) == (16, 48, 1)
    assert {len(copies) for copies in copies_of(plan.experts, layer=15)} == {4}
    assert plan.limits.max_model_length == 10_000


def test_seed_s3_has_8_layers_and_4_experts_a_rank_and_its_rank_formula() -> None:
    plan = planned("seed-s3")
    assert [stage.layers for stage in plan.stages] == [8, 8]
    assert plan.experts.per_rank == 4
    assert plan.limits.capacity_factor == pytest.approx(1.2)
    layout = layout_of(plan)
    assert layout.rank(Coordinate(pp=1, ep=3, tp=2)) == 64 + 3 * 4 + 2


def test_seed_s4_has_4_layers_and_8_experts_a_rank_and_a_pipeline_in_each_node() -> None:
    plan = planned("seed-s4")
    assert [stage.layers for stage in plan.stages] == [4, 4, 4, 4]
    assert (plan.slots, plan.ranks_per_slot, plan.micro_batches, plan.experts.per_rank) == (8, 16, 32, 8)
    layout = layout_of(plan)
    assert layout.rank(Coordinate(pp=3, ep=5, tp=1)) == 5 * 16 + 3 * 4 + 1
    assert not layout.crosses_nodes("pp", 16)
    assert plan.warnings[0].startswith("parallelism.microBatches: 32 are more than the 16 requests")


def test_seed_s4_training_has_gradients_and_optimizer_and_fits_easily() -> None:
    serving, training = planned("seed-s4"), planned("seed-s4-training")
    for before, during in zip(serving.memory, training.memory, strict=True):
        assert (before.gradients, before.optimizer, during.kv_cache) == (0, 0, 0)
        assert during.experts == before.experts
        assert during.optimizer >= 2 * during.gradients > 0
        assert during.total < 64e9 / 10


@pytest.mark.parametrize(
    ("name", "slots", "per_rank", "total", "active"),
    [
        ("mixtral-8x22b", 1, 1, 140.6e9, 39.1e9),
        ("qwen3-235b", 4, 4, 235e9, 22e9),
        ("deepseek-v3", 16, 4, 671e9, 37e9),
    ],
)
def test_published_models_hold_what_is_published(
    name: str, slots: int, per_rank: int, total: float, active: float
) -> None:
    plan = planned(name)
    assert (plan.slots, plan.ranks_per_slot, plan.experts.per_rank) == (slots, 8, per_rank)
    assert plan.model.total_params == pytest.approx(total, rel=0.02)
    assert plan.model.active_params == pytest.approx(active, rel=0.03)
    assert plan.model.source.startswith("hf://")


def test_deepseek_v3_caches_70272_bytes_a_token_on_every_tp_rank() -> None:
    assert planned("deepseek-v3").kv_cache.bytes_per_token == (512 + 64) * 2 * 61
