"""What the operator makes for itself goes with its ClusterRole, so that uninstalling it leaves nothing behind.

A cluster-scoped object may own objects of every namespace and of none:
https://kubernetes.io/docs/concepts/architecture/garbage-collection/#owners-dependents
"""

import logging
from collections.abc import Mapping
from typing import Any

from moe_operator.api import Api, ApiError

log = logging.getLogger(__name__)

Owners = tuple[Mapping[str, Any], ...]
"""ownerReferences; empty where nothing owns."""

_API_VERSION, _KIND = "rbac.authorization.k8s.io/v1", "ClusterRole"


async def owners(api: Api, cluster_role: str | None) -> Owners:
    """References to the ClusterRole. None where there is no such role or it cannot be read, which is logged."""
    if cluster_role is None:
        return ()
    try:
        role = await api.get(_API_VERSION, _KIND, None, cluster_role)
    except ApiError as error:
        log.warning("what this operator makes for itself will outlive it: %s", error)
        return ()
    if role is None:
        log.warning("what this operator makes for itself will outlive it: there is no ClusterRole %s", cluster_role)
        return ()
    return ({"apiVersion": _API_VERSION, "kind": _KIND, "name": cluster_role, "uid": role["metadata"]["uid"]},)


def owned(metadata: Mapping[str, Any], by: Owners) -> dict[str, Any]:
    """Metadata with its owners."""
    return {**metadata, "ownerReferences": [dict(owner) for owner in by]} if by else dict(metadata)
