"""Measured loads deal experts, are predicted with, and are refused where they are not this model's."""

import json
import random
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from moe_plan.dealer import Dealer
from moe_plan.errors import ManifestError
from moe_plan.experts import copies_of, deal, owner, physical_to_logical
from moe_plan.layout import Layout
from moe_plan.loads import LOADS_VERSION, ExpertLoads, add_up, parse_loads, read_loads
from moe_plan.manifest import parse_deployment
from moe_plan.narrow import rehearse
from moe_plan.plan import Plan
from moe_plan.planner import make_plan
from moe_plan.search.choice import Choice, forecast, work_out
from moe_plan.search.compare import compare
from moe_plan.search.redundancy import with_copies_of
from moe_plan.search.result import Found
from moe_plan.spec import MoEDeployment
from moe_plan.subject import resolve

MODEL, LAYERS, EXPERTS = "qwen3-30b-a3b", 48, 128


def manifest(parallelism: dict[str, Any], architecture: str = MODEL, **sections: Any) -> MoEDeployment:
    return parse_deployment(
        {
            "apiVersion": "moe-operator.dev/v1alpha1",
            "kind": "MoEDeployment",
            "metadata": {"name": "under-test"},
            "spec": {
                "model": {"architecture": architecture},
                "hardware": {"accelerator": "h200-sxm"},
                "parallelism": parallelism,
                **sections,
            },
        }
    )


def trace(model: str = MODEL, layers: int = LAYERS, experts: int = EXPERTS, first: int = 0, seed: int = 1) -> dict:
    """Loads as uneven as a gamma distribution of shape 1 makes them, others in each layer."""
    rng = random.Random(seed)
    counts = {str(n): [1 + int(1000 * rng.expovariate(1)) for _ in range(experts)] for n in range(first, layers)}
    return {
        "version": LOADS_VERSION,
        "model": model,
        "since": "2026-11-21T10:00:00Z",
        "tokens": 1000 * experts,
        "layers": counts,
    }


def measured(**changes: Any) -> ExpertLoads:
    return read_loads(trace() | changes, "loads.json")


def loads_by_rank(plan: Plan, loads: ExpertLoads, layer: int) -> list[float]:
    """Tokens of each ep coordinate, an expert's copies sharing its tokens."""
    found = [0.0] * plan.degrees.ep
    for copies, tokens in zip(copies_of(plan.experts, layer), loads.layers[layer], strict=True):
        for copy in copies:
            found[owner(plan.experts, copy)] += tokens / len(copies)
    return found


def imbalance(plan: Plan, loads: ExpertLoads) -> float:
    """The figure that a plan tells, worked out expert by expert."""
    layers = [loads_by_rank(plan, loads, layer) for layer in loads.layers]
    return sum(max(ranks) * len(ranks) / sum(ranks) for ranks in layers) / len(layers)


def refusal(**changes: Any) -> str:
    """What is said to a trace with changes, or to a text."""
    with pytest.raises(ManifestError) as caught:
        make_plan(manifest({"ep": 8}), loads=measured(**changes))
    (violation,) = caught.value.violations
    return str(violation)


