"""What the operator knows of the cluster: objects as watched, listed, or answered to its own writes; the newest wins.

Objects are never changed in place, so a decision may read them in another thread. They are trimmed to what decisions
read, since a thousand pods as the API server sends them would take 50 MB.
"""

import sys
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from moe_operator.reconcile.model import Object
from moe_operator.reconcile.objects import DEPLOYMENT_LABEL, labels, name
from moe_operator.resources import Resource, resource, resource_of

REMEMBERED_DELETIONS = 4096
_METADATA = (
    "name",
    "namespace",
    "uid",
    "resourceVersion",
    "generation",
    "labels",
    "annotations",
    "ownerReferences",
    "creationTimestamp",
    "deletionTimestamp",
    "deletionGracePeriodSeconds",
)
_POD_SPEC = ("nodeName", "affinity", "nodeSelector", "schedulingGates", "overhead", "resources")
_CONTAINER = ("name", "resources", "restartPolicy")
_POD_STATUS = ("phase", "reason", "message", "podIP", "nominatedNodeName")
_CONTAINER_STATUS = ("name", "ready", "restartCount", "state", "lastState")
_CONDITION = ("type", "status", "reason", "message", "lastTransitionTime")


class Key(NamedTuple):
    """A namespaced name; the namespace of nodes is empty."""

    namespace: str
    name: str


class Change(NamedTuple):
    """What an observation changed; None where there was, or is, nothing."""

    before: Object | None
    after: Object | None


def key_of(obj: Object) -> Key:
    """Namespace and name of an object."""
    return Key(str(obj["metadata"].get("namespace") or ""), name(obj))


def version_of(obj: Object) -> int:
    """Resource version of an object as a number, which grows with each change to the cluster.

    https://kubernetes.io/docs/reference/using-api/api-concepts/#resource-versions: comparable since Kubernetes 1.35;
    and in every release before that keeps its objects in etcd.
    """
    text = str(obj["metadata"].get("resourceVersion") or "")
    return int(text) if text.isdigit() else 0


def deployment_of(obj: Object) -> Key | None:
    """The deployment that an object is labelled for."""
    deployment = labels(obj).get(DEPLOYMENT_LABEL)
    return Key(str(obj["metadata"].get("namespace") or ""), deployment) if deployment else None


@dataclass
class Store:
    """Objects of one resource."""

    _objects: dict[Key, Object] = field(default_factory=dict)
    _by_deployment: dict[Key, dict[Key, Object]] = field(default_factory=dict)
    _deleted: dict[Key, int] = field(default_factory=dict)
    """Versions of the latest deletions, so that what arrives late does not come back to life."""

    def get(self, key: Key) -> Object | None:
        """An object, if it is known."""
        return self._objects.get(key)

    def __len__(self) -> int:
        return len(self._objects)

    def all(self) -> Iterable[Object]:
        """All objects."""
        return self._objects.values()

    def names(self) -> Iterable[Key]:
        """Names of all objects."""
        return self._objects.keys()

    def of(self, deployment: Key) -> Iterable[Object]:
        """Objects that are labelled for a deployment."""
        return self._by_deployment.get(deployment, {}).values()

    def put(self, obj: Object) -> Change | None:
        """Take note of an object; the change, if it is newer than what is known and differs from it."""
        key, version = key_of(obj), version_of(obj)
        before = self._objects.get(key)
        if version <= self._deleted.get(key, -1) or (before is not None and version < version_of(before)):
            return None
        after = trimmed(obj)
        self._set(key, before, after)
        return None if before is not None and _same(before, after) else Change(before, after)

    def remove(self, key: Key, version: int) -> Change | None:
        """Take note that an object is gone since a version of the cluster."""
        before = self._objects.get(key)
        self._remember(key, version)
        if before is None or version_of(before) > version:
            return None
        self._set(key, before, None)
        return Change(before, None)

    def replace(self, objects: Iterable[Object], version: int, namespace: str | None = None) -> list[Change]:
        """Take note of all there is, or is in a namespace, at a version: what is missing and not newer is gone."""
        listed = {key_of(obj): obj for obj in objects}
        changes = [self.put(obj) for obj in listed.values()]
        within = ((key, obj) for key, obj in self._objects.items() if namespace in (None, key.namespace))
        gone = [key for key, obj in within if key not in listed and version_of(obj) <= version]
        changes += [self.remove(key, version) for key in gone]
        return [change for change in changes if change is not None]

    def _remember(self, key: Key, version: int) -> None:
        self._deleted[key] = max(version, self._deleted.pop(key, -1))
        while len(self._deleted) > REMEMBERED_DELETIONS:
            del self._deleted[next(iter(self._deleted))]

    def _set(self, key: Key, before: Object | None, after: Object | None) -> None:
        if before is not None and (owner := deployment_of(before)) is not None:
            children = self._by_deployment.get(owner, {})
            children.pop(key, None)
            if not children:
                self._by_deployment.pop(owner, None)
        if after is None:
            self._objects.pop(key, None)
            return
        self._objects[key] = after
        if (owner := deployment_of(after)) is not None:
            self._by_deployment.setdefault(owner, {})[key] = after


