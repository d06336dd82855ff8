"""CEL rules: what a schema can say of a manifest before the planner sees it. Keys are paths below spec."""

from collections.abc import Mapping

Rule = dict[str, str]


def _exactly_one(*fields: str) -> Rule:
    count = " + ".join(f"(has(self.{field}) ? 1 : 0)" for field in fields)
    return {"rule": f"{count} == 1", "message": f"needs exactly one of {', '.join(fields)}"}


_WORLD = "self.parallelism.ep * self.parallelism.tp * self.parallelism.pp"
_ALL_INTEGERS = " && ".join(f"type(self.parallelism.{degree}) == int" for degree in ("ep", "tp", "pp"))

SPEC_RULES: Mapping[str, list[Rule]] = {
    "": [
        {
            "rule": f"!({_ALL_INTEGERS}) || !has(self.hardware.gpusPerNode) || {_WORLD} <= self.hardware.gpusPerNode"
            f" || ({_WORLD}) % self.hardware.gpusPerNode == 0",
            "message": "ep·tp·pp must be below hardware.gpusPerNode or a multiple of it",
        },
        {
            "rule": "self.rollout.maxSurge + self.rollout.maxUnavailable > 0",
            "message": "rollout.maxSurge and rollout.maxUnavailable cannot both be 0: no replica could be replaced",
        },
    ],
    "model": [_exactly_one("architecture", "config", "configFrom")],
    "hardware": [
        _exactly_one("accelerator", "spec"),
        {
            "rule": "self.resourceName == oldSelf.resourceName",
            "message": "is immutable: pods of two resources cannot share a placement",
        },
    ],
    "parallelism": [
        {
            "rule": "['pp', 'ep', 'tp'].all(dimension, self.rankOrder.exists_one(one, one == dimension))",
            "message": "rankOrder must name pp, ep and tp once each",
        },
    ],
    "scheduling": [
        {
            "rule": "has(self.queueName) == has(oldSelf.queueName) && (!has(self.queueName) || self.queueName == oldSelf.queueName)",
            "message": "queueName is immutable: a queue has admitted the replicas",
        },
    ],
}
