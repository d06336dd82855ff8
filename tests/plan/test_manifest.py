"""What is wrong with a manifest is said in words of the manifest, each field once, all fields at once."""

import copy
import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from moe_plan.errors import ManifestError, Violation
from moe_plan.manifest import parse_deployment

VALID: dict[str, Any] = {
    "apiVersion": "moe-operator.dev/v1alpha1",
    "kind": "MoEDeployment",
    "metadata": {"name": "qwen"},
    "spec": {
        "model": {"architecture": "qwen3-30b-a3b"},
        "hardware": {"accelerator": "h200-sxm"},
        "parallelism": {"ep": 8},
    },
}


def with_spec(**sections: Any) -> dict[str, Any]:
    return {**VALID, "spec": {**VALID["spec"], **sections}}


def said(data: Any) -> list[str]:
    with pytest.raises(ManifestError) as caught:
        parse_deployment(data)
    return [str(violation) for violation in caught.value.violations]


ACCELERATOR = {
    "memory": "64Gi",
    "flops": {"bfloat16": 4e14},
    "memoryBandwidth": "1.8e12",
    "links": [{"scope": "node", "bandwidth": "450e9", "latency": "3us"}],
}


@pytest.mark.parametrize(
    ("data", "sentences"),
    [
        (with_spec(parallelism={"ep": -1}), ["spec.parallelism.ep: must be an integer of at least 1 or auto, not -1"]),
        (with_spec(parallelism={"ep": 0}), ["spec.parallelism.ep: must be an integer of at least 1 or auto, not 0"]),
        (with_spec(parallelism={"ep": "64"}), ["spec.parallelism.ep: must be an integer or auto, not '64'"]),
        (with_spec(parallelism={"ep": 1.5}), ["spec.parallelism.ep: must be an integer or auto, not 1.5"]),
        (with_spec(parallelism={"ep": True}), ["spec.parallelism.ep: must be an integer or auto, not true"]),
        (with_spec(parallelism={"ep": None}), ["spec.parallelism.ep: must be an integer or auto, not empty"]),
        (
            with_spec(parallelism={"ep": 2**31}),
            ["spec.parallelism.ep: must be an integer of at most 2,147,483,647 or auto, not 2147483648"],
        ),
        (with_spec(parallelism={"tp": 2}), ["spec.parallelism.ep: is required"]),
        (with_spec(parallelism=[8]), ["spec.parallelism: must be a mapping, not a list"]),
        (
            with_spec(parallelism={"ep": 8, "redundantExpert": 3}),
            ["spec.parallelism.redundantExpert: unknown field; did you mean redundantExperts?"],
        ),
        (
            with_spec(parallelism={"ep": 8, "redundant_experts": 3}),
            ["spec.parallelism.redundant_experts: unknown field; did you mean redundantExperts?"],
        ),
        (
            with_spec(parallelism={"ep": 8, "gpusPerNode": 8}),
            ["spec.parallelism.gpusPerNode: unknown field; gpusPerNode belongs to spec.hardware"],
        ),
        (
            with_spec(rollout={"xyz": 1}),
            ["spec.rollout.xyz: unknown field; known are maxSurge, maxUnavailable, partition"],
        ),
        (
            with_spec(scheduling={"tolerations": [{"key": "a"}, {"keys": "b"}]}),
            ["spec.scheduling.tolerations[1].keys: unknown field; did you mean key?"],
        ),
        (
            with_spec(parallelism={"ep": 8, "rankOrder": ["pp", "pp", "tp"]}),
            ["spec.parallelism: rankOrder must name pp, ep and tp once each, not ['pp', 'pp', 'tp']"],
        ),
        (
            with_spec(parallelism={"ep": 8, "rankOrder": ["pp", "dp", "tp"]}),
            ["spec.parallelism.rankOrder[1]: must be one of pp, ep or tp, not 'dp'"],
        ),
        (
            with_spec(parallelism={"ep": 8, "rankOrder": ["pp", "ep"]}),
            ["spec.parallelism.rankOrder: must have at least 3 entries"],
        ),
        (
            with_spec(model={"architecture": "a", "config": {}}),
            ["spec.model: needs exactly one of architecture, config, configFrom; 2 of them given"],
        ),
        (
            with_spec(model={"architecture": "a", "dtype": "fp8"}),
            [
                "spec.model.dtype: must be one of auto, float32, bfloat16, float16, float8, mxfp4 or int4, not 'fp8'",
            ],
        ),
        (
            with_spec(model={"architecture": "a", "source": "https://example.org"}),
            [
                "spec.model.source: must be hf://ORG/NAME, s3://BUCKET/PATH, pvc://CLAIM/PATH, file:///PATH or random, "
                "not 'https://example.org'"
            ],
        ),
        (with_spec(model={"architecture": ""}), ["spec.model.architecture: must not be empty"]),
        (
            with_spec(workload={"ttft": "500"}),
            ["spec.workload.ttft: is not a duration: '500' (write 500ms, 3us or 1m30s)"],
        ),
        (
            with_spec(workload={"mode": "x" * 50}),
            ["spec.workload.mode: must be one of serving or training, not 'xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx...'"],
        ),
        (
            with_spec(hardware={"accelerator": "a", "memoryReserve": "110%"}),
            ["spec.hardware.memoryReserve: is not a share below 100%: '110%' (write 10%)"],
        ),
        (
            with_spec(hardware={"spec": {**ACCELERATOR, "memory": "64 GB"}}),
            ["spec.hardware.spec.memory: is not a quantity: '64 GB' (write 64Gi, 450e9 or 141000000000)"],
        ),
        (with_spec(hardware={"spec": {**ACCELERATOR, "links": []}}), ["spec.hardware.spec.links: must not be empty"]),
        (
            with_spec(hardware={"spec": {**ACCELERATOR, "links": [{"scope": "node", "bandwidth": 1, "latency": 3}]}}),
            ["spec.hardware.spec.links[0].latency: is not a duration: 3 (write 500ms, 3us or 1m30s)"],
        ),
        (with_spec(serving={"port": 70000}), ["spec.serving.port: must be an integer of at most 65,535, not 70000"]),
        (
            with_spec(serving={"capacityFactor": 0}),
            ["spec.serving.capacityFactor: must be a number more than 0, not 0"],
        ),
        (
            with_spec(failure={"allowExpertLoss": "no"}),
            ["spec.failure.allowExpertLoss: must be true or false, not 'no'"],
        ),
        ({**VALID, "metadata": {}}, ["metadata.name: is required"]),
        (
            {**VALID, "metadata": {"name": "My_Model"}},
            ["metadata.name: must be lower-case letters, digits and hyphens, the first a letter, not 'My_Model'"],
        ),
        ({**VALID, "spec": None}, ["spec: must be a mapping, not empty"]),
        ({**VALID, "kind": "Pod"}, ["kind: must be MoEDeployment, not 'Pod'"]),
        ({**VALID, "apiVersion": "v1"}, ["apiVersion: must be moe-operator.dev/v1alpha1, not 'v1'"]),
        ([], ["manifest: must be a mapping, not a list"]),
        (None, ["manifest: must be a mapping, not empty"]),
    ],
    ids=lambda value: "" if isinstance(value, list) else None,
)
def test_a_mistake_is_told_in_words_of_the_manifest(data: Any, sentences: list[str]) -> None:
    assert said(data) == sentences


