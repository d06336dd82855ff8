"""Each rule refuses with its own code and a message that has the numbers and the remedy."""

import re
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from manifests import manifest

from moe_plan.errors import ManifestError
from moe_plan.planner import make_plan
from moe_plan.rules import around, divisors


def refusal(**what: Any) -> ManifestError:
    with pytest.raises(ManifestError) as caught:
        make_plan(manifest(**{"parallelism": {"ep": 8}, **what}))
    return caught.value


def said(**what: Any) -> dict[str, str]:
    return {violation.code: str(violation) for violation in refusal(**what).violations}


@pytest.mark.parametrize(
    ("what", "code", "sentence"),
    [
        pytest.param(
            {"model": "seed-s2", "accelerator": "seed-64gb", "parallelism": {"ep": 64, "tp": 2}},
            "FewerExpertsThanRanks",
            "spec.parallelism.ep: ep 64 over 16 experts leaves 48 ranks without an expert; "
            "set redundantExperts to 48, or ep to 16",
            id="more ep ranks than experts",
        ),
        pytest.param(
            {"parallelism": {"ep": 48}},
            "ExpertsNotDivisible",
            "spec.parallelism.ep: 128 experts cannot be dealt evenly over ep 48 (32 left over); "
            "set redundantExperts to 16, or ep to 32 or 64",
            id="experts not divisible",
        ),
        pytest.param(
            {"parallelism": {"ep": 16, "redundantExperts": 8}},
            "ExpertsNotDivisible",
            "spec.parallelism.ep: 128 experts and 8 redundant ones cannot be dealt evenly over ep 16 (8 left over); "
            "set redundantExperts to 16, or ep to 8 or 17",
            id="experts and copies not divisible",
        ),
        pytest.param(
            {"parallelism": {"ep": 2, "redundantExperts": 130}},
            "TooManyRedundantExperts",
            "spec.parallelism.redundantExperts: 130 redundant experts of 128 at ep 2 would put two copies of an expert "
            "on one rank; set redundantExperts to at most 128",
            id="copies would share a rank",
        ),
        pytest.param(
            {"parallelism": {"ep": 8, "tp": 3}},
            "HeadsNotDivisible",
            "spec.parallelism.tp: 32 attention heads cannot be split over tp 3; set tp to 2 or 4",
            id="heads",
        ),
        pytest.param(
            {"model": "qwen2-57b-a14b", "parallelism": {"ep": 8, "tp": 14}},
            "KvHeadsNotDivisible",
            "spec.parallelism.tp: 4 KV heads can be neither split over nor replicated evenly on tp 14; set tp to 4",
            id="KV heads",
        ),
        pytest.param(
            {"model": "gpt-oss-20b", "parallelism": {"ep": 4, "tp": 64}},
            "RankWithoutBlock",
            "spec.parallelism.tp: the 90 mxfp4 blocks of 32 in the expert FFN's width 2880 are dealt whole, 2 a rank, "
            "which leaves a rank of tp 64 without any; set tp to 8",
            id="quantisation blocks",
        ),
        pytest.param(
            {"parallelism": {"ep": 1, "pp": 49}},
            "MoreStagesThanLayers",
            "spec.parallelism.pp: pp 49 leaves stages without a layer: the model has 48 layers; set pp to at most 48",
            id="stages",
        ),
        pytest.param(
            {"parallelism": {"ep": 4, "pp": 3}},
            "NodesNotFilled",
            "spec.parallelism: ep 4 · tp 1 · pp 3 is 12 ranks, which fill 1.5 nodes of 8 GPUs; "
            "a replica is smaller than a node or fills whole nodes",
            id="half a node",
        ),
        pytest.param(
            {"parallelism": {"ep": 4, "tp": 16}},
            "TensorParallelCrossesNodes",
            "spec.parallelism.tp: tp 16 does not divide the 8 GPUs of a node, so a tp group would span nodes; "
            "set tp to 8, or set allowCrossNodeTensorParallel to true",
            id="tp wider than a node",
        ),
        pytest.param(
            {"parallelism": {"ep": 8, "tp": 2, "rankOrder": ["tp", "pp", "ep"]}},
            "TensorParallelCrossesNodes",
            "spec.parallelism.tp: with rankOrder [tp, pp, ep] the 2 ranks of a tp group lie 8 ranks apart and span "
            "nodes of 8 GPUs; put tp last in rankOrder, or set allowCrossNodeTensorParallel to true",
            id="rank order",
        ),
        pytest.param(
            {"parallelism": {"ep": 8, "tp": 2, "gpus": 8}},
            "MoreRanksThanGpus",
            "spec.parallelism.gpus: ep 8 · tp 2 · pp 1 needs 16 GPUs, but gpus is 8",
            id="more ranks than gpus",
        ),
        pytest.param(
            {"serving": {"maxModelLength": 50000}},
            "LongerThanModel",
            "spec.serving.maxModelLength: maxModelLength is 50,000 tokens, but qwen3-30b-a3b has 40,960 positions; "
            "set maxModelLength to at most 40,960",
            id="longer than the positions",
        ),
        pytest.param(
            {"workload": {"inputTokens": 40960}},
            "LongerThanModel",
            "spec.workload: inputTokens + outputTokens is 41,984 tokens, but qwen3-30b-a3b has 40,960 positions; "
            "set inputTokens + outputTokens to at most 40,960",
            id="workload longer than the positions",
        ),
        pytest.param(
            {"parallelism": {"ep": 8, "microBatches": 9000}, "serving": {"maxBatchTokens": 4096}},
            "EmptyMicroBatches",
            "spec.parallelism.microBatches: 9,000 micro-batches cannot share a step of at most 4,096 tokens "
            "(maxBatchTokens); set microBatches to at most 4,096, or to auto",
            id="more micro-batches than tokens",
        ),
    ],
)
def test_a_broken_rule_is_told_with_its_numbers_and_its_remedy(what: dict[str, Any], code: str, sentence: str) -> None:
    assert said(**what)[code] == sentence