class TestThePlan:
    @pytest.mark.parametrize("parallelism", [{"ep": 8}, {"ep": 16, "tp": 2}, {"ep": 8, "redundantExperts": 8, "pp": 2}])
    def test_tells_how_even_the_loads_are_with_and_without_them(self, parallelism: dict[str, Any]) -> None:
        loads = measured()
        plain, plan = make_plan(manifest(parallelism)), make_plan(manifest(parallelism), loads=loads)
        assert plan.expert_loads is not None
        assert plan.expert_loads.imbalance == pytest.approx(imbalance(plan, loads))
        assert plan.expert_loads.imbalance_without == pytest.approx(imbalance(plain, loads))
        assert plan.expert_loads.imbalance < 1.1 < plan.expert_loads.imbalance_without

    def test_deals_each_layer_by_its_own_loads(self) -> None:
        plan = make_plan(manifest({"ep": 8}), loads=measured())
        assert len({physical_to_logical(plan.experts, layer) for layer in range(LAYERS)}) == LAYERS

    def test_gives_copies_to_the_busiest_experts(self) -> None:
        loads = measured()
        plan = make_plan(manifest({"ep": 8, "redundantExperts": 8}), loads=loads)
        for layer, counts in loads.layers.items():
            copies = [len(of_one) for of_one in copies_of(plan.experts, layer)]
            each = sorted(zip(counts, copies, strict=True))
            assert all(one <= other for (_, one), (_, other) in pairwise(each))
            assert copies[counts.index(max(counts))] > 1

    def test_is_predicted_with_the_measured_imbalance(self) -> None:
        skewed = {"layers": {str(n): [20_000, *[100] * (EXPERTS - 1)] for n in range(LAYERS)}}
        even = {"layers": {str(n): [100] * EXPERTS for n in range(LAYERS)}}
        of = {"ep": 8}, {"workload": {"concurrency": 1024}}
        slow, quick = (make_plan(manifest(of[0], **of[1]), loads=measured(**c)).prediction for c in (skewed, even))
        assert quick.tpot < slow.tpot
        assert quick.ttft < slow.ttft
        copied = make_plan(manifest(of[0] | {"redundantExperts": 8}, **of[1]), loads=measured(**skewed)).prediction
        assert copied.ttft < slow.ttft

    def test_of_128_ranks_and_94_layers_is_far_below_a_config_map(self) -> None:
        loads = read_loads(trace("qwen3-235b-a22b", 94), "loads.json")
        plan = make_plan(manifest({"ep": 128, "redundantExperts": 128}, "qwen3-235b-a22b"), loads=loads)
        assert len(plan.experts.exceptions) == 94
        assert len(plan.model_dump_json()) < 128 * 2**10
        assert len(loads.model_dump_json()) < 128 * 2**10

    def test_survives_its_json_and_is_the_same_each_time(self) -> None:
        plan = make_plan(manifest({"ep": 8}), loads=measured())
        assert Plan.model_validate_json(plan.model_dump_json()) == plan
        assert make_plan(manifest({"ep": 8}), loads=measured()).model_dump_json() == plan.model_dump_json()

    def test_warns_of_loads_of_few_tokens(self) -> None:
        few = {layer: [1 + n // 100 for n in counts] for layer, counts in trace()["layers"].items()}
        (warning,) = make_plan(manifest({"ep": 8}), loads=measured(tokens=100, layers=few)).warnings
        assert warning.startswith("parallelism.expertLoadsFrom: 100 tokens, 10.")
        assert "tell loads apart only beyond 3" in warning
        many = {layer: [100 * n for n in counts] for layer, counts in trace()["layers"].items()}
        assert make_plan(manifest({"ep": 8}), loads=measured(layers=many)).warnings == ()

    def test_whose_map_a_config_map_would_not_hold_is_refused(self) -> None:
        loads = read_loads(trace("qwen3-235b-a22b", 94), "loads.json")
        huge = {"ep": 2048, "redundantExperts": 2048 - 128}
        with pytest.raises(ManifestError, match="the map of 2,048 physical experts by measured loads, layer by layer"):
            make_plan(manifest(huge, "qwen3-235b-a22b"), loads=loads)
        largest = {"ep": 1024, "redundantExperts": 1024 - 128}
        plan = make_plan(manifest(largest, "qwen3-235b-a22b"), loads=loads)
        assert len(plan.model_dump_json()) < 2**20

    def test_without_loads_says_nothing_of_them(self) -> None:
        assert "expert_loads" not in make_plan(manifest({"ep": 8})).model_dump(mode="json")

    def test_has_another_hash_only_if_its_map_is_another(self) -> None:
        plain, plan = make_plan(manifest({"ep": 8})), make_plan(manifest({"ep": 8}), loads=measured())
        more = {layer: [3 * n for n in counts] for layer, counts in trace()["layers"].items()}
        assert plan.hash != plain.hash
        assert make_plan(manifest({"ep": 8}), loads=measured(tokens=7, layers=more)).hash == plan.hash

    def test_leaves_dense_layers_alone(self) -> None:
        loads = read_loads(trace("deepseek-v3", 61, 256, first=3), "loads.json")
        plan = make_plan(manifest({"ep": 32, "redundantExperts": 32}, "deepseek-v3"), loads=loads)
        assert sorted(plan.experts.exceptions) == list(range(3, 61))

    def test_of_a_rehearsal_has_the_same_map(self) -> None:
        deployment = manifest({"ep": 8, "redundantExperts": 8})
        plan = make_plan(deployment, loads=measured())
        layers = [stage.layers for stage in plan.stages]
        rehearsal = make_plan(rehearse(deployment, plan, 32), stage_layers=layers, experts=plan.experts)
        assert rehearsal.experts == plan.experts


class TestRefused:
    def test_where_layers_are_missing(self) -> None:
        layers = {key: counts for key, counts in trace()["layers"].items() if key != "47"}
        assert "the loads are of 47 MoE layers (0 to 46), and qwen3-30b-a3b has 48 MoE layers (0 to 47)" in refusal(
            layers=layers
        )

    def test_where_the_experts_are_others(self) -> None:
        assert "the loads count 64 experts in layer 0, and qwen3-30b-a3b has 128" in refusal(**trace(experts=64))

    def test_of_another_model(self) -> None:
        said = refusal(model="qwen3-235b-a22b")
        assert "the loads are of the model qwen3-235b-a22b, and this is qwen3-30b-a3b" in said
        assert "measure a deployment of this model again with moe loads" in said

    def test_without_a_token(self) -> None:
        nothing = {str(n): [0] * EXPERTS for n in range(LAYERS)}
        assert "no token in any layer; serve requests for a while" in refusal(layers=nothing)
        assert "no token in layer 5;" in refusal(layers=trace()["layers"] | {"5": [0] * EXPERTS})

    @pytest.mark.parametrize("count", [-1, 1.5, "7", None, True, 2**63])
    def test_with_what_is_no_count(self, count: Any) -> None:
        said = refusal(layers=trace()["layers"] | {"3": [count] * EXPERTS})
        assert "layers.3.0: must be a whole number of tokens, 0 or more; save it again with moe loads" in said

    @pytest.mark.parametrize(
        ("text", "why"),
        [
            (json.dumps(trace())[:-20], "is not whole JSON"),
            ("", "is not whole JSON"),
            (json.dumps(trace() | {"tokens": float("nan")}), "NaN is no number of tokens"),
            (json.dumps(trace() | {"version": "moe-operator.dev/expert-loads/v9"}), "is of version"),
            (json.dumps({"layers": {}}), "model: field required"),
            ("[1, 2]", "is no trace of expert loads"),
            ("[" * 10_000, "is not whole JSON"),
            (json.dumps(trace() | {"layers": {"-1": [1]}}), "is no trace of expert loads: layers.-1"),
            (json.dumps(trace() | {"more": 1}), "more"),
        ],
        ids=["cut short", "empty", "NaN", "later version", "no model", "a list", "nested", "negative layer", "unknown"],
    )
    def test_of_a_text_that_is_no_trace(self, text: str, why: str) -> None:
        with pytest.raises(ManifestError) as caught:
            parse_loads(text, "loads.json")
        (violation,) = caught.value.violations
        assert str(violation).startswith("loads.json: ")
        assert why in str(violation)
        assert violation.remedy == "save it again with moe loads"

    def test_by_an_engine_that_deals_experts_itself(self) -> None:
        with pytest.raises(ManifestError, match="the engine vllm deals experts itself and is not given a map of them"):
            make_plan(manifest({"ep": 8}, runtime={"engine": "vllm"}), loads=measured())

    def test_where_a_manifest_names_loads_that_are_not_at_hand(self) -> None:
        source = {"expertLoadsFrom": {"configMapKeyRef": {"name": "loads", "key": "monday.json"}}}
        with pytest.raises(ManifestError, match=r"ConfigMap loads, key monday\.json, are not at hand; on the command"):
            make_plan(manifest({"ep": 8, **source}))
        assert make_plan(manifest({"ep": 8, **source}), loads=measured()).experts.exceptions


class TestTheSearch:
    def test_tells_of_each_layout_what_its_plan_says(self) -> None:
        loads, deployment = measured(), manifest({"ep": 8}, workload={"concurrency": 512})
        found = compare(deployment, gpus=16, loads=loads)
        subject = resolve(deployment, None, loads)
        for one in (found.best, *found.runners_up):
            layout = Choice(work_layout(one), one.redundant_experts)
            spec = subject.spec.model_copy(
                update={
                    "replicas": one.replicas,
                    "parallelism": subject.spec.parallelism.model_copy(update={"micro_batches": one.micro_batches}),
                }
            )
            of = resolve(deployment.model_copy(update={"spec": spec}), None, loads)
            prediction = forecast(of, work_out(of, layout)).prediction
            assert (prediction.tpot, prediction.tokens_per_s) == pytest.approx((one.tpot, one.tokens_per_s), rel=1e-9)

    def test_adds_copies_where_one_expert_has_most_of_the_load(self) -> None:
        one_hot = measured(layers={str(n): [50_000, *[100] * (EXPERTS - 1)] for n in range(LAYERS)})
        deployment = manifest({"ep": 16}, workload={"concurrency": 4096, "inputTokens": 2000, "outputTokens": 200})
        found = compare(deployment, gpus=16, keep=("ep", "tp", "pp"), loads=one_hot)
        assert found.best.redundant_experts > 0
        assert found.written is not None
        assert found.written.layout is not None
        assert found.best.tokens_per_s > 1.5 * found.written.layout.tokens_per_s

    def test_of_auto_degrees_avoids_ranks_that_one_expert_would_hold_up(self) -> None:
        one_hot = measured(layers={str(n): [50_000, *[100] * (EXPERTS - 1)] for n in range(LAYERS)})
        load = {"concurrency": 4096, "inputTokens": 2000, "outputTokens": 200}
        free = manifest({"ep": "auto", "tp": "auto", "pp": "auto", "gpus": 16}, workload=load)
        assert make_plan(free, loads=one_hot).degrees.ep < make_plan(free).degrees.ep

    def test_shows_what_more_copies_bring(self) -> None:
        loads, deployment = measured(), manifest({"ep": 64, "tp": 1})
        plan = make_plan(deployment, loads=loads)
        rows = with_copies_of(deployment, plan, None, loads)
        assert [row.redundant for row in rows] == [0, 64, 128, 256]
        assert [row.per_rank for row in rows] == [2, 3, 4, 6]
        assert rows[0].imbalance == pytest.approx(imbalance(plan, loads))
        assert rows[1].imbalance < rows[0].imbalance / 2


def work_layout(found: Found) -> Layout:
    return Layout(found.ep, found.tp, found.pp, found.rank_order)


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 10**6), st.integers(1, 6), st.sampled_from([(8, 4), (6, 3), (16, 8)]))
def test_experts_dealt_by_load_are_never_less_even_than_without(seed: int, more: int, size: tuple[int, int]) -> None:
    experts, ep = size
    redundant = min(more * ep, experts * (ep - 1)) // ep * ep
    dealer = Dealer(read_loads(trace(layers=3, experts=experts, seed=seed), "loads.json"))
    for copies in (0, redundant):
        evenness = dealer.evenness(copies, ep)
        assert evenness.imbalance <= dealer.imbalance(deal(experts, copies, ep)) + 1e-12
        assert evenness.imbalance == pytest.approx(dealer.imbalance(dealer.deal(copies, ep)))


def test_traces_of_replicas_are_added_up() -> None:
    whole = add_up([measured(), measured(since="2026-11-20T10:00:00+00:00", tokens=5)])
    assert whole.tokens == 1000 * EXPERTS + 5
    assert whole.since.day == 20
    assert whole.layers[7] == tuple(2 * n for n in trace()["layers"]["7"])
    with pytest.raises(ValueError, match=r"loads of qwen3-30b-a3b and of other cannot be added"):
        add_up([measured(), measured(model="other")])
