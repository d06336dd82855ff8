import copy
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest
import yaml
from control_plane import ControlPlane
from goldens import Golden
from hypothesis import given, settings
from hypothesis import strategies as st

from moe_operator import manifests
from moe_operator.manifests.naming import LONGEST
from moe_operator.manifests.templating import as_yaml
from moe_plan.manifest import parse_deployment
from moe_plan.plan import Plan
from moe_plan.planner import make_plan
from moe_plan.spec import Scheduling

ROOT = Path(__file__).parents[2]
GOLDEN = Path(__file__).parent / "golden"
SEEDS = ("seed-s1", "seed-s2", "seed-s3", "seed-s4")
DRY_RUN = ("apply", "--server-side", "--force-conflicts", "--dry-run=server", "--field-manager=moe-operator")
EVERYTHING = frozenset({"kueue.x-k8s.io", "scheduling.volcano.sh", "scheduling.k8s.io/v1alpha2"})

Object = dict[str, Any]


def deployment(**spec: Any) -> Object:
    """Two slots of eight ranks."""
    base: Object = {
        "model": {"architecture": "mixtral-8x7b", "source": "pvc://models/mixtral"},
        "hardware": {"accelerator": "h100-sxm", "gpusPerNode": 8},
        "parallelism": {"ep": 8, "tp": 2},
    }
    metadata = {"name": "mixtral", "namespace": "team", "uid": "0123"}
    return {
        "apiVersion": "moe-operator.dev/v1alpha1",
        "kind": "MoEDeployment",
        "metadata": metadata,
        "spec": base | spec,
    }


def plan_of(obj: Object) -> Plan:
    metadata = {key: obj["metadata"][key] for key in ("name", "namespace")}
    return make_plan(parse_deployment({**obj, "metadata": metadata}))


def pods_of(obj: Object, served: Iterable[str] = ()) -> tuple[Object, ...]:
    plan = plan_of(obj)
    nodes = [f"node-{slot}" for slot in range(plan.slots)]
    return manifests.pods(obj, plan, 0, 1, nodes, frozenset(served))


def runtime(pod: Object) -> Object:
    return next(container for container in pod["spec"]["containers"] if container["name"] == "runtime")


def environment(pod: Object) -> dict[str, Any]:
    variables = runtime(pod)["env"]
    assert len({variable["name"] for variable in variables}) == len(variables)
    return {variable["name"]: variable.get("value", variable.get("valueFrom")) for variable in variables}


def violations_of(**spec: Any) -> list[str]:
    """Of a deployment that is not created yet."""
    obj = deployment(**spec)
    del obj["metadata"]["uid"]
    return [str(violation) for violation in manifests.violations(obj, plan_of(obj))]


def overridden(template: Object) -> list[str]:
    return violations_of(runtime={"podTemplate": template})


# Golden files


def whole_replica(seed: str) -> list[Object]:
    """All that replica 0 of a seed needs, with three of its pods; the plan itself is tested elsewhere."""
    obj = yaml.safe_load((ROOT / "examples" / f"{seed}.yaml").read_text())
    obj["metadata"] |= {"namespace": "team", "uid": "a2f1c1de-0000-4000-8000-000000000000"}
    plan = plan_of(obj)
    nodes = [f"node-{slot}" for slot in range(plan.slots)]
    pods = manifests.pods(obj, plan, 0, 1, nodes)
    return [
        *manifests.deployment_children(obj, plan, "{}"),
        manifests.record(obj, plan, 0, {"plan": plan.hash, "attempt": 1, "nodes": nodes}),
        *manifests.replica_children(obj, plan, 0),
        *(pods[slot] for slot in (0, 1, -1)),
    ]


@pytest.mark.parametrize("seed", SEEDS)
def test_children_of_each_seed_are_as_in_its_golden_file(seed: str, golden: Golden) -> None:
    golden(GOLDEN / f"{seed}.yaml", yaml.safe_dump_all(whole_replica(seed), sort_keys=False, width=120))