def test_all_mistakes_are_told_at_once() -> None:
    data = with_spec(parallelism={"ep": 0, "tp": "2"}, workload={"concurency": 1}, serving={"port": 0})
    assert [sentence.partition(":")[0] for sentence in said(data)] == [
        "spec.parallelism.ep",
        "spec.parallelism.tp",
        "spec.workload.concurency",
        "spec.serving.port",
    ]


def test_an_object_exported_from_a_cluster_is_read_as_it_was_applied() -> None:
    exported = copy.deepcopy(VALID)
    exported["metadata"] |= {"uid": "1", "resourceVersion": "7", "managedFields": [{}], "creationTimestamp": None}
    exported["status"] = {"conditions": [{"type": "Ready"}]}
    assert parse_deployment(exported).spec == parse_deployment(VALID).spec


def test_quantities_and_durations_are_read_in_kubernetes_notation() -> None:
    spec = parse_deployment(with_spec(hardware={"spec": ACCELERATOR}, workload={"tpot": "20ms"})).spec
    assert spec.hardware.spec is not None
    assert spec.hardware.spec.memory == 64 * 2**30
    assert spec.hardware.spec.links[0].latency == pytest.approx(3e-6)
    assert spec.workload.tpot == pytest.approx(0.020)


JARGON = ("pydantic", "http", "Input should", "union", "literal[", "constrained", "Value error", "extra_forbidden", "<")

junk = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=6,
)
PATHS = [
    ("metadata", "name"),
    ("spec",),
    ("spec", "model", "source"),
    ("spec", "model", "dtype"),
    ("spec", "parallelism", "ep"),
    ("spec", "parallelism", "rankOrder"),
    ("spec", "hardware", "spec"),
    ("spec", "hardware", "memoryReserve"),
    ("spec", "workload", "ttft"),
    ("spec", "topology", "levels"),
    ("spec", "scheduling", "nodeSelector"),
    ("spec", "scheduling", "tolerations"),
    ("spec", "runtime", "resources"),
    ("spec", "runtime", "env"),
    ("spec", "serving", "capacityFactor"),
]


@settings(max_examples=300, deadline=None)
@given(st.sampled_from(PATHS), junk)
def test_whatever_a_field_holds_the_answer_is_a_sentence_about_it(path: tuple[str, ...], value: Any) -> None:
    data = copy.deepcopy(VALID)
    place = data
    for step in path[:-1]:
        place = place.setdefault(step, {})
    place[path[-1]] = value
    allowed = json.dumps(value, default=str)
    for violation in violations_of(data):
        assert violation.field.startswith((".".join(path), ".".join(path[:-1])))
        told = violation.message.replace(repr(value), "") if isinstance(value, str) else violation.message
        assert not [word for word in JARGON if word in told and word not in allowed]


def violations_of(data: Any) -> tuple[Violation, ...]:
    try:
        parse_deployment(data)
    except ManifestError as error:
        return error.violations
    return ()
