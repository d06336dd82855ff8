"""`auto` gives the best layout that the algebra allows, and keeps the degrees that are given."""

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from manifests import manifest

from moe_plan.errors import ManifestError
from moe_plan.layout import Layout
from moe_plan.planner import make_plan
from moe_plan.rules import expert_rules, tensor_rules, world_rules
from moe_plan.search.choice import Choice, Forecast, fits, forecast, shortfall, work_out
from moe_plan.spec import MoEDeployment
from moe_plan.subject import Subject, resolve

EXAMPLES = Path(__file__).parents[2] / "examples"


def violations(deployment: MoEDeployment) -> dict[str, str]:
    with pytest.raises(ManifestError) as caught:
        make_plan(deployment)
    return {violation.code: str(violation) for violation in caught.value.violations}


def one_by_one(subject: Subject, gpus: int) -> Iterator[Forecast]:
    """Every layout without copies of experts that the rules allow, worked out as a plan is."""
    degrees = range(1, gpus + 1)
    for layout in (Layout(ep, tp, pp) for ep in degrees for tp in degrees for pp in degrees if ep * tp * pp <= gpus):
        if any(
            [*expert_rules(subject, layout.ep, 0), *tensor_rules(subject, layout.tp), *world_rules(subject, layout)]
        ):
            continue
        draft = work_out(subject, Choice(layout, 0))
        if fits(subject, draft):
            yield forecast(subject, draft)


def test_it_takes_the_fastest_of_all_valid_layouts_within_gpus() -> None:
    deployment = manifest({"ep": "auto", "tp": "auto", "pp": "auto", "gpus": 16})
    everything = list(one_by_one(resolve(deployment, None), 16))
    assert len(everything) > 20
    best = max(found.prediction.tokens_per_s for found in everything)
    assert make_plan(deployment).prediction.tokens_per_s == pytest.approx(best)


@pytest.mark.parametrize("free", ["ep", "tp", "pp"])
def test_each_degree_can_be_left_alone(free: str) -> None:
    given = {"ep": 8, "tp": 2, "pp": 2}
    plan = make_plan(manifest({**given, free: "auto", "gpus": 32}))
    for name, value in given.items():
        assert getattr(plan.degrees, name) == value or name == free


def test_what_is_not_auto_is_kept() -> None:
    kept = {"rankOrder": ["ep", "pp", "tp"], "redundantExperts": 16, "microBatches": 3}
    plan = make_plan(manifest({"ep": "auto", "tp": 2, "pp": 2, "gpus": 64, **kept}, replicas=3))
    assert (plan.rank_order, plan.experts.redundant) == (("ep", "pp", "tp"), 16)
    assert (plan.micro_batches, plan.replicas) == (3, 3)
    assert (128 + 16) % plan.degrees.ep == 0


def test_what_it_chose_plans_to_the_same_when_written_down() -> None:
    auto = make_plan(manifest({"ep": "auto", "tp": "auto", "pp": 2, "gpus": 32}))
    written = {"ep": auto.degrees.ep, "tp": auto.degrees.tp, "pp": 2, "microBatches": auto.micro_batches}
    assert make_plan(manifest({**written, "gpus": 32})) == auto


def test_without_gpus_the_fewest_that_meet_the_targets_are_taken() -> None:
    reached = make_plan(manifest({"ep": 16}, workload={"concurrency": 256})).prediction.tpot
    workload = {"concurrency": 256, "tpot": f"{reached * 1.001 * 1e6:.0f}us"}
    plan = make_plan(manifest({"ep": "auto", "tp": "auto", "pp": "auto"}, workload=workload))
    assert plan.prediction.tpot <= reached * 1.001
    assert plan.degrees.world <= 16
    subject = resolve(manifest({"ep": 1}, workload=workload), None)
    fewer = one_by_one(subject, plan.degrees.world - 1)
    assert all(shortfall(subject, found) > 0 for found in fewer)


def test_targets_are_met_before_tokens_are_counted() -> None:
    long = {"concurrency": 64, "inputTokens": 16000, "outputTokens": 4000}
    free = {"ep": "auto", "tp": "auto", "pp": "auto", "gpus": 16}
    fastest = make_plan(manifest(free, workload=long)).prediction
    subject = resolve(manifest({"ep": 1}, workload=long), None)
    quickest = min(one_by_one(subject, 16), key=lambda found: found.prediction.ttft).prediction
    assert quickest.ttft < fastest.ttft
    target = (quickest.ttft + fastest.ttft) / 2
    quick = make_plan(manifest(free, workload={**long, "ttft": f"{target * 1e9:.0f}ns"})).prediction
    assert quick.ttft <= target * 1.001
    assert quick.tokens_per_s < fastest.tokens_per_s


def test_without_gpus_and_targets_it_asks_for_either() -> None:
    found = violations(manifest({"ep": "auto", "pp": "auto"}))
    assert found == {
        "GpusOrTargetsNeeded": "spec.parallelism.gpus: ep and pp are auto, but nothing says for how many GPUs; "
        "set gpus, or a target that the fewest GPUs are to meet: spec.workload.ttft or spec.workload.tpot"
    }


def test_too_few_gpus_are_told_with_layouts_that_work() -> None:
    with pytest.raises(ManifestError) as caught:
        make_plan(manifest({"ep": "auto", "tp": "auto", "pp": "auto", "gpus": 2}, "deepseek-v3"))
    assert "no layout of up to 2 h200-sxm GPUs" in str(caught.value)
    assert len(caught.value.nearest) == 3


def test_a_wrong_degree_beside_auto_is_told() -> None:
    assert violations(manifest({"ep": "auto", "tp": 3, "gpus": 16})).keys() == {
        "HeadsNotDivisible",
        "KvHeadsNotDivisible",
    }


def test_targets_beyond_1024_gpus_are_refused_with_what_is_reached() -> None:
    found = violations(manifest({"ep": "auto"}, workload={"tpot": "1us"}))
    assert "no layout of up to 1,024 GPUs a replica meets the targets" in found["TargetsOutOfReach"]


def test_an_engine_that_cannot_express_a_layout_is_not_given_it() -> None:
    free = {"ep": "auto", "tp": "auto", "pp": "auto", "gpus": 8}
    plan = make_plan(manifest(free, runtime={"engine": "vllm"}))
    assert plan.degrees.ep == 1 or plan.degrees.tp == 1


def test_a_plan_without_auto_starts_without_numpy() -> None:
    program = (
        "import sys, yaml; from moe_plan.manifest import parse_deployment; from moe_plan.planner import make_plan; "
        f"make_plan(parse_deployment(yaml.safe_load(open({str(EXAMPLES / 'qwen3-235b.yaml')!r})))); "
        "sys.exit('numpy' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", program], check=False, timeout=60).returncode == 0
