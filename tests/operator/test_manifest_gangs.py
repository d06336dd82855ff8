"""Gang schedulers: the groups and gates that each wants, and which one is chosen."""

from collections.abc import Iterable
from typing import Any

import pytest
from rendered import Object, deployment, plan_of, pods_of

from moe_operator import manifests
from moe_plan.spec import Scheduling

EVERYTHING = frozenset({"kueue.x-k8s.io", "scheduling.volcano.sh", "scheduling.k8s.io/v1alpha2"})


def gang_pods(served: Iterable[str], **scheduling: Any) -> tuple[Object, ...]:
    return pods_of(deployment(scheduling=scheduling), served)


def test_without_a_gang_scheduler_in_the_cluster_nothing_is_gated_or_grouped() -> None:
    obj = deployment()
    assert len(manifests.replica_children(obj, plan_of(obj), 0)) == 3
    for pod in pods_of(obj):
        assert not {"schedulingGates", "schedulingGroup", "schedulerName"} & pod["spec"].keys()


def test_a_queue_of_kueue_gates_the_pods_as_one_group_of_one_role() -> None:
    for pod in gang_pods(EVERYTHING, queueName="gpus"):
        assert pod["spec"]["schedulingGates"] == [{"name": "kueue.x-k8s.io/admission"}]
        assert pod["metadata"]["labels"]["kueue.x-k8s.io/queue-name"] == "gpus"
        assert pod["metadata"]["labels"]["kueue.x-k8s.io/pod-group-name"] == "mixtral-0-a1"
        assert (
            pod["metadata"]["annotations"].items()
            >= {
                "kueue.x-k8s.io/pod-group-total-count": "2",
                "kueue.x-k8s.io/role-hash": "slot",
                "kueue.x-k8s.io/retriable-in-group": "false",
            }.items()
        )


def test_volcano_binds_the_pods_of_a_group_that_counts_them() -> None:
    obj = deployment(scheduling={"gang": "volcano", "queueName": "gpus", "priorityClassName": "high"})
    group = manifests.replica_children(obj, plan_of(obj), 0, EVERYTHING)[-1]
    assert (group["apiVersion"], group["kind"]) == ("scheduling.volcano.sh/v1beta1", "PodGroup")
    assert group["spec"] == {
        "minMember": 2,
        "minResources": {"nvidia.com/gpu": "16"},
        "queue": "gpus",
        "priorityClassName": "high",
    }
    for pod in pods_of(obj, EVERYTHING):
        assert pod["spec"]["schedulerName"] == "volcano"
        assert pod["metadata"]["annotations"]["scheduling.k8s.io/group-name"] == group["metadata"]["name"]


def test_the_schedulers_own_gang_is_used_where_it_is_served() -> None:
    obj = deployment()
    group = manifests.replica_children(obj, plan_of(obj), 0, EVERYTHING)[-1]
    assert (group["apiVersion"], group["kind"]) == ("scheduling.k8s.io/v1alpha2", "PodGroup")
    assert group["spec"] == {"schedulingPolicy": {"gang": {"minCount": 2}}}
    for pod in pods_of(obj, EVERYTHING):
        assert pod["spec"]["schedulingGroup"] == {"podGroupName": group["metadata"]["name"]}


@pytest.mark.parametrize(
    ("scheduling", "served", "gang"),
    [
        ({}, EVERYTHING, "native"),
        ({}, {"scheduling.volcano.sh"}, "volcano"),
        ({}, {"scheduling.k8s.io"}, "none"),
        ({"gang": "none"}, EVERYTHING, "none"),
        ({"schedulerName": "mine"}, EVERYTHING, "none"),
        ({"schedulerName": "volcano"}, EVERYTHING, "volcano"),
        ({"queueName": "q"}, EVERYTHING, "kueue"),
        ({"queueName": "q"}, {"scheduling.volcano.sh"}, "volcano"),
        ({"gang": "volcano"}, EVERYTHING, "volcano"),
        ({"gang": "volcano"}, {"kueue.x-k8s.io"}, "none"),
    ],
)
def test_the_gang_scheduler_is_the_one_asked_for_or_the_first_that_suits(
    scheduling: Object, served: set[str], gang: str
) -> None:
    assert manifests.chosen_gang(Scheduling.model_validate(scheduling), served) == gang


@pytest.mark.parametrize(
    ("scheduling", "served", "message"),
    [
        (
            {"gang": "volcano"},
            set(),
            "spec.scheduling.gang: volcano is asked for, but the cluster does not serve scheduling.volcano.sh; install"
            " it, or set gang to auto",
        ),
        (
            {"gang": "kueue"},
            EVERYTHING,
            "spec.scheduling.gang: kueue admits replicas from a queue; set spec.scheduling.queueName",
        ),
        (
            {"queueName": "gpus"},
            {"scheduling.k8s.io/v1alpha2"},
            "spec.scheduling.queueName: nothing in the cluster serves queue gpus; install Kueue or Volcano, or remove"
            " queueName",
        ),
        (
            {"queueName": "q" * 64},
            EVERYTHING,
            "spec.scheduling.queueName: Kueue finds the queue by a label, which has at most 63 characters",
        ),
    ],
)
def test_a_gang_scheduler_that_is_not_there_is_told(scheduling: Object, served: set[str], message: str) -> None:
    (found,) = manifests.gang_violations(Scheduling.model_validate(scheduling), served)
    assert str(found) == message
