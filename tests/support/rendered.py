"""Children of a deployment, rendered for tests."""

from collections.abc import Iterable
from typing import Any

from moe_operator import manifests
from moe_plan.manifest import parse_deployment
from moe_plan.plan import Plan
from moe_plan.planner import make_plan

Object = dict[str, Any]

OTHERS = ("sglang", "tensorrt-llm", "vllm")
"""Engines beside the bundled runtime."""


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


def in_engine(name: str, **spec: Any) -> Object:
    """Mixtral on two nodes of four GPUs, with a shard a rank, in an engine."""
    fixed = {
        "hardware": {"accelerator": "h100-sxm", "gpusPerNode": 4},
        "parallelism": {"ep": 8},
        "runtime": {"engine": name},
    }
    return deployment(**fixed | spec)


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


def violations_of(obj: Object) -> list[str]:
    """Of a deployment that is not created yet."""
    named = {key: obj["metadata"][key] for key in ("name", "namespace")}
    return [str(violation) for violation in manifests.violations({**obj, "metadata": named}, plan_of(obj))]


def overridden(template: Object) -> list[str]:
    return violations_of(deployment(runtime={"podTemplate": template}))
