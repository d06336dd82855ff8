"""A refused layout is answered with the nearest ones that work: fewest changes, closest GPU count, fastest."""

import math
import re
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from manifests import manifest

from moe_plan.errors import ManifestError
from moe_plan.plan import Plan
from moe_plan.planner import make_plan

TEXT = re.compile(r"^ep (\d+), tp (\d+), pp (\d+)(?:, redundantExperts (\d+))? \(([\d,]+) GPUs?\)$")


def nearest(*what: Any, **sections: Any) -> tuple[str, ...]:
    with pytest.raises(ManifestError) as caught:
        make_plan(manifest(*what, **sections))
    return caught.value.nearest


def followed(parallelism: dict[str, Any], text: str) -> dict[str, Any]:
    """The parallelism that somebody writes who follows the advice."""
    match = TEXT.match(text)
    assert match is not None
    ep, tp, pp, redundant, gpus = match.groups()
    advised = {**parallelism, "ep": int(ep), "tp": int(tp), "pp": int(pp)}
    world = int(ep) * int(tp) * int(pp)
    assert world == int(gpus.replace(",", ""))
    if "gpus" in advised:
        advised["gpus"] = max(advised["gpus"], world)
    return advised if redundant is None else {**advised, "redundantExperts": int(redundant)}


def test_seed_s2_is_told_of_48_redundant_experts_first_and_then_of_fewer_gpus() -> None:
    assert nearest({"ep": 64, "tp": 2}, "seed-s2", "seed-64gb") == (
        "ep 64, tp 2, pp 1, redundantExperts 48 (128 GPUs)",
        "ep 16, tp 2, pp 1 (32 GPUs)",
        "ep 8, tp 2, pp 1 (16 GPUs)",
    )


def test_one_wrong_degree_is_changed_alone_if_that_suffices() -> None:
    found = nearest({"ep": 8, "tp": 3, "pp": 2})
    assert all(text.startswith("ep 8, tp ") and ", pp 2 (" in text for text in found)


def test_closest_gpu_count_by_ratio_comes_first_among_equal_changes() -> None:
    first, *_ = nearest({"ep": 16, "tp": 3})
    assert first.endswith("(64 GPUs)")
    assert math.log(64 / 48) < math.log(48 / 32)


def test_too_little_memory_leads_to_more_gpus() -> None:
    advice = nearest({"ep": 4}, "mixtral-8x22b", "h100-sxm")
    assert len(advice) == 3
    for text in advice:
        plan = make_plan(manifest(followed({"ep": 4}, text), "mixtral-8x22b", "h100-sxm"))
        assert plan.degrees.world > 4


def test_gpus_are_raised_only_when_nothing_fits_within_them() -> None:
    parallelism = {"ep": "auto", "tp": "auto", "gpus": 2}
    for text in nearest(parallelism, "qwen3-235b-a22b"):
        make_plan(manifest(followed(parallelism, text), "qwen3-235b-a22b"))


def test_redundant_experts_that_do_not_divide_are_rounded_to_those_that_do() -> None:
    advice = nearest({"ep": 16, "redundantExperts": 20})
    assert set(advice[:2]) == {
        "ep 16, tp 1, pp 1, redundantExperts 16 (16 GPUs)",
        "ep 16, tp 1, pp 1, redundantExperts 32 (16 GPUs)",
    }


def test_a_model_that_fits_nowhere_has_no_nearest_layout() -> None:
    tiny: dict[str, Any] = {"memory": "1Gi", "flops": {"bfloat16": 1e12}, "memoryBandwidth": 1e12}
    tiny["links"] = [{"scope": "cluster", "bandwidth": 1e9, "latency": "1us"}]
    assert nearest({"ep": 8}, "qwen3-235b-a22b", hardware={"spec": tiny}) == ()


def test_what_no_layout_mends_is_told_without_layouts() -> None:
    assert nearest({"ep": 8}, serving={"maxModelLength": 50000}) == ()


def test_an_absurd_wish_is_answered_with_layouts_of_up_to_1024_gpus() -> None:
    advice = nearest({"ep": 10**9, "tp": 10**9, "pp": 10**9})
    assert [text.partition(" (")[2] for text in advice] == ["1,024 GPUs)"] * 3


degree = st.integers(1, 40) | st.sampled_from([48, 64, 96, 128, 256, 1000])


@settings(max_examples=40, deadline=None)
@given(
    ep=degree,
    tp=st.integers(1, 20),
    pp=degree,
    redundant=st.sampled_from([0, 0, 3, 16, 48]),
    name=st.sampled_from(["qwen3-30b-a3b", "seed-s2", "gpt-oss-20b", "mixtral-8x7b"]),
)
def test_every_advised_layout_plans_and_all_are_distinct(ep: int, tp: int, pp: int, redundant: int, name: str) -> None:
    parallelism = {"ep": ep, "tp": tp, "pp": pp, "redundantExperts": redundant}
    found = outcome(parallelism, name)
    if isinstance(found, Plan):
        assert found.degrees.world == ep * tp * pp
        return
    assert len(set(found)) == len(found) == 3
    for text in found:
        make_plan(manifest(followed(parallelism, text), name))


def outcome(parallelism: dict[str, Any], name: str) -> Plan | tuple[str, ...]:
    try:
        return make_plan(manifest(parallelism, name))
    except ManifestError as error:
        return error.nearest
