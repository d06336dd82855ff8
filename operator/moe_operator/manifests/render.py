"""Children of a deployment and of its replicas, as plain objects. Pure: the same input gives the same objects.

A deployment is passed as the API server holds it; its spec is the one that the plan was made of.
"""

import json
import math
import tomllib
from collections.abc import Collection, Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal

from moe_operator import engines
from moe_operator.engines import Images, Place, default_image, engine
from moe_operator.engines.command import shards_per_slot
from moe_operator.manifests.gang import Gang, chosen_gang, group_name, pod_extras
from moe_operator.manifests.merge import merge
from moe_operator.manifests.mould import cast, mark
from moe_operator.manifests.naming import child_name
from moe_operator.manifests.templating import render, render_again
from moe_operator.manifests.weights import MOUNT, weights
from moe_plan.bundled import ENGINE as BUNDLED
from moe_plan.plan import Plan
from moe_plan.spec import Spec

Child = dict[str, Any]

CONTAINER = "runtime"
"""Name of the container that computes."""
Role = Literal["frontend", "worker"]
_ROLES: tuple[Role, ...] = ("frontend", "worker")
GIB = 2**30
_CONTRACT = tomllib.loads(Path(__file__).with_name("contract.toml").read_text())


def deployment_children(deployment: Mapping[str, Any], plan: Plan, plan_json: str) -> tuple[Child, ...]:
    """What all replicas share: ServiceAccount, Service, NetworkPolicy of the frontends, ConfigMap of the plan.

    The ConfigMap holds, beside the plan, the spec that it was made of: a replica that keeps an old plan is rendered
    from both.
    """
    context = {
        "owner": _owner(deployment),
        "port": plan.port,
        "plan_name": plan_name(deployment, plan),
        "plan_json": plan_json,
        "spec_json": _canonical(deployment["spec"]),
        "files": engines.files(engine(plan.engine), plan, _spec(_canonical(deployment["spec"]))),
    }
    return tuple(render("deployment.yaml.j2", context))


def replica_children(
    deployment: Mapping[str, Any], plan: Plan, index: int, served: Collection[str] = frozenset()
) -> tuple[Child, ...]:
    """What one replica has beside its pods: headless Service, PodDisruptionBudget, NetworkPolicy, any PodGroup.

    `served` has the API groups and group/versions of the cluster.
    """
    spec, owner = _spec(_canonical(deployment["spec"])), _owner(deployment)
    gang = chosen_gang(spec.scheduling, served)
    context = {
        "owner": owner,
        "replica": {"index": index, "name": child_name(owner["name"], index)},
        "slots": plan.slots,
        "world": plan.degrees.world,
        "resource_name": plan.hardware.resource_name,
        "master_port": _master_port(plan),
        "gang": gang,
        "group": group_name(gang, plan, owner["name"], index),
        "scheduling": spec.scheduling,
        "agent_port": _asked_agents(plan),
    }
    return tuple(render("replica.yaml.j2", context))


def record(deployment: Mapping[str, Any], plan: Plan, index: int, data: Mapping[str, Any]) -> Child:
    """ConfigMap of what was decided of a replica."""
    owner = _owner(deployment)
    replica = {"index": index, "name": child_name(owner["name"], index)}
    context = {"owner": owner, "replica": replica, "plan_hash": plan.hash[:8], "record_json": _canonical(data)}
    (child,) = render_again("record.yaml.j2", context)
    return child


def pods(
    deployment: Mapping[str, Any],
    plan: Plan,
    index: int,
    attempt: int,
    nodes: Sequence[str],
    served: Collection[str] = frozenset(),
    joins: int | None = None,
    images: Images = (),
) -> tuple[Child, ...]:
    """The pods of a replica's attempt, by slot, each bound to its node.

    `joins` is the attempt of the group whose frontend takes them in, where that is an earlier one: a slot that is
    replaced alone. `images` are the operator's own, where a manifest names none. Raises MergeError for a podTemplate that `violations` has not accepted.
    """
    assert len(nodes) == plan.slots, "a replica has a node for each slot"
    spec = _spec(_canonical(deployment["spec"]))
    shared = _shared(deployment, plan, spec, index, attempt, chosen_gang(spec.scheduling, served), images)
    shared["joins"] = attempt if joins is None else joins
    moulds = [merge(mould, spec.runtime.pod_template) for mould in _moulds(shared, plan, spec)]
    return tuple(cast(moulds[min(slot, 1)], _slot(shared, plan, slot, node)) for slot, node in enumerate(nodes))


def rendered_slots(deployment: Mapping[str, Any], plan: Plan) -> tuple[Child, ...]:
    """A frontend and, where there are several slots, a worker, before the manifest's podTemplate is laid over them.

    For a deployment that may not exist yet.
    """
    deployment = {**deployment, "metadata": {"uid": "", **deployment["metadata"]}}
    spec = _spec(_canonical(deployment["spec"]))
    shared = _shared(deployment, plan, spec, 0, 1, "none")
    return tuple(
        cast(mould, _slot(shared, plan, slot, "node")) for slot, mould in enumerate(_moulds(shared, plan, spec))
    )


def _moulds(shared: Mapping[str, Any], plan: Plan, spec: Spec) -> tuple[Child, ...]:
    """The frontend's and, where there are several slots, the workers'."""
    return tuple(_mould(shared, plan, spec, role) for role in _ROLES[: plan.slots])


