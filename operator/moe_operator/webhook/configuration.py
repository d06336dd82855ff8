"""The ValidatingWebhookConfiguration: which requests the API server asks about."""

import base64
from typing import Any

from moe_operator.crd.definition import GROUP, PLURAL, VERSION
from moe_operator.ownership import owned
from moe_operator.reconcile.objects import MANAGED_BY, MANAGER
from moe_operator.webhook.settings import Settings

TIMEOUT_S = 10
"""Seconds for which the API server waits; then the object is stored and judged by the operator alone."""

_CONDITIONS = {
    "spec-changes": "request.operation == 'CREATE' || object.spec != oldObject.spec",
    "stays": "!has(object.metadata.deletionTimestamp)",
}
"""Labels, annotations, finalizers and status are edited without asking."""


def configuration(settings: Settings, authorities: bytes) -> dict[str, Any]:
    """The configuration for a webhook whose certificate one of the authorities (PEM) has signed."""
    return {
        "apiVersion": "admissionregistration.k8s.io/v1",
        "kind": "ValidatingWebhookConfiguration",
        "metadata": owned({"name": settings.name, "labels": {MANAGED_BY: MANAGER}}, settings.owners),
        "webhooks": [
            {
                "name": f"validate.{GROUP}",
                "clientConfig": {**settings.client, "caBundle": base64.b64encode(authorities).decode()},
                "rules": [_rule()],
                **_selector(settings.namespaces),
                "matchConditions": [{"name": name, "expression": text} for name, text in _CONDITIONS.items()],
                "failurePolicy": "Ignore",
                "timeoutSeconds": TIMEOUT_S,
                "sideEffects": "None",
                "admissionReviewVersions": ["v1"],
            }
        ],
    }


def _selector(namespaces: tuple[str, ...]) -> dict[str, Any]:
    if not namespaces:
        return {}
    named = {"key": "kubernetes.io/metadata.name", "operator": "In", "values": list(namespaces)}
    return {"namespaceSelector": {"matchExpressions": [named]}}


def _rule() -> dict[str, Any]:
    return {
        "apiGroups": [GROUP],
        "apiVersions": [VERSION],
        "operations": ["CREATE", "UPDATE"],
        "resources": [PLURAL],
        "scope": "Namespaced",
    }
