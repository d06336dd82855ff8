"""Admission reviews as an API server asks them."""

from pathlib import Path
from typing import Any

import yaml

from moe_operator.webhook.review import review

ROOT = Path(__file__).parents[2]

Object = dict[str, Any]


def example(name: str, **parallelism: Any) -> Object:
    manifest: Object = yaml.safe_load((ROOT / "examples" / f"{name}.yaml").read_text())
    manifest["spec"]["parallelism"] |= parallelism
    return manifest


def asked(new: Any, old: Any = None) -> Object:
    operation = "CREATE" if old is None else "UPDATE"
    request = {"uid": "42", "operation": operation, "object": new, "oldObject": old}
    return {"apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview", "request": request}


def answer(new: Any, old: Any = None) -> Object:
    whole = review(asked(new, old))
    assert (whole["apiVersion"], whole["kind"]) == ("admission.k8s.io/v1", "AdmissionReview")
    response: Object = whole["response"]
    assert response["uid"] == "42"
    return response
