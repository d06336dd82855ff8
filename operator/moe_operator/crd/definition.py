"""The whole CustomResourceDefinition."""

from typing import Any

from moe_operator import status as status_module
from moe_operator.crd.rules import ROOT_RULES, SPEC_RULES
from moe_operator.crd.schema import add_rules, structural_schema
from moe_plan import spec as spec_module
from moe_plan.spec import KIND

GROUP = "moe-operator.dev"
VERSION = "v1alpha1"
PLURAL = "moedeployments"

_COLUMNS = (
    ("Model", "string", ".status.plan.model", 0),
    ("Degrees", "string", ".status.plan.degrees", 0),
    ("GPUs", "integer", ".status.plan.gpus", 0),
    ("Ready", "string", ".status.ready", 0),
    ("Predicted tok/s", "integer", ".status.plan.tokensPerSecond", 0),
    ("Measured tok/s", "integer", ".status.measured.tokensPerSecond", 0),
    ("Reason", "string", ".status.conditions[?(@.type=='Ready')].reason", 1),
    ("Age", "date", ".metadata.creationTimestamp", 0),
)
"""Name, type, path, priority (1: shown by -o wide)."""


def custom_resource_definition() -> dict[str, Any]:
    """The CRD as plain data, the same each time."""
    return {
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {"name": f"{PLURAL}.{GROUP}"},
        "spec": {
            "group": GROUP,
            "scope": "Namespaced",
            "names": {
                "kind": KIND,
                "listKind": f"{KIND}List",
                "plural": PLURAL,
                "singular": "moedeployment",
                "shortNames": ["moed"],
                "categories": ["all", "moe"],
            },
            "versions": [_version()],
        },
    }


def _version() -> dict[str, Any]:
    return {
        "name": VERSION,
        "served": True,
        "storage": True,
        "schema": {"openAPIV3Schema": _schema()},
        "subresources": {
            "status": {},
            "scale": {
                "specReplicasPath": ".spec.replicas",
                "statusReplicasPath": ".status.replicas",
                "labelSelectorPath": ".status.selector",
            },
        },
        "additionalPrinterColumns": [
            {"name": name, "type": kind, "jsonPath": path, "priority": priority}
            for name, kind, path, priority in _COLUMNS
        ],
    }


def _schema() -> dict[str, Any]:
    spec = structural_schema(spec_module.Spec, spec_module)
    add_rules(spec, SPEC_RULES)
    for section in ("workload", "topology", "scheduling", "rollout", "failure", "runtime", "serving"):
        spec["properties"][section]["default"] = {}
    schema = {
        "type": "object",
        "description": "A Mixture-of-Experts model, its parallel degrees and the GPUs that serve it.",
        "required": ["spec"],
        "properties": {
            "apiVersion": {"type": "string"},
            "kind": {"type": "string"},
            "metadata": {"type": "object", "properties": {"name": {"type": "string", "maxLength": 63}}},
            "spec": spec,
            "status": structural_schema(status_module.Status, status_module),
        },
    }
    add_rules(schema, {"": ROOT_RULES})
    return schema