def test_the_remedies_of_a_rule_satisfy_it() -> None:
    assert make_plan(manifest(parallelism={"ep": 48, "redundantExperts": 16})).experts.per_rank == 3
    assert make_plan(manifest(parallelism={"ep": 17, "redundantExperts": 8, "pp": 8})).experts.per_rank == 8
    assert make_plan(manifest(parallelism={"ep": 2, "redundantExperts": 128})).experts.per_rank == 128


def test_tp_may_span_nodes_when_the_manifest_says_so() -> None:
    parallelism = {"ep": 4, "tp": 16, "allowCrossNodeTensorParallel": True}
    assert make_plan(manifest(parallelism=parallelism)).degrees.tp == 16


def test_a_tp_group_apart_is_fine_inside_one_node() -> None:
    plan = make_plan(manifest(parallelism={"ep": 4, "tp": 2, "rankOrder": ["tp", "pp", "ep"]}))
    assert plan.rank_order == ("tp", "pp", "ep")
    assert plan.slots == 1


def test_a_replica_smaller_than_a_node_is_one_pod() -> None:
    plan = make_plan(manifest(parallelism={"ep": 4}))
    assert (plan.slots, plan.ranks_per_slot) == (1, 4)


def test_memory_says_which_part_is_too_much_and_by_how_much() -> None:
    message = said(model="mixtral-8x22b", accelerator="h100-sxm", parallelism={"ep": 4})["MemoryExceeded"]
    assert message.startswith("spec.parallelism: a rank of stage 0 needs ")
    assert " more than the 72.0 GB usable of a h100-sxm's 80.0 GB (memoryReserve 10%): experts 67.6 GB, " in message


def test_one_long_request_that_does_not_fit_names_a_length_that_does() -> None:
    what: dict[str, Any] = {"model": "mixtral-8x22b", "accelerator": "h100-sxm", "parallelism": {"ep": 8}}
    what["hardware"] = {"accelerator": "h100-sxm", "memoryReserve": "40%"}
    message = said(**what, serving={"maxModelLength": 65536, "maxBatchTokens": 512})["MemoryExceeded"]
    length = re.search(r"set spec.serving.maxModelLength to about ([0-9,]+) tokens at most$", message)
    assert length is not None
    fitting = {"maxModelLength": int(length.group(1).replace(",", "")), "maxBatchTokens": 512}
    assert make_plan(manifest(**what, serving=fitting)).memory[0].total <= 48e9


def test_padding_of_quantisation_blocks_is_a_warning() -> None:
    plan = make_plan(manifest(model="gpt-oss-120b", parallelism={"ep": 1, "tp": 8}))
    assert (
        "parallelism.tp: the 90 mxfp4 blocks of the expert FFN are dealt whole, 12 a rank at tp 8, which pads 6.7% of "
        "its memory and time" in plan.warnings
    )


def test_every_violation_is_told_at_once() -> None:
    found = refusal(
        parallelism={"ep": 48, "tp": 3, "pp": 100, "gpus": 8, "microBatches": 2**20},
        serving={"maxModelLength": 10**6},
    )
    assert {violation.code for violation in found.violations} == {
        "ExpertsNotDivisible",
        "HeadsNotDivisible",
        "KvHeadsNotDivisible",
        "MoreStagesThanLayers",
        "TensorParallelCrossesNodes",
        "MoreRanksThanGpus",
        "LongerThanModel",
        "EmptyMicroBatches",
    }


def test_unknown_model_and_unknown_accelerator_are_told_together() -> None:
    codes = said(model="qwen3-30b", accelerator="h200")
    assert "did you mean qwen3-30b-a3b" in codes["UnknownModel"]
    assert "the nearest is h200-sxm" in codes["UnknownAccelerator"]


@pytest.mark.parametrize("field", ["ep", "tp", "pp"])
def test_a_degree_of_a_billion_is_refused_at_once(field: str) -> None:
    found = refusal(parallelism={"ep": 8, field: 10**9, "redundantExperts": 0})
    assert "TooManyRanks" in {violation.code for violation in found.violations}


def test_a_billion_redundant_experts_are_refused() -> None:
    assert "TooManyRedundantExperts" in said(parallelism={"ep": 8, "redundantExperts": 10**9})


def test_a_huge_but_divisible_world_is_refused() -> None:
    copies = 2**20 - 128
    assert "TooManyRanks" in said(parallelism={"ep": 2**20, "redundantExperts": copies})


@given(st.integers(1, 10**6))
def test_divisors_are_all_of_them_in_order(number: int) -> None:
    found = divisors(number)
    assert list(found) == sorted(set(found))
    assert all(number % divisor == 0 for divisor in found)
    assert found[0] == 1
    assert found[-1] == number
    if number < 500:
        assert list(found) == [divisor for divisor in range(1, number + 1) if number % divisor == 0]


@given(st.sets(st.integers(1, 60)), st.integers(1, 60))
def test_around_gives_the_neighbours_on_both_sides(values: set[int], value: int) -> None:
    ascending = sorted(values - {value})
    below, above = [v for v in ascending if v < value], [v for v in ascending if v > value]
    assert around(ascending, value) == (*below[-1:], *above[:1])