@pytest.fixture(scope="module")
def restricted(plane: ControlPlane) -> ControlPlane:
    """Namespace team refuses what the Pod Security level `restricted` refuses; accounts are there."""
    levels = {"pod-security.kubernetes.io/enforce": "restricted", "pod-security.kubernetes.io/warn": "restricted"}
    plane.apply({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "team", "labels": levels}})
    for name in (*SEEDS, "mixtral"):
        metadata = {"name": name, "namespace": "team"}
        plane.apply({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": metadata})
    return plane


@pytest.mark.slow
@pytest.mark.parametrize("seed", SEEDS)
def test_the_api_server_accepts_each_golden_file_under_the_restricted_level(
    restricted: ControlPlane, seed: str
) -> None:
    assert refusals(restricted, whole_replica(seed)) == []


def refusals(plane: ControlPlane, objects: Iterable[Object]) -> list[str]:
    """What the API server says of objects that are applied as the operator applies them, none of it stored."""
    done = plane.kubectl(*DRY_RUN, "-f", "-", stdin=yaml.safe_dump_all(objects))
    return done.stderr.splitlines()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("what", "spec"),
    [
        ("fetched weights", {"model": {"architecture": "mixtral-8x7b", "source": "hf://mistralai/Mixtral-8x7B-v0.1"}}),
        ("claimed weights", {"model": {"architecture": "mixtral-8x7b", "source": "pvc://models/mixtral"}}),
        ("secret", {"serving": {"apiKeySecretRef": {"name": "keys", "key": "mixtral"}, "port": 29500}}),
        (
            "runtime",
            {
                "runtime": {
                    "image": "example/moe:1",
                    "args": ["--device", "cpu", "$(POD_IP)"],
                    "env": [{"name": "HOME", "value": "/x"}, {"name": "A", "value": "1"}, {"name": "A", "value": "2"}],
                    "resources": {"requests": {"cpu": 4, "memory": "8Gi"}, "limits": {"memory": "16Gi"}},
                    "podTemplate": {
                        "metadata": {"labels": {"team": "x"}, "annotations": {"a/b": "ü"}},
                        "spec": {
                            "priority": None,
                            "imagePullSecrets": [{"name": "pull"}],
                            "volumes": [{"name": "model", "emptyDir": {"sizeLimit": "1Gi"}}],
                            "containers": [{"name": "runtime", "env": [{"name": "B", "value": "3"}]}],
                        },
                    },
                },
            },
        ),
        (
            "scheduling",
            {
                "scheduling": {
                    "nodeSelector": {"pool": "gpu"},
                    "tolerations": [{"key": "nvidia.com/gpu", "operator": "Exists", "effect": "NoSchedule"}],
                    "schedulerName": "default-scheduler",
                    "gang": "none",
                },
            },
        ),
    ],
)
def test_the_api_server_accepts_each_kind_of_pod_under_the_restricted_level(
    restricted: ControlPlane, what: str, spec: Object
) -> None:
    obj = deployment(**spec)
    plan = plan_of(obj)
    children = [
        *manifests.deployment_children(obj, plan, plan.model_dump_json()),
        *manifests.replica_children(obj, plan, 0),
    ]
    assert refusals(restricted, [*children, *pods_of(obj)]) == [], what


@pytest.mark.slow
def test_weights_in_a_directory_of_the_nodes_are_refused_under_the_restricted_level(restricted: ControlPlane) -> None:
    pods = pods_of(deployment(model={"architecture": "mixtral-8x7b", "source": "file:///srv/models/x"}))
    assert any(
        'restricted volume types (volume "model" uses restricted volume type "hostPath")' in line
        for line in refusals(restricted, pods)
    )


@pytest.mark.slow
def test_the_server_stores_what_was_rendered(restricted: ControlPlane) -> None:
    obj = deployment()
    plan = plan_of(obj)
    rendered = [
        *manifests.deployment_children(obj, plan, plan.model_dump_json()),
        *manifests.replica_children(obj, plan, 0),
        *pods_of(obj),
    ]
    listed = json.dumps({"apiVersion": "v1", "kind": "List", "items": rendered})
    done = restricted.kubectl(*DRY_RUN, "-o", "json", "-f", "-", stdin=listed)
    assert done.returncode == 0, done.stderr
    for ours, theirs in zip(rendered, json.loads(done.stdout)["items"], strict=True):
        assert missing(ours, theirs, ours["kind"]) == []


def missing(ours: Any, theirs: Any, path: str) -> list[str]:
    """Where a rendered object is not a part of the stored one."""
    if isinstance(ours, dict) and isinstance(theirs, dict):
        return [p for key, value in ours.items() for p in missing(value, theirs.get(key), f"{path}.{key}")]
    if isinstance(ours, list) and isinstance(theirs, list) and len(ours) == len(theirs):
        return [p for i, (a, b) in enumerate(zip(ours, theirs, strict=True)) for p in missing(a, b, f"{path}[{i}]")]
    return [] if ours == theirs else [f"{path}: {ours!r} is stored as {theirs!r}"]


# What a pod is


def test_a_slot_is_bound_to_its_node_and_gets_a_gpu_for_each_of_its_ranks() -> None:
    for slot, pod in enumerate(pods_of(deployment())):
        (term,) = pod["spec"]["affinity"]["nodeAffinity"]["requiredDuringSchedulingIgnoredDuringExecution"][
            "nodeSelectorTerms"
        ]
        assert term == {"matchFields": [{"key": "metadata.name", "operator": "In", "values": [f"node-{slot}"]}]}
        assert runtime(pod)["resources"] == {"requests": {"nvidia.com/gpu": "8"}, "limits": {"nvidia.com/gpu": "8"}}


def test_a_replica_smaller_than_a_node_asks_for_its_own_gpus_only() -> None:
    obj = deployment(parallelism={"ep": 4}, hardware={"accelerator": "h100-sxm", "resourceName": "example.com/gpu"})
    (pod,) = pods_of(obj)
    assert runtime(pod)["resources"]["limits"] == {"example.com/gpu": "4"}


def test_ranks_find_each_other_by_the_names_of_leaderworkerset_and_torchrun() -> None:
    first, second = map(environment, pods_of(deployment()))
    leader = "mixtral-0-0.mixtral-0.team"
    group = {"LWS_LEADER_ADDRESS": leader, "LWS_GROUP_SIZE": "2"}
    world = {"MASTER_ADDR": leader, "MASTER_PORT": "29500", "WORLD_SIZE": "16", "LOCAL_WORLD_SIZE": "8"}
    assert first.items() >= (group | world | {"LWS_WORKER_INDEX": "0", "NODE_RANK": "0", "RANK": "0"}).items()
    assert second.items() >= (group | world | {"LWS_WORKER_INDEX": "1", "NODE_RANK": "1", "RANK": "8"}).items()


def test_the_leaders_address_is_its_pods_name_under_the_headless_service() -> None:
    obj = deployment()
    service, *_ = manifests.replica_children(obj, plan_of(obj), 0)
    leader, worker = pods_of(obj)
    address = f"{leader['spec']['hostname']}.{leader['spec']['subdomain']}.{leader['metadata']['namespace']}"
    assert environment(worker)["MASTER_ADDR"] == address
    assert service["metadata"]["name"] == leader["spec"]["subdomain"]
    assert service["spec"]["publishNotReadyAddresses"] is True
    assert service["spec"]["clusterIP"] == "None"


def selects(selector: Object, pod: Object) -> bool:
    return bool(selector.items() <= pod["metadata"]["labels"].items())


def test_the_service_and_its_network_policy_select_frontends_alone() -> None:
    obj = deployment()
    _, service, policy, _ = manifests.deployment_children(obj, plan_of(obj), "{}")
    frontend, worker = pods_of(obj)
    for selector in (service["spec"]["selector"], policy["spec"]["podSelector"]["matchLabels"]):
        assert selects(selector, frontend)
        assert not selects(selector, worker)
    port = service["spec"]["ports"][0]
    assert {"name": port["targetPort"], "containerPort": 8000, "protocol": "TCP"} in runtime(frontend)["ports"]


def test_only_pods_of_the_same_replica_reach_the_ports_of_collectives() -> None:
    obj = deployment()
    plan = plan_of(obj)
    _, _, policy = manifests.replica_children(obj, plan, 1)
    rule, asked = policy["spec"]["ingress"]
    (peer,) = rule["from"]
    assert asked == {"ports": [{"port": 29600, "protocol": "TCP"}]}, "what a slot says of itself anyone may hear"
    ours = manifests.pods(obj, plan, 1, 1, ["a", "b"])
    others = manifests.pods(obj, plan, 0, 1, ["a", "b"])
    assert "ports" not in rule
    for pod in ours:
        assert selects(policy["spec"]["podSelector"]["matchLabels"], pod)
        assert selects(peer["podSelector"]["matchLabels"], pod)
    assert not any(selects(peer["podSelector"]["matchLabels"], pod) for pod in others)


def test_every_port_of_a_pod_is_another_though_the_endpoint_takes_that_of_the_rendezvous() -> None:
    frontend, _ = pods_of(deployment(serving={"port": 29500}))
    ports = [port["containerPort"] for port in runtime(frontend)["ports"]]
    assert ports == [29500, 29501]
    assert environment(frontend)["MASTER_PORT"] == "29501"


def test_no_pod_gets_a_token_and_all_are_restricted() -> None:
    obj = deployment(model={"architecture": "mixtral-8x7b", "source": "hf://mistralai/Mixtral-8x7B-v0.1"})
    for pod in pods_of(obj):
        spec = pod["spec"]
        assert spec["automountServiceAccountToken"] is False
        assert spec["securityContext"] == {"runAsNonRoot": True, "seccompProfile": {"type": "RuntimeDefault"}}
        for container in (*spec["containers"], *spec["initContainers"]):
            context = container["securityContext"]
            assert context["allowPrivilegeEscalation"] is False
            assert context["readOnlyRootFilesystem"] is True
            assert context["capabilities"] == {"drop": ["ALL"]}


def test_the_key_of_the_endpoint_reaches_the_frontend_alone() -> None:
    frontend, worker = pods_of(deployment(serving={"apiKeySecretRef": {"name": "keys", "key": "k"}}))
    assert environment(frontend)["MOE_API_KEY"] == {"secretKeyRef": {"name": "keys", "key": "k"}}
    assert "MOE_API_KEY" not in environment(worker)


# Where weights come from


def model_volume(source: str) -> Any:
    pod = pods_of(deployment(model={"architecture": "mixtral-8x7b", "source": source}))[0]
    volume = next((dict(v) for v in pod["spec"]["volumes"] if v["name"] == "model"), None)
    arguments = runtime(pod)["args"]
    checkpoint = arguments[arguments.index("--checkpoint") + 1] if "--checkpoint" in arguments else None
    return volume and {key: value for key, value in volume.items() if key != "name"}, checkpoint, pod["spec"]


def test_random_weights_need_no_volume() -> None:
    volume, checkpoint, spec = model_volume("random")
    assert (volume, checkpoint, spec.get("initContainers")) == (None, None, None)


def test_a_claim_is_mounted_read_only_and_the_path_in_it_is_the_checkpoint() -> None:
    volume, checkpoint, spec = model_volume("pvc://models/a/b")
    assert volume == {"persistentVolumeClaim": {"claimName": "models", "readOnly": True}}
    assert checkpoint == "/models/a/b"
    assert "initContainers" not in spec


def test_a_directory_of_the_nodes_is_mounted_as_it_is() -> None:
    volume, checkpoint, _ = model_volume("file:///srv/models/x")
    assert volume == {"hostPath": {"path": "/srv/models/x", "type": "Directory"}}
    assert checkpoint == "/models"


def test_a_hub_model_is_fetched_before_the_start_into_a_path_of_its_own() -> None:
    volume, checkpoint, spec = model_volume("hf://mistralai/Mixtral-8x7B-v0.1")
    assert volume == {"emptyDir": {}}
    assert checkpoint == "/models/mistralai/Mixtral-8x7B-v0.1/main"
    (fetch,) = spec["initContainers"]
    assert fetch["args"] == ["fetch", "--plan", "/etc/moe/plan.json", "--slot", "0", "--into", checkpoint]
    assert fetch["env"] == spec["containers"][0]["env"]


def test_a_hub_cache_on_the_nodes_is_used_where_it_is_asked_for_and_only_there() -> None:
    cache = {"name": "model", "hostPath": {"path": "/var/cache/models", "type": "DirectoryOrCreate"}}
    source = {"architecture": "mixtral-8x7b", "source": "hf://mistralai/Mixtral-8x7B-v0.1"}
    for pod in pods_of(deployment(model=source, runtime={"podTemplate": {"spec": {"volumes": [cache]}}})):
        assert cache in pod["spec"]["volumes"]


@pytest.mark.parametrize(
    ("source", "message"),
    [
        (
            "pvc://My_Claim/x",
            "spec.model.source: must begin with the name of a PersistentVolumeClaim, which 'My_Claim' is not",
        ),
        ("pvc://models/../x", "spec.model.source: must not climb with .."),
        ("pvc:///", "spec.model.source: must name a PersistentVolumeClaim: pvc://CLAIM/PATH"),
        ("file://srv/x", "spec.model.source: must name a directory on the nodes from the root: file:///PATH"),
        ("file:///", "spec.model.source: must name a directory below the nodes' root: file:///PATH"),
    ],
)
def test_a_source_of_which_no_volume_can_be_made_is_refused(source: str, message: str) -> None:
    assert violations_of(model={"architecture": "mixtral-8x7b", "source": source}) == [message]


# podTemplate


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
    (message,) = violations_of(runtime={"resources": {"limits": {"nvidia.com/gpu": 1}}})
    assert message.startswith("spec.runtime.resources.limits: nvidia.com/gpu follows from the layout")


# Gang schedulers


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


# Names

labels = st.from_regex(r"[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?", fullmatch=True)
numbers = st.integers(0, 1023)


@given(labels, numbers, numbers)
def test_every_childs_name_is_a_dns_label_and_keeps_its_numbers(name: str, replica: int, slot: int) -> None:
    child = manifests.child_name(name, replica, slot)
    assert len(child) <= LONGEST
    assert child.endswith(f"-{replica}-{slot}")
    assert child[0] != "-"


@given(labels, labels, numbers, numbers)
def test_pods_of_two_deployments_never_share_a_name(one: str, other: str, replica: int, slot: int) -> None:
    if one != other:
        assert manifests.child_name(one, replica, slot) != manifests.child_name(other, replica, slot)


def test_a_name_at_the_limit_still_tells_the_deployments_apart() -> None:
    one, other = "a" * 63, "a" * 62 + "b"
    assert manifests.child_name(one, 3, 12) != manifests.child_name(other, 3, 12)


# No value breaks out of its place

texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=40)
nasty = texts | st.sampled_from(
    ["{{ 7 * 7 }}", "{% raw %}", '"\n- evil: true', "'", "&env", "*env", "!!python/object", "# no", "😀\u2028\x85\x7f", "\\ud83d\\ude00", "yes", "~", "$(POD_IP)", "</script>"]
)  # fmt: skip
keys = st.from_regex(r"[A-Za-z_][A-Za-z0-9_]{0,8}", fullmatch=True)


