"""Layouts that engines can and cannot express: each rank has the coordinate that the engine gives it, or the plan is refused."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rendered import OTHERS, in_engine, plan_of

from moe_plan.engines import engine_rules
from moe_plan.errors import ManifestError
from moe_plan.layout import Coordinate, Layout
from moe_plan.manifest import parse_deployment
from moe_plan.subject import Subject, resolve


def refusals(name: str, **parallelism: Any) -> list[str]:
    """Codes of what the planner refuses of a layout in an engine."""
    with pytest.raises(ManifestError) as caught:
        plan_of(in_engine(name, parallelism=parallelism))
    return [violation.code for violation in caught.value.violations]


def subject(name: str, per_node: int = 8) -> Subject:
    obj = in_engine(name, hardware={"accelerator": "h100-sxm", "gpusPerNode": per_node})
    return resolve(parse_deployment({**obj, "metadata": {"name": "m"}}), None)


def sglang_coordinate(layout: Layout, rank: int) -> Coordinate:
    """python/sglang/srt/runtime_context.py: tp_size ranks a stage; attention DP and expert ranks outside tp."""
    stage = layout.ep * layout.tp
    return Coordinate(pp=rank // stage, ep=rank % stage // layout.tp, tp=rank % stage % layout.tp)


def vllm_coordinate(layout: Layout, rank: int) -> Coordinate:
    """vllm/distributed/parallel_state.py: ranks are laid out as DP × PP × TP."""
    shard = layout.pp * layout.tp
    return Coordinate(ep=rank // shard, pp=rank % shard // layout.tp, tp=rank % layout.tp)


def tensorrt_llm_coordinate(layout: Layout, rank: int) -> Coordinate:
    """tensorrt_llm/mapping.py: pp outside tp_size; attention DP takes all of tp_size, whose other factor is 1."""
    size = layout.ep * layout.tp
    return Coordinate(pp=rank // size, ep=rank % size % layout.ep, tp=rank % size // layout.ep)


COORDINATES = {"sglang": sglang_coordinate, "vllm": vllm_coordinate, "tensorrt-llm": tensorrt_llm_coordinate}
DEGREE = st.sampled_from([1, 2, 3, 4, 8, 16])
LAYOUTS = st.builds(Layout, DEGREE, DEGREE, DEGREE, st.permutations(["pp", "ep", "tp"]).map(tuple))


@pytest.mark.parametrize("name", OTHERS)
@given(layout=LAYOUTS)
def test_an_accepted_layout_gives_each_rank_the_coordinate_that_the_engine_gives_it(name: str, layout: Layout) -> None:
    if any(engine_rules(subject(name), layout, 0)):
        return
    theirs = COORDINATES[name]
    assert [layout.coordinate(rank) for rank in range(layout.world)] == [theirs(layout, r) for r in range(layout.world)]


@given(layout=LAYOUTS, per_node=st.sampled_from([2, 4, 8]))
def test_sglang_starts_on_each_node_the_ranks_that_were_placed_there(layout: Layout, per_node: int) -> None:
    filled = layout.world % per_node == 0 or layout.world < per_node
    if not filled or any(engine_rules(subject("sglang", per_node), layout, 0)):
        return
    in_slot = min(per_node, layout.world)
    nodes = layout.world // in_slot
    started = [sglang_ranks(layout, nodes, node) for node in range(nodes)]
    assert started == [list(range(node * in_slot, (node + 1) * in_slot)) for node in range(nodes)]


def sglang_ranks(layout: Layout, nodes: int, node: int) -> list[int]:
    """python/sglang/srt/entrypoints/engine.py, _calculate_rank_ranges."""
    stage = layout.ep * layout.tp
    stages_here, nodes_a_stage = max(layout.pp // nodes, 1), max(nodes // layout.pp, 1)
    ranks_here = stage // nodes_a_stage
    stages = range(stages_here * (node // nodes_a_stage), stages_here * (node // nodes_a_stage + 1))
    first = ranks_here * (node % nodes_a_stage)
    return [pp * stage + rank for pp in stages for rank in range(first, first + ranks_here)]


@pytest.mark.parametrize("name", ["vllm", "tensorrt-llm"])
def test_experts_dealt_and_split_at_once_are_refused_with_layouts_that_are_not(name: str) -> None:
    obj = in_engine(name, parallelism={"ep": 4, "tp": 2}, hardware={"accelerator": "h100-sxm", "gpusPerNode": 8})
    with pytest.raises(ManifestError) as caught:
        plan_of(obj)
    (violation,) = caught.value.violations
    assert (violation.field, violation.code) == ("spec.runtime.engine", "EngineCannotSplitExperts")
    assert "cannot hold ep 4 · tp 2" in violation.message
    assert caught.value.nearest
    assert all("ep 1," in layout or "tp 1," in layout for layout in caught.value.nearest)


def test_a_rank_order_that_the_engine_does_not_have_is_refused() -> None:
    assert refusals("sglang", ep=2, tp=2, pp=2, rankOrder=["ep", "pp", "tp"]) == ["EngineRankOrder"]
    assert refusals("vllm", ep=4, tp=1, pp=2) == ["EngineRankOrder"]
    assert plan_of(in_engine("vllm", parallelism={"ep": 4, "pp": 2, "rankOrder": ["ep", "pp", "tp"]})).slots == 2


def test_a_stage_that_fills_one_node_and_a_half_is_refused() -> None:
    layout = Layout(ep=6, tp=2, pp=2)
    (violation,) = engine_rules(subject("sglang"), layout, 0)
    assert violation.code == "EnginePartsNodes"
    assert "the 12 ranks of one pp coordinate must fill whole nodes or lie in one of 8 GPUs" in violation.message


def test_tensorrt_llm_is_refused_more_than_a_node_and_copies_of_experts() -> None:
    assert refusals("tensorrt-llm", ep=8) == ["EngineNeedsOneNode"]
    assert refusals("tensorrt-llm", ep=4, redundantExperts=8) == ["EngineWithoutRedundantExperts"]


@pytest.mark.parametrize("name", OTHERS)
def test_auto_degrees_are_such_as_the_engine_can_express(name: str) -> None:
    plan = plan_of(in_engine(name, parallelism={"ep": "auto", "tp": "auto", "pp": 1, "gpus": 4}))
    assert name == "sglang" or 1 in (plan.degrees.ep, plan.degrees.tp)


def test_the_bundled_runtime_takes_every_layout() -> None:
    layout = Layout(3, 5, 7, ("tp", "pp", "ep"))
    assert not any(engine_rules(subject("moe"), layout, 9))
