"""The search finds what looking at every layout one by one finds, and its results are what a plan of them says."""

import math
from collections.abc import Iterator
from itertools import permutations
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from manifests import SMALL_MODEL, manifest

from moe_plan.errors import ManifestError
from moe_plan.layout import DIMENSIONS, Layout
from moe_plan.plan import Plan
from moe_plan.planner import make_plan
from moe_plan.rules import expert_rules, stage_rules, tensor_rules, world_rules
from moe_plan.search.choice import Choice, Forecast, fits, forecast, shortfall, work_out
from moe_plan.search.compare import compare
from moe_plan.search.find import any_load, front_of, search
from moe_plan.search.result import Found, SearchResult
from moe_plan.search.space import space
from moe_plan.spec import MoEDeployment
from moe_plan.subject import Subject, resolve

GPUS = 8
TOLERANCE = 0.011
"""More copies of experts that save less than 1 % are not looked at."""

BATCHES = tuple(2**step for step in range(8))
"""Requests a shard that the front looks at, beside what a KV cache holds."""

NODES_OF_FOUR: dict[str, Any] = {
    "spec": {
        "memory": "2Gi",
        "flops": {"bfloat16": "100e12"},
        "memoryBandwidth": "1e12",
        "links": [
            {"scope": "node", "bandwidth": "200e9", "latency": "3us"},
            {"scope": "cluster", "bandwidth": "25e9", "latency": "5us"},
        ],
    },
    "gpusPerNode": 4,
}


def small(**workload: Any) -> MoEDeployment:
    return manifest({"ep": 4}, {"config": SMALL_MODEL}, hardware=NODES_OF_FOUR, workload=workload)


def written_down(deployment: MoEDeployment, found: Found) -> MoEDeployment:
    """The manifest that somebody writes who takes a result."""
    data = deployment.model_dump(by_alias=True, exclude_unset=True, mode="json")
    data["spec"]["parallelism"] = {
        "ep": found.ep,
        "tp": found.tp,
        "pp": found.pp,
        "redundantExperts": found.redundant_experts,
        "rankOrder": list(found.rank_order),
        "microBatches": found.micro_batches,
    }
    data["spec"]["replicas"] = found.replicas
    data["spec"]["workload"] = {**data["spec"].get("workload", {}), "concurrency": found.concurrency}
    return deployment.model_copy(update={"spec": type(deployment.spec).model_validate(data["spec"])})


def says_the_same(plan: Plan, found: Found) -> bool:
    prediction = plan.prediction
    told = (found.ttft, found.tpot, found.tokens_per_s, found.tokens_per_s_per_gpu, found.batch_per_shard)
    planned = (
        prediction.ttft,
        prediction.tpot,
        prediction.tokens_per_s,
        prediction.tokens_per_s_per_gpu,
        prediction.batch_per_shard,
    )
    return plan.degrees.world * plan.replicas == found.gpus and told == pytest.approx(planned, rel=1e-9)


