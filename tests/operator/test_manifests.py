"""Children of a deployment: as in the golden files, as the API server takes them, and each pod bound, named and shut as it must be."""

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest
import yaml
from control_plane import ControlPlane
from goldens import Golden
from rendered import Object, deployment, environment, plan_of, pods_of, runtime

from moe_operator import manifests

ROOT = Path(__file__).parents[2]
GOLDEN = Path(__file__).parent / "golden"
SEEDS = ("seed-s1", "seed-s2", "seed-s3", "seed-s4")
DRY_RUN = ("apply", "--server-side", "--force-conflicts", "--dry-run=server", "--field-manager=moe-operator")


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
        (
            "weights fetched with a token",
            {"model": {"architecture": "mixtral-8x7b", "sourceSecretRef": {"name": "hub"}}},
        ),
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