def _mould(shared: Mapping[str, Any], plan: Plan, spec: Spec, role: Role) -> Child:
    marks = {key: mark(key) for key in ("index", "name", "first_rank", "first_shard", "node")}
    launch = _launch(shared, plan, spec, role)
    (pod,) = render("pod.yaml.j2", {**shared, "slot": {**marks, "role": role}, "launch": launch})
    return pod


def _launch(shared: Mapping[str, Any], plan: Plan, spec: Spec, role: Role) -> dict[str, Any]:
    """How the engine is started in the pods of a role, and how it is asked."""
    described = engine(plan.engine)
    place = Place(
        role=role,
        slot=mark("index"),
        first_shard=mark("first_shard"),
        leader=shared["replica"]["leader"],
        checkpoint=shared["checkpoint"],
        master_port=shared["master_port"],
        agent_port=shared["agent_port"],
    )
    given = {variable.name: variable.value for variable in spec.runtime.env}
    return {
        "command": described.command,
        "args": [*engines.arguments(described, plan, spec, place), *spec.runtime.args],
        "env": engines.environment(described, plan, spec, place) | given,
        "torchrun": described.torchrun,
        "api_key": described.api_key,
        "user": described.user,
        "probes": described.frontend if role == "frontend" else described.worker,
        "files": sorted(engines.files(described, plan, spec)),
    }


def _slot(shared: Mapping[str, Any], plan: Plan, slot: int, node: str) -> dict[str, str]:
    """What one pod has of its own."""
    return {
        "index": str(slot),
        "name": child_name(shared["owner"]["name"], shared["replica"]["index"], slot),
        "first_rank": str(slot * plan.ranks_per_slot),
        "first_shard": str(slot * shards_per_slot(plan)),
        "node": node,
    }


def plan_name(deployment: Mapping[str, Any], plan: Plan) -> str:
    """Name of the plan's ConfigMap."""
    return child_name(deployment["metadata"]["name"], "plan", plan.hash[:8])


def _shared(
    deployment: Mapping[str, Any], plan: Plan, spec: Spec, index: int, attempt: int, gang: Gang, images: Images = ()
) -> dict[str, Any]:
    """What the pods of an attempt have in common."""
    owner, runtime, scheduling = _owner(deployment), spec.runtime, spec.scheduling
    replica = child_name(owner["name"], index)
    group = group_name(gang, plan, owner["name"], index, attempt)
    gpus = {plan.hardware.resource_name: str(plan.ranks_per_slot)}
    model = weights(plan.model.source, plan.model.revision)
    return {
        "owner": owner,
        "replica": {
            "index": index,
            "name": replica,
            "leader": f"{child_name(owner['name'], index, 0)}.{replica}.{owner['namespace']}",
        },
        "attempt": attempt,
        "joins": attempt,
        "plan_hash": plan.hash[:8],
        "plan_name": plan_name(deployment, plan),
        "slots": plan.slots,
        "world": plan.degrees.world,
        "ranks_per_slot": plan.ranks_per_slot,
        "port": plan.port,
        "master_port": _master_port(plan),
        "agent_port": agent_port(plan.port),
        "gang": pod_extras(gang, scheduling, plan, group),
        "scheduling": scheduling,
        "tolerations": [t.model_dump(mode="json", by_alias=True, exclude_none=True) for t in scheduling.tolerations],
        "image": runtime.image or _image(plan.engine, plan, images),
        "fetcher": runtime.image if runtime.image and plan.engine == BUNDLED else _image(BUNDLED, plan, images),
        "api_key": spec.serving.api_key_secret_ref,
        "requests": {**_amounts(runtime.resources.requests), **gpus},
        "limits": {**_amounts(runtime.resources.limits), **gpus},
        "shared_memory": _shared_memory(plan),
        "weights": model,
        "source_secret": spec.model.source_secret_ref,
        "mount": MOUNT,
        # The kubelet expands $(NAME) in arguments.
        "checkpoint": model.checkpoint.replace("$(", "$$(") if model else None,
    }


def _image(name: str, plan: Plan, images: Images) -> str:
    """The engine's default; empty where it has none, which `violations` refuses."""
    return default_image(name, plan.hardware.device, images) or ""


def _owner(deployment: Mapping[str, Any]) -> dict[str, str]:
    metadata = deployment["metadata"]
    return {"name": metadata["name"], "namespace": metadata.get("namespace") or "default", "uid": metadata["uid"]}


@lru_cache(maxsize=1024)
def _spec(text: str) -> Spec:
    return Spec.model_validate_json(text)


def _canonical(value: Any) -> str:
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False)


def _amounts(amounts: Mapping[str, str | int]) -> dict[str, str]:
    return {name: str(amount) for name, amount in amounts.items()}


def _shared_memory(plan: Plan) -> str:
    """Size of /dev/shm, in whole GiB."""
    buffers = plan.ranks_per_slot * max(stage.communication for stage in plan.memory)
    return f"{math.ceil((_CONTRACT['shared_memory_bytes'] + buffers) / GIB)}Gi"


def _master_port(plan: Plan) -> int:
    return _other_than(_CONTRACT["master_port"], plan.port)


def agent_port(port: int) -> int:
    """Where the slots but the first answer probes, beside an endpoint on `port`."""
    return _other_than(_CONTRACT["agent_port"], port)


def _asked_agents(plan: Plan) -> int | None:
    """The port where other slots say how they are; None where there are none, or none that say so."""
    probes = engine(plan.engine).worker
    return agent_port(plan.port) if plan.slots > 1 and probes is not None and probes.port == "agent" else None


def _other_than(own: int, port: int) -> int:
    """The port, or the next where the endpoint has it."""
    return own + (own == port)