@given(nasty)
def test_any_text_survives_yaml(text: str) -> None:
    assert yaml.safe_load(as_yaml(text)) == text
    assert yaml.safe_load(f"a: {as_yaml({text: [text]})}") == {"a": {text: [text]}}


@settings(max_examples=30)
@given(
    env=st.lists(st.tuples(keys, nasty), max_size=4),
    args=st.lists(nasty, max_size=4),
    image=nasty.filter(bool),
    label=nasty,
)
def test_odd_values_stay_where_they_belong(env: list[tuple[str, str]], args: list[str], image: str, label: str) -> None:
    template = {"metadata": {"labels": {"odd": label}, "annotations": {label: label}}}
    runtime_section = {
        "env": [{"name": name, "value": value} for name, value in env],
        "args": args,
        "image": image,
        "podTemplate": template,
    }
    plain = pods_of(deployment())
    for pod, without in zip(pods_of(deployment(runtime=runtime_section)), plain, strict=True):
        assert environment(pod) == environment(without) | dict(env)
        assert pod["metadata"]["labels"].pop("odd") == label
        assert pod["metadata"]["annotations"].pop(label, label) == label
        container = runtime(pod)
        ours = runtime(without)
        assert container["image"] == image
        assert container["args"] == [*ours["args"], *args]
        undone = {**container, "env": ours["env"], "args": ours["args"], "image": ours["image"]}
        assert undone == ours
        assert pod["metadata"]["labels"].keys() == without["metadata"]["labels"].keys()


@given(nasty)
def test_plan_spec_and_record_come_out_of_their_configmaps_as_they_went_in(text: str) -> None:
    obj = copy.deepcopy(deployment(runtime={"args": [text]}))
    plan = plan_of(obj)
    config_map = manifests.deployment_children(obj, plan, text)[-1]
    assert config_map["immutable"] is True
    assert config_map["data"]["plan.json"] == text
    assert json.loads(config_map["data"]["spec.json"]) == obj["spec"]
    record = manifests.record(obj, plan, 3, {"lastFailure": text})
    assert json.loads(record["data"]["record.json"]) == {"lastFailure": text}
