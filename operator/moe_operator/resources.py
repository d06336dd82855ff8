"""The resources that the operator touches: their paths at the API server, and the RBAC rules that allow just that."""

import tomllib
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from functools import cache
from importlib.resources import files
from typing import Any, Literal
from urllib.parse import quote

from moe_operator.reconcile.objects import MANAGED_BY, MANAGER

MANAGED = f"{MANAGED_BY}={MANAGER}"
"""Label selector of the operator's own objects."""


@dataclass(frozen=True, slots=True)
class Resource:
    """One row of resources.toml."""

    api_version: str
    kind: str
    plural: str
    verbs: tuple[str, ...]
    status_verbs: tuple[str, ...] = ()
    namespaced: bool = True
    watch: Literal["all", "managed"] | None = None
    scope: Literal["cluster", "own"] = "cluster"
    wide_verbs: tuple[str, ...] = ()
    """What is done in the whole cluster even where only some namespaces are watched."""
    optional: bool = False
    """Whether clusters without it are served too."""

    @property
    def group(self) -> str:
        """API group; empty for the core."""
        return self.api_version.rpartition("/")[0]

    @property
    def version(self) -> str:
        """API version within the group."""
        return self.api_version.rpartition("/")[2]

    @property
    def selector(self) -> str:
        """Label selector of what is watched."""
        return MANAGED if self.watch == "managed" else ""

    def collections(self, namespaces: tuple[str, ...]) -> tuple[str | None, ...]:
        """Where it is watched by an operator of some namespaces, or of all if there are none; None: everywhere."""
        return namespaces if namespaces and self.namespaced and not self.wide_verbs else (None,)

    def path(self, namespace: str | None = None, name: str | None = None) -> str:
        """Path of the collection or of one object."""
        parts = ["apis" if self.group else "api", self.api_version]
        if namespace is not None and self.namespaced:
            parts += ["namespaces", quote(namespace, safe="")]
        parts.append(self.plural)
        return "/" + "/".join(parts if name is None else [*parts, quote(name, safe="")])


@cache
def resources() -> tuple[Resource, ...]:
    """All rows of the table."""
    rows = tomllib.loads(files("moe_operator").joinpath("resources.toml").read_text(encoding="utf-8"))["resource"]
    return tuple(_resource(row) for row in rows)


@cache
def resource(kind: str, group: str = "") -> Resource:
    """The row of a kind; the group tells apart kinds of one name. Raises KeyError for one that is not in the table."""
    for row in resources():
        if row.kind == kind and (row.group == group or not group):
            return row
    raise KeyError(f"{kind} in group {group!r} is not in resources.toml")


def resource_of(obj: Mapping[str, Any]) -> Resource:
    """The row of an object."""
    return resource(str(obj["kind"]), str(obj["apiVersion"]).rpartition("/")[0])


def watched(served: frozenset[str]) -> tuple[Resource, ...]:
    """What is watched on a cluster that serves the given groups and versions."""
    return tuple(row for row in resources() if row.watch and (not row.optional or row.api_version in served))


def cluster_role(name: str) -> dict[str, Any]:
    """What the operator may do in the whole cluster."""
    return _role("ClusterRole", {"name": name}, (row for row in resources() if row.scope == "cluster"))


def wide_role(name: str) -> dict[str, Any]:
    """What an operator of some namespaces may do in the whole cluster: what has no namespace, and `wide_verbs`."""
    rows = (row for row in resources() if row.scope == "cluster" and (row.wide_verbs or not row.namespaced))
    return _role("ClusterRole", {"name": name}, (_only(row, row.wide_verbs) if row.namespaced else row for row in rows))


def member_role(name: str, namespace: str) -> dict[str, Any]:
    """What an operator of some namespaces may do in one of them."""
    rows = (row for row in resources() if row.scope == "cluster" and row.namespaced)
    within = (replace(row, verbs=tuple(verb for verb in row.verbs if verb not in row.wide_verbs)) for row in rows)
    return _role("Role", {"name": name, "namespace": namespace}, within)


def own_role(name: str, namespace: str) -> dict[str, Any]:
    """What the operator may do in its own namespace."""
    metadata = {"name": name, "namespace": namespace}
    return _role("Role", metadata, (row for row in resources() if row.scope == "own"))


def _resource(row: Mapping[str, Any]) -> Resource:
    given: dict[str, Any] = {key: tuple(value) if isinstance(value, list) else value for key, value in row.items()}
    return Resource(**given)


def _only(row: Resource, verbs: tuple[str, ...]) -> Resource:
    return replace(row, verbs=verbs, status_verbs=())


def _role(kind: str, metadata: Mapping[str, str], rows: Iterable[Resource]) -> dict[str, Any]:
    allowed: defaultdict[tuple[str, tuple[str, ...]], list[str]] = defaultdict(list)
    for row in rows:
        allowed[row.group, row.verbs].append(row.plural)
        if row.status_verbs:
            allowed[row.group, row.status_verbs].append(f"{row.plural}/status")
    rules = [
        {"apiGroups": [group], "resources": sorted(plurals), "verbs": list(verbs)}
        for (group, verbs), plurals in sorted(allowed.items())
    ]
    return {
        "apiVersion": "rbac.authorization.k8s.io/v1",
        "kind": kind,
        "metadata": dict(metadata),
        "rules": rules,
    }
