"""The manifest's podTemplate, laid over the rendered pods as far as it breaks nothing."""

import pytest
from rendered import Object, deployment, environment, overridden, pods_of, runtime, violations_of


def test_overrides_merge_element_by_element() -> None:
    template = {
        "metadata": {"labels": {"team": "nlp"}},
        "spec": {
            "terminationGracePeriodSeconds": 300,
            "containers": [
                {"name": "logs", "image": "example/logs"},
                {
                    "name": "runtime",
                    "env": [{"name": "HOME", "value": "/cache"}, {"name": "NEW", "value": "1"}],
                    "volumeMounts": [{"name": "cache", "mountPath": "/cache"}],
                    "resources": {"limits": {"memory": "64Gi"}},
                    "readinessProbe": {"periodSeconds": 9},
                },
            ],
            "volumes": [{"name": "cache", "emptyDir": {}}],
        },
    }
    assert overridden(template) == []
    before = pods_of(deployment())
    after = pods_of(deployment(runtime={"podTemplate": template}))
    for old, new in zip(before, after, strict=True):
        plan = {"moe-operator.dev/plan": new["metadata"]["labels"]["moe-operator.dev/plan"]}
        assert new["metadata"]["labels"] == old["metadata"]["labels"] | plan | {"team": "nlp"}
        assert [container["name"] for container in new["spec"]["containers"]] == ["runtime", "logs"]
        assert environment(new) == environment(old) | {"HOME": "/cache", "NEW": "1"}
        assert runtime(new)["resources"]["limits"] == {"nvidia.com/gpu": "8", "memory": "64Gi"}
        assert runtime(new)["readinessProbe"] == runtime(old)["readinessProbe"] | {"periodSeconds": 9}
        assert runtime(new)["volumeMounts"][:-1] == runtime(old)["volumeMounts"]
        assert [volume["name"] for volume in new["spec"]["volumes"]] == [
            *(volume["name"] for volume in old["spec"]["volumes"]),
            "cache",
        ]
        assert new["spec"]["terminationGracePeriodSeconds"] == 300


def test_a_variable_from_a_secret_takes_the_place_of_a_plain_one() -> None:
    secret = {"secretKeyRef": {"name": "s", "key": "k"}}
    template = {"spec": {"containers": [{"name": "runtime", "env": [{"name": "HOME", "valueFrom": secret}]}]}}
    pod = pods_of(deployment(runtime={"podTemplate": template}))[0]
    assert {"name": "HOME", "valueFrom": secret} in runtime(pod)["env"]


def test_null_and_patch_directives_remove() -> None:
    template = {
        "spec": {
            "enableServiceLinks": None,
            "containers": [
                {
                    "name": "runtime",
                    "livenessProbe": None,
                    "lifecycle": {"$patch": "delete"},
                    "env": [{"$patch": "replace"}, {"name": "ONLY", "value": "1"}],
                    "volumeMounts": [{"$patch": "delete", "mountPath": "/tmp"}],
                }
            ],
        }
    }
    assert overridden(template) == []
    pod = pods_of(deployment(runtime={"podTemplate": template}))[0]
    container = runtime(pod)
    assert "enableServiceLinks" not in pod["spec"]
    assert "livenessProbe" not in container
    assert "lifecycle" not in container
    assert environment(pod) == {"ONLY": "1"}
    assert "/tmp" not in {mount["mountPath"] for mount in container["volumeMounts"]}


@pytest.mark.parametrize(
    ("template", "message"),
    [
        ({"kind": "Pod"}, "spec.runtime.podTemplate.kind: a pod template has metadata and spec"),
        (
            {"metadata": {"name": "mine"}},
            "spec.runtime.podTemplate.metadata.name: is the operator's to set; remove it",
        ),
        (
            {"metadata": {"labels": {"moe-operator.dev/slot": "7"}}},
            "spec.runtime.podTemplate.metadata.labels: moe-operator.dev/slot is the operator's to set; remove it",
        ),
        (
            {"spec": {"nodeSelector": {"a": "b"}}},
            "spec.runtime.podTemplate.spec.nodeSelector: is the operator's to set; use spec.scheduling.nodeSelector",
        ),
        (
            {"spec": {"affinity": {"$patch": "delete"}}},
            "spec.runtime.podTemplate.spec.affinity.nodeAffinity: is the operator's to set; use spec.scheduling.nodeSelector",
        ),
        (
            {"spec": {"restartPolicy": "Always"}},
            "spec.runtime.podTemplate.spec.restartPolicy: is the operator's to set; remove it",
        ),
        (
            {"spec": {"containers": [{"$patch": "delete", "name": "runtime"}]}},
            "spec.runtime.podTemplate.spec.containers: container runtime must stay",
        ),
        (
            {"spec": {"containers": [{"name": "runtime", "resources": {"limits": {"nvidia.com/gpu": "1"}}}]}},
            "spec.runtime.podTemplate.spec.containers: nvidia.com/gpu of container runtime follows from the layout: one"
            " for each rank of a slot; remove it",
        ),
        (
            {"spec": {"containers": [{"image": "x"}]}},
            "spec.runtime.podTemplate.spec.containers[0]: needs name, which tells the elements of the list apart",
        ),
        (
            {"spec": {"containers": {"name": "x"}}},
            "spec.runtime.podTemplate.spec.containers: must be a list, not a mapping",
        ),
        ({"spec": []}, "spec.runtime.podTemplate.spec: must be a mapping, not a list"),
        (
            {"spec": {"containers": ["x"]}},
            "spec.runtime.podTemplate.spec.containers[0]: must be a mapping, not a single value",
        ),
        (
            {"spec": {"$patch": "destroy"}},
            "spec.runtime.podTemplate.spec: $patch must be replace, delete or merge, not 'destroy'",
        ),
    ],
)
def test_an_override_that_would_break_the_replica_is_refused(template: Object, message: str) -> None:
    assert overridden(template) == [message]


def test_gpus_beside_the_layouts_are_refused() -> None:
    (message,) = violations_of(deployment(runtime={"resources": {"limits": {"nvidia.com/gpu": 1}}}))
    assert message.startswith("spec.runtime.resources.limits: nvidia.com/gpu follows from the layout")
