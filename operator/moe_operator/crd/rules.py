"""CEL rules: what a schema can say of a manifest before the planner sees it. Keys are paths below spec.

What Kubernetes would refuse of a pod much later (a name, a label, a toleration) is refused here, where the person who
wrote it reads it. What needs the model or the GPU is the planner's to say.

Most sections have the default {}, and the API server holds that against their rules before the fields of the section
have their own defaults: a rule asks has() even of fields that always have a value.
"""

from collections.abc import Mapping

from moe_plan.rules import MAX_WORLD
from moe_plan.spec import SOURCE_PATTERN

Rule = dict[str, str]

_LABEL_PART = "[A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?"
_DOMAIN = "[a-z0-9]([-a-z0-9.]*[a-z0-9])?"
_LABEL = f"^({_DOMAIN}/)?{_LABEL_PART}$"
"""https://kubernetes.io/docs/concepts/overview/working-with-objects/labels/#syntax-and-character-set"""
_LABEL_VALUE = f"^({_LABEL_PART})?$"
_RESOURCE = f"^{_DOMAIN}/{_LABEL_PART}$"
_OBJECT = f"^{_DOMAIN}$"
"""https://kubernetes.io/docs/concepts/overview/working-with-objects/names/"""
_KEY = "^[-._a-zA-Z0-9]+$"


def _exactly_one(*fields: str) -> Rule:
    count = " + ".join(f"(has(self.{field}) ? 1 : 0)" for field in fields)
    return {"rule": f"{count} == 1", "message": f"needs exactly one of {', '.join(fields)}"}


def _matches(field: str, pattern: str, message: str) -> Rule:
    return {"rule": f"!has(self.{field}) || self.{field}.matches('{pattern}')", "message": f"{field} must be {message}"}


def _object_name(field: str) -> Rule:
    return _matches(field, _OBJECT, "the name of an object: lower-case letters, digits, hyphens and dots")


def _level(field: str) -> Rule:
    return _matches(field, _LABEL, "a node label, such as topology.kubernetes.io/zone")


_DEGREES = [f"self.parallelism.{degree}" for degree in ("ep", "tp", "pp")]
_WORLD = " * ".join(_DEGREES)
_ALL_INTEGERS = " && ".join(f"type({degree}) == int" for degree in _DEGREES)
_NODE = "self.hardware.gpusPerNode"
_ABSURD = " || ".join(f"{degree} > {MAX_WORLD}" for degree in _DEGREES)
"""Left to the planner, which refuses such degrees by themselves; their product may not fit into CEL's integers."""
_LEVELS = [_level(kind) for kind in ("tp", "ep", "pp", "replica")]
_REFERENCE = [_object_name("name"), _matches("key", _KEY, "letters, digits, hyphens, dots and underscores")]

MOST_REPLICAS = 1024

PATTERNS: Mapping[str, str] = {
    r"^(?:([0-9]+(?:\.[0-9]*)?|\.[0-9]+)(ns|us|µs|ms|s|m|h))+$": "must be a duration such as 500ms, 3us or 1m30s",
    r"^[0-9]{1,2}(\.[0-9]+)?%$": "must be a percentage below 100, such as 10%",
    SOURCE_PATTERN: "must be hf://ORG/NAME, s3://BUCKET/PATH, pvc://CLAIM/PATH, file:///PATH or random",
}
"""Patterns of the spec in words: the API server would show the pattern itself."""

ROOT_RULES: list[Rule] = [
    {
        "rule": "self.metadata.name.matches('^[a-z]([-a-z0-9]*[a-z0-9])?$')",
        "message": "must be lower-case letters, digits and hyphens, the first a letter: Services bear it",
        "fieldPath": ".metadata.name",
    },
]
"""Rules on the whole object."""