class Cache:
    """Stores of all resources that are watched, in some namespaces or in all."""

    def __init__(self, rows: Iterable[Resource], namespaces: tuple[str, ...] = ()) -> None:
        self._stores = {row: Store() for row in rows}
        self._namespaces = namespaces
        self.deployments = self._stores[resource("MoEDeployment")]
        self.nodes = self._stores[resource("Node")]
        self.pods = self._stores[resource("Pod")]

    @property
    def collections(self) -> tuple[tuple[Resource, str | None], ...]:
        """What is watched, and in which namespace; None: in the whole cluster."""
        return tuple((row, where) for row in self._stores for where in row.collections(self._namespaces))

    def __getitem__(self, row: Resource) -> Store:
        return self._stores[row]

    def find(self, obj: Object) -> Object | None:
        """What is known of the object of that kind and name."""
        store = self._stores.get(resource_of(obj))
        return None if store is None else store.get(key_of(obj))

    def put(self, obj: Object) -> None:
        """Take note of an answer of the API server."""
        store = self._stores.get(resource_of(obj))
        if store is not None:
            store.put(obj)

    def children(self, deployment: Key) -> Iterator[Object]:
        """Every object that is labelled for a deployment."""
        for store in self._stores.values():
            yield from store.of(deployment)


def trimmed(obj: Object) -> dict[str, Any]:
    """What decisions read of an object; strings that recur are kept once."""
    kept = {key: value for key, value in obj.items() if key not in ("metadata", "spec", "status")}
    kept["metadata"] = _only(obj["metadata"], _METADATA)
    kept |= {"Pod": _pod, "Node": _node}.get(str(obj.get("kind")), _whole)(obj)
    compact: dict[str, Any] = _compact(kept)
    return compact


def _whole(obj: Object) -> dict[str, Any]:
    return _only(obj, ("spec", "status"))


def _pod(pod: Object) -> dict[str, Any]:
    spec, status = pod.get("spec") or {}, pod.get("status") or {}
    shown = _only(spec, _POD_SPEC)
    for part in ("containers", "initContainers"):
        if spec.get(part):
            shown[part] = [_only(container, _CONTAINER) for container in spec[part]]
    said = _only(status, _POD_STATUS)
    for part in ("containerStatuses", "initContainerStatuses"):
        if status.get(part):
            said[part] = [_only(state, _CONTAINER_STATUS) for state in status[part]]
    said["conditions"] = [_only(condition, _CONDITION) for condition in status.get("conditions") or ()]
    return {"spec": shown, "status": said}


def _node(node: Object) -> dict[str, Any]:
    spec, status = node.get("spec") or {}, node.get("status") or {}
    ready = [c for c in status.get("conditions") or () if c.get("type") == "Ready"]
    return {
        "metadata": _only(node["metadata"], ("name", "uid", "resourceVersion", "labels", "deletionTimestamp")),
        "spec": _only(spec, ("taints", "unschedulable")),
        "status": {
            "allocatable": status.get("allocatable") or {},
            "conditions": [_only(condition, _CONDITION) for condition in ready],
        },
    }


def _only(holder: Mapping[str, Any], keys: Iterable[str]) -> dict[str, Any]:
    return {key: holder[key] for key in keys if key in holder}


def _compact(value: Any) -> Any:
    if isinstance(value, dict):
        return {sys.intern(key): _compact(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_compact(item) for item in value]
    return sys.intern(value) if type(value) is str and len(value) < 64 else value


def _same(before: Object, after: Object) -> bool:
    """Whether two versions of an object say the same to decisions."""
    if before["metadata"].get("resourceVersion") == after["metadata"].get("resourceVersion"):
        return True
    return _without_version(before) == _without_version(after)


def _without_version(obj: Object) -> dict[str, Any]:
    metadata = {key: value for key, value in obj["metadata"].items() if key != "resourceVersion"}
    return {**obj, "metadata": metadata}
