"""Where the certificate is kept: a Secret that all operator processes share, or cert-manager's files."""

import base64
from datetime import datetime
from pathlib import Path
from typing import Any

from moe_operator.api import Api, ConflictError
from moe_operator.ownership import owned
from moe_operator.reconcile.model import Object
from moe_operator.reconcile.objects import MANAGED_BY, MANAGER, labels
from moe_operator.webhook.certificates import Bundle, is_due, issue
from moe_operator.webhook.settings import Settings

TRIES = 3
"""Times that a lost race against another operator process is run again."""


class CertificateError(Exception):
    """There is no certificate to serve with, and a person must act."""


async def current(api: Api, settings: Settings, now: datetime) -> Bundle:
    """The certificate to serve with now. Raises CertificateError with what to do where there is none."""
    if settings.certificates is not None:
        return _mounted(settings.certificates)
    for _ in range(TRIES):
        held = await api.get("v1", "Secret", settings.namespace, settings.service)
        bundle = None if held is None else _in_secret(held)
        if bundle is not None and not is_due(bundle, settings.hosts, now):
            return bundle
        fresh = issue(settings.hosts, now, bundle.authorities if bundle else b"")
        try:
            await _keep(api, settings, fresh, held)
        except ConflictError:
            continue
        return fresh
    raise CertificateError(f"Secret {settings.namespace}/{settings.service} keeps changing; who else writes it?")


def _mounted(folder: Path) -> Bundle:
    try:
        authorities, certificate, key = ((folder / name).read_bytes() for name in ("ca.crt", "tls.crt", "tls.key"))
    except OSError as error:
        raise CertificateError(f"{error.filename}: {error.strerror}; mount the certificate's Secret there") from error
    return Bundle(authorities, certificate, key)


async def _keep(api: Api, settings: Settings, bundle: Bundle, held: Object | None) -> None:
    files = {"ca.crt": bundle.authorities, "tls.crt": bundle.certificate, "tls.key": bundle.key}
    metadata = owned(
        {"name": settings.service, "namespace": settings.namespace, "labels": {MANAGED_BY: MANAGER}}, settings.owners
    )
    secret = {
        "apiVersion": "v1",
        "kind": "Secret",
        "type": "kubernetes.io/tls",
        "metadata": metadata,
        "data": {name: base64.b64encode(content).decode() for name, content in files.items()},
    }
    if held is None:
        await api.create(secret)
        return
    metadata["resourceVersion"] = held["metadata"]["resourceVersion"]
    await api.apply(secret)


def _in_secret(secret: Object) -> Bundle:
    """What a Secret of ours holds; a bundle that is due where that is damaged."""
    metadata = secret["metadata"]
    if labels(secret).get(MANAGED_BY) != MANAGER:
        raise CertificateError(
            f"Secret {metadata['namespace']}/{metadata['name']} is not this operator's; delete it, "
            "or mount it and name the folder as the webhook's certificates"
        )
    data = secret.get("data") or {}
    return Bundle(*(_decoded(data.get(name)) for name in ("ca.crt", "tls.crt", "tls.key")))


def _decoded(text: Any) -> bytes:
    try:
        return base64.b64decode(text or "", validate=True)
    except ValueError:
        return b""
