"""Manifests: the children of a deployment and of its replicas, from readable templates. Pure."""

from moe_operator.manifests.gang import chosen_gang, gang_violations
from moe_operator.manifests.naming import child_name
from moe_operator.manifests.render import agent_port, deployment_children, plan_name, pods, record, replica_children
from moe_operator.manifests.violations import violations

__all__ = [
    "agent_port",
    "child_name",
    "chosen_gang",
    "deployment_children",
    "gang_violations",
    "plan_name",
    "pods",
    "record",
    "replica_children",
    "violations",
]