SPEC_RULES: Mapping[str, list[Rule]] = {
    "": [
        {
            "rule": f"!({_ALL_INTEGERS}) || {_ABSURD} || !has({_NODE}) || {_WORLD} <= {_NODE} || ({_WORLD}) % {_NODE} == 0",
            "message": "ep·tp·pp must be below hardware.gpusPerNode or a multiple of it",
        },
        {
            "rule": "self.rollout.maxSurge + self.rollout.maxUnavailable > 0",
            "message": "rollout.maxSurge and rollout.maxUnavailable cannot both be 0: no replica could be replaced",
        },
        {
            "rule": "!has(self.parallelism.expertLoadsFrom) || !has(self.runtime.engine) || self.runtime.engine == 'moe'",
            "message": "parallelism.expertLoadsFrom needs runtime.engine moe: the others deal experts themselves",
        },
        {
            "rule": f"self.replicas <= {MOST_REPLICAS}",
            "message": f"replicas must be at most {MOST_REPLICAS:,}; make several deployments for more",
        },
    ],
    "model": [_exactly_one("architecture", "config", "configFrom")],
    "model.configFrom.configMapKeyRef": _REFERENCE,
    "hardware": [
        _exactly_one("accelerator", "spec"),
        {
            "rule": "self.resourceName == oldSelf.resourceName",
            "message": "resourceName is immutable: pods of two resources cannot share a placement",
        },
        _matches("resourceName", _RESOURCE, "an extended resource with its domain, such as nvidia.com/gpu"),
    ],
    "hardware.spec.links": [
        {
            "rule": "self.all(link, self.exists_one(other, other.scope == link.scope))",
            "message": "has more than one entry of the same scope",
        },
        {
            "rule": "self.all(link, has(link.gpus) == (link.scope == 'domain'))",
            "message": "gpus is given for scope domain, and only there",
        },
    ],
    "parallelism": [
        {
            "rule": "['pp', 'ep', 'tp'].all(dimension, self.rankOrder.exists_one(one, one == dimension))",
            "message": "rankOrder must name pp, ep and tp once each",
        },
    ],
    "parallelism.expertLoadsFrom.configMapKeyRef": _REFERENCE,
    "topology": [
        {
            "rule": f"!has(self.levels) || self.levels.all(level, level.matches('{_LABEL}'))",
            "message": "levels must be node labels, such as topology.kubernetes.io/zone",
        },
        {
            "rule": "!has(self.levels) || self.levels.all(level, self.levels.exists_one(other, other == level))",
            "message": "levels must differ from one another: they go from the narrowest to the widest",
        },
    ],
    "topology.required": _LEVELS,
    "topology.preferred": _LEVELS,
    "scheduling": [
        {
            "rule": "has(self.queueName) == has(oldSelf.queueName) && (!has(self.queueName) || self.queueName == oldSelf.queueName)",
            "message": "queueName is immutable: a queue has admitted the replicas",
        },
        {
            "rule": "!has(self.queueName) || !has(self.gang) || self.gang in ['auto', 'kueue', 'volcano']",
            "message": "queueName needs gang kueue, volcano or auto: the others have no queues",
        },
        {
            "rule": "!has(self.gang) || self.gang != 'kueue' || has(self.queueName)",
            "message": "gang kueue needs a queueName: Kueue admits from queues",
        },
        *map(_object_name, ("queueName", "schedulerName", "priorityClassName")),
    ],
    "scheduling.tolerations": [
        {
            "rule": "self.all(one, has(one.key) || one.operator == 'Exists')",
            "message": "a toleration without a key tolerates all taints, which needs operator Exists",
        },
        {
            "rule": "self.all(one, one.operator != 'Exists' || !has(one.value))",
            "message": "a toleration with operator Exists has no value",
        },
        {
            "rule": "self.all(one, !has(one.tolerationSeconds) || (has(one.effect) && one.effect == 'NoExecute'))",
            "message": "tolerationSeconds needs effect NoExecute: only that effect has a time",
        },
        {
            "rule": f"self.all(one, !has(one.key) || one.key.matches('{_LABEL}'))",
            "message": "key must be a taint's key, such as nvidia.com/gpu",
        },
    ],
    "scheduling.nodeSelector": [
        {
            "rule": f"self.all(label, label.matches('{_LABEL}') && self[label].matches('{_LABEL_VALUE}'))",
            "message": "must hold labels and their values: letters, digits, hyphens, dots and underscores, at most 63",
        },
    ],
    "runtime.env": [
        {
            "rule": "self.all(variable, variable.name.matches('^[-._a-zA-Z][-._a-zA-Z0-9]*$'))",
            "message": "a variable's name must be letters, digits, hyphens, dots and underscores, the first no digit",
        },
    ],
    **{
        f"runtime.resources.{amounts}": [
            {
                "rule": "self.all(name, type(self[name]) == int ? self[name] >= 0 : isQuantity(self[name]))",
                "message": "must hold amounts such as 4, 500m or 64Gi",
            },
        ]
        for amounts in ("requests", "limits")
    },
    "serving.apiKeySecretRef": _REFERENCE,
    "model.sourceSecretRef": [_object_name("name")],
}