def one_by_one(deployment: MoEDeployment, gpus: int) -> Iterator[tuple[Subject, Forecast]]:
    """Every layout that the rules allow, worked out as a plan is: the search's reference."""
    subject = resolve(deployment, None)
    for ep, tp, pp in ((ep, tp, pp) for ep in range(1, 9) for tp in range(1, 9) for pp in range(1, 9)):
        layouts = [Layout(ep, tp, pp, order) for order in permutations(DIMENSIONS)] if ep * tp * pp <= gpus else []
        for layout in layouts:
            if any([*tensor_rules(subject, tp), *stage_rules(subject, pp), *world_rules(subject, layout)]):
                continue
            for redundant in range(subject.experts * (ep - 1) + 1):
                if any(expert_rules(subject, ep, redundant)):
                    continue
                for replicas in range(1, gpus // layout.world + 1):
                    of = replicated(deployment, replicas)
                    draft = work_out(of, Choice(layout, redundant))
                    if fits(of, draft):
                        yield of, forecast(of, draft)


def replicated(deployment: MoEDeployment, replicas: int) -> Subject:
    spec = deployment.spec.model_copy(update={"replicas": replicas})
    return resolve(deployment.model_copy(update={"spec": spec}), None)


def gpus_of(subject: Subject, found: Forecast) -> int:
    return found.draft.choice.layout.world * subject.spec.replicas


@pytest.mark.parametrize(
    "workload",
    [
        {"concurrency": 3, "inputTokens": 100, "outputTokens": 50},
        {"concurrency": 64, "inputTokens": 2000, "outputTokens": 20},
        {"concurrency": 400, "inputTokens": 700, "outputTokens": 300, "tpot": "60ms", "ttft": "20s"},
        {"concurrency": 16, "inputTokens": 200, "outputTokens": 1},
        {"mode": "training", "inputTokens": 256, "outputTokens": 256, "concurrency": 8},
    ],
    ids=str,
)
def test_the_best_and_the_fewest_gpus_are_those_that_looking_at_every_layout_finds(workload: dict[str, Any]) -> None:
    deployment = small(**workload)
    subject = resolve(deployment, None)
    found = search(subject, space(subject, GPUS, ()))
    assert found.best is not None
    best = found.workload.found(found.best)
    everything = list(one_by_one(deployment, GPUS))
    assert len(everything) > 100
    least = min(shortfall(of, one) for of, one in everything)
    fastest = max(one.prediction.tokens_per_s for of, one in everything if shortfall(of, one) == least)
    assert found.workload.shortfall[found.best] == pytest.approx(least, abs=TOLERANCE)
    assert fastest * (1 - TOLERANCE) <= best.tokens_per_s <= fastest * (1 + 1e-9)
    if least == 0:
        assert found.fewest is not None
        fewest = found.workload.found(found.fewest)
        assert fewest.gpus == min(gpus_of(of, one) for of, one in everything if shortfall(of, one) == 0)


@pytest.mark.parametrize("ep", [16, 24, 64])
def test_copies_of_experts_are_added_as_far_as_they_pay(ep: int) -> None:
    workload = {"concurrency": 8 * ep, "inputTokens": 4000, "outputTokens": 20}
    deployment = manifest({"ep": ep}, "qwen3-30b-a3b", workload=workload)
    subject = resolve(deployment, None)
    found = search(subject, space(subject, ep, ("ep", "tp", "pp", "replicas", "rankOrder")))
    assert found.best is not None
    best = found.workload.found(found.best)
    drafts = [work_out(subject, Choice(Layout(ep, 1, 1), ep * k - 128)) for k in range(-(-128 // ep), 129)]
    forecasts = [forecast(subject, draft) for draft in drafts if fits(subject, draft)]
    fastest = max(one.prediction.tokens_per_s for one in forecasts)
    assert forecasts[0].prediction.tokens_per_s < fastest * (1 - TOLERANCE)
    assert fastest * (1 - TOLERANCE) <= best.tokens_per_s <= fastest * (1 + 1e-9)


@pytest.mark.slow
@pytest.mark.parametrize(
    "workload", [{"inputTokens": 100, "outputTokens": 50}, {"inputTokens": 2000, "outputTokens": 20}]
)
def test_no_layout_beats_the_front_at_any_load(workload: dict[str, Any]) -> None:
    subject = resolve(small(**workload), None)
    loaded = any_load(search(subject, space(subject, GPUS, ())))
    points = [loaded.found(point) for point in front_of(loaded)]
    for concurrency in (1, 8, 64):
        for of, one in one_by_one(small(**workload, concurrency=concurrency), GPUS):
            layout, prediction, batch = (
                one.draft.choice.layout,
                one.prediction,
                concurrency / one.draft.choice.layout.ep,
            )
            fewest_copies = one.draft.choice.redundant < layout.ep
            if of.spec.replicas > 1 or not fewest_copies or batch not in BATCHES or one.kv.requests_per_shard < batch:
                continue
            assert any(
                point.tokens_per_s_per_gpu >= prediction.tokens_per_s_per_gpu * (1 - 1e-9)
                and point.tpot <= prediction.tpot * (1 + 1e-9)
                and point.ttft <= prediction.ttft * (1 + 1e-9)
                for point in points
            )


@pytest.fixture(scope="module")
def deployment() -> MoEDeployment:
    return manifest({"ep": 16}, workload={"concurrency": 256, "inputTokens": 900, "outputTokens": 300})


@pytest.fixture(scope="module")
def result(deployment: MoEDeployment) -> SearchResult:
    return compare(deployment, gpus=64)


def test_a_plan_of_a_result_has_its_memory_and_prediction(deployment: MoEDeployment, result: SearchResult) -> None:
    assert result.fewest is not None
    for found in (result.best, result.fewest, *result.runners_up, *result.front[:: max(1, len(result.front) // 6)]):
        assert says_the_same(make_plan(written_down(deployment, found)), found)


def test_the_front_falls_in_rate_and_no_point_beats_another(result: SearchResult) -> None:
    rates = [found.tokens_per_s_per_gpu for found in result.front]
    assert rates == sorted(rates, reverse=True)
    assert len(rates) > 5
    for one in result.front:
        for other in result.front:
            beats = (
                other.tokens_per_s_per_gpu >= one.tokens_per_s_per_gpu
                and other.tpot <= one.tpot
                and other.ttft <= one.ttft
            )
            assert other is one or not beats


def test_runners_up_are_other_layouts_in_order_and_each_has_a_reason(result: SearchResult) -> None:
    degrees = [(f.ep, f.tp, f.pp) for f in (result.best, *result.runners_up)]
    assert len(set(degrees)) == len(degrees) == 6
    speeds = [found.tokens_per_s for found in (result.best, *result.runners_up)]
    assert speeds == sorted(speeds, reverse=True)
    for runner_up in result.runners_up:
        assert "tokens/s" in runner_up.loses or "as fast" in runner_up.loses


def test_the_same_manifest_gives_the_same_bytes(deployment: MoEDeployment, result: SearchResult) -> None:
    assert compare(deployment, gpus=64).model_dump_json() == result.model_dump_json()


def test_the_manifests_own_layout_is_compared(result: SearchResult) -> None:
    assert result.written is not None
    assert result.written.layout is not None
    assert (result.written.layout.ep, result.written.layout.gpus) == (16, 16)
    assert result.written.layout.tokens_per_s <= result.best.tokens_per_s
    assert "fewer tokens/s" in result.written.layout.loses


def test_kept_fields_stay_as_written() -> None:
    deployment = manifest({"ep": 8, "tp": 2, "pp": 2}, replicas=2)
    found = compare(deployment, gpus=64, keep=("tp", "pp", "replicas", "redundantExperts", "rankOrder"))
    for one in (found.best, *found.runners_up, *found.front):
        assert (one.tp, one.pp, one.redundant_experts, one.rank_order) == (2, 2, 0, ("pp", "ep", "tp"))
    assert {one.replicas for one in (found.best, *found.runners_up)} == {2}


def test_an_invalid_layout_is_answered_with_its_neighbours_least_loss_first() -> None:
    found = compare(manifest({"ep": 30, "tp": 3}), gpus=64)
    assert found.written is not None
    assert found.written.layout is None
    assert any("tp 3" in violation for violation in found.written.violations)
    losses = [near.loss for near in found.written.neighbours]
    assert losses == sorted(losses)
    assert len(losses) == 3
    for near in found.written.neighbours:
        assert near.loss == pytest.approx(1 - near.tokens_per_s / found.best.tokens_per_s)
        assert near.changes >= 1


def test_a_search_is_answered_where_no_layout_holds_the_copies_tried_first() -> None:
    deployment = manifest(
        {"ep": 1, "tp": 4, "pp": 8},
        "kimi-k2",
        hardware={"accelerator": "seed-64gb"},
        workload={"inputTokens": 4096, "outputTokens": 128, "concurrency": 7},
        serving={"maxBatchTokens": 256},
    )
    assert compare(deployment).best.gpus <= 32


def test_more_gpus_never_make_the_best_slower() -> None:
    deployment = manifest({"ep": 8}, workload={"concurrency": 64})
    speeds = [compare(deployment, gpus=gpus).best.tokens_per_s for gpus in (8, 16, 64)]
    assert speeds == sorted(speeds)


@pytest.mark.slow
@settings(max_examples=15)
@given(
    st.sampled_from(["qwen3-30b-a3b", "gpt-oss-20b", "mixtral-8x7b", "deepseek-v2-lite"]),
    st.sampled_from(["moe", "sglang", "vllm", "tensorrt-llm"]),
    st.integers(1, 40),
    st.integers(1, 3000),
    st.integers(1, 3000),
    st.sampled_from([1, 10, 1000]),
)
def test_what_is_told_of_any_manifest_is_what_its_plan_says(
    model: str, engine: str, gpus: int, concurrency: int, prompt: int, output: int
) -> None:
    workload = {"concurrency": concurrency, "inputTokens": min(prompt, 2000), "outputTokens": min(output, 1000)}
    deployment = manifest({"ep": 4}, model, workload=workload, runtime={"engine": engine})
    try:
        found = compare(deployment, gpus=gpus)
    except ManifestError as error:
        assert {violation.code for violation in error.violations} <= {"NoLayoutFits", "TargetsOutOfReach"}  # noqa: PT017
        return
    for one in (found.best, found.front[0], found.front[-1]):
        assert one.gpus <= gpus
        assert says_the_same(make_plan(written_down(deployment, one)), one)


class TestWhatCannotBe:
    def refused(self, deployment: MoEDeployment, gpus: int | None = None, **options: Any) -> str:
        with pytest.raises(ManifestError) as caught:
            compare(deployment, gpus=gpus, **options)
        return str(caught.value)

    def test_a_target_that_nothing_meets_is_told_with_what_comes_nearest_and_what_binds(self) -> None:
        told = self.refused(manifest({"ep": 8}, workload={"tpot": "1us"}), 16)
        assert "no layout of up to 16 GPUs meets the targets; the nearest, ep " in told
        assert "misses 1 µs, " in told
        assert " of it; relax the targets or lower concurrency" in told

    def test_more_gpus_that_would_do_are_named(self) -> None:
        fastest = compare(manifest({"ep": 8}), gpus=512).best
        target = f"{math.ceil(fastest.tpot * 1.01 * 1e6)}us"
        told = self.refused(manifest({"ep": 8}, workload={"tpot": target}), 2)
        assert "no layout of up to 2 GPUs meets the targets" in told
        assert " GPUs do: ep " in told

    def test_concurrency_beyond_the_caches_is_told_with_the_requests_that_fit(self) -> None:
        told = self.refused(manifest({"ep": 8}, workload={"concurrency": 10**6}), 8)
        assert "its KV caches hold " in told
        assert " of 1,000,000 requests" in told

    def test_a_model_that_does_not_fit_is_told_with_the_gpus_on_which_it_does(self) -> None:
        told = self.refused(manifest({"ep": 8}, "deepseek-v3"), 4)
        assert (
            "no layout of up to 4 h200-sxm GPUs, 8 a node, both splits deepseek-v3 evenly and holds it; the least that does has"
            in told
        )

    def test_a_model_that_fits_nowhere_is_told_as_that(self) -> None:
        tiny = {"spec": {**NODES_OF_FOUR["spec"], "memory": "100Mi"}}
        told = self.refused(manifest({"ep": 8}, "deepseek-v3", hardware=tiny), 1024)
        assert "no layout of up to 1,024 custom GPUs" in told
        assert "choose GPUs with more memory" in told

    def test_requests_longer_than_the_model_can_are_refused(self) -> None:
        assert "positions" in self.refused(manifest({"ep": 8}, workload={"inputTokens": 10**7}), 8)

    def test_nothing_that_says_how_many_gpus_is_asked_for(self) -> None:
        assert "set gpus or give --gpus" in self.refused(manifest({"ep": "auto"}))

    def test_a_kept_field_that_cannot_work_is_told(self) -> None:
        assert "cannot be split over tp 3" in self.refused(manifest({"ep": 8, "tp": 3}), 64, keep=("tp",))
