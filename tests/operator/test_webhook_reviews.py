"""What the webhook answers to a review: the verdict, the warnings, and no trouble whatever it is asked."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from reviews import Object, answer, asked, example

from moe_operator.verdict import verdict
from moe_operator.webhook.review import ReviewError, review
from moe_plan.errors import ManifestError
from moe_plan.manifest import parse_deployment
from moe_plan.planner import make_plan


def refusal_of(manifest: Object) -> ManifestError:
    with pytest.raises(ManifestError) as caught:
        make_plan(parse_deployment(manifest))
    return caught.value


@pytest.mark.parametrize("seed", ["seed-s2", "qwen3-235b"])
def test_a_manifest_that_works_is_admitted(seed: str) -> None:
    assert answer(example(seed)) == {"uid": "42", "allowed": True}


@pytest.mark.parametrize("seed", ["seed-s1", "seed-s3", "seed-s4"])
def test_what_the_plan_warns_of_is_a_warning_of_kubectl(seed: str) -> None:
    response = answer(example(seed))
    assert response["allowed"]
    assert response["warnings"] == list(make_plan(parse_deployment(example(seed))).warnings)
    assert response["warnings"]


def test_a_refusal_has_the_verdict_for_all_and_its_parts_for_kubectl() -> None:
    manifest = example("seed-s1", ep=48, tp=3)
    error, status = refusal_of(manifest), answer(manifest)["status"]
    assert (status["code"], status["reason"], status["message"]) == (422, "Invalid", verdict(error))
    *causes, nearest = status["details"]["causes"]
    assert [f"{cause['field']}: {cause['message']}" for cause in causes] == [str(v) for v in error.violations]
    assert [cause["reason"] for cause in causes] == [violation.code for violation in error.violations]
    assert nearest["message"].split("\n  ")[1:] == list(error.nearest)


def test_a_change_is_not_refused_for_what_was_wrong_before_it() -> None:
    old = example("seed-s2-as-written")
    new = example("seed-s2-as-written")
    new["spec"]["replicas"] = 0
    response = answer(new, old)
    assert response["allowed"]
    assert response["warnings"][0].startswith("not valid, as before this change: spec.parallelism.ep: ep 64 over 16")


def test_a_change_is_refused_for_what_it_adds() -> None:
    old, new = example("seed-s2-as-written"), example("seed-s2-as-written", tp=3)
    assert not answer(new, old)["allowed"]
    assert not answer(example("seed-s2-as-written"), example("seed-s2"))["allowed"]


def test_what_an_older_operator_accepted_can_still_be_repaired_and_edited() -> None:
    old = example("seed-s1")
    old["spec"]["parallelism"]["virtualStages"] = 2
    edited = json.loads(json.dumps(old))
    edited["spec"]["replicas"] = 2
    assert answer(example("seed-s1"), old)["allowed"]
    assert answer(edited, old)["allowed"]
    assert answer(old, example("seed-s1"))["allowed"] is False


def from_config_map(**hardware: Any) -> Object:
    manifest = example("seed-s1")
    manifest["spec"]["model"] = {"configFrom": {"configMapKeyRef": {"name": "models", "key": "config.json"}}}
    manifest["spec"]["hardware"] |= hardware
    return manifest


def test_a_model_in_a_config_map_is_left_to_the_operator_and_that_is_said() -> None:
    assert answer(from_config_map()) == {
        "uid": "42",
        "allowed": True,
        "warnings": [
            "spec.model.configFrom: the operator checks degrees and memory when it reads ConfigMap models; "
            "see condition ParallelismValid of seed-s1"
        ],
    }


def test_what_can_be_told_without_the_config_map_is_told() -> None:
    causes = answer(from_config_map(accelerator="h200"))["status"]["details"]["causes"]
    assert [cause["field"] for cause in causes] == ["spec.hardware.accelerator"]


def test_a_refusal_of_a_thousand_mistakes_stays_readable() -> None:
    manifest = example("seed-s1")
    manifest["spec"] |= {f"unknown{number}": "x" * 5000 for number in range(1000)}
    status = answer(manifest)["status"]
    assert len(json.dumps(status)) < 100_000
    assert len(status["details"]["causes"]) < 50


def test_warnings_are_single_lines_as_http_headers_must_be() -> None:
    manifest = example("seed-s2-as-written")
    manifest["spec"]["model"]["architecture"] = "a\r\nb\x00c"
    for line in answer(manifest, manifest)["warnings"]:
        assert line.isprintable()


@pytest.mark.parametrize(
    "question",
    [None, [], {}, {"request": None}, {"request": {}}, asked(None), asked("text"), asked({}), asked({"metadata": 1})],
)
def test_what_is_no_review_is_said_to_be_none(question: Any) -> None:
    with pytest.raises(ReviewError):
        review(question)


junk = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)


@given(st.sampled_from(["model", "hardware", "parallelism", "workload", "scheduling", "runtime"]), junk, junk)
def test_no_object_makes_a_review_fail(section: str, value: Any, metadata: Any) -> None:
    manifest = example("seed-s1")
    manifest["spec"][section] = value
    manifest["metadata"]["labels"] = metadata
    response = answer(manifest)
    assert response["allowed"] or response["status"]["message"]
    json.dumps(response).encode()
