"""Where the API server is and who asks it: a kubeconfig, or the service account of the pod.

Tokens are read from their files again and again, since the kubelet rotates them.
"""

import base64
import os
import ssl
import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

SERVICE_ACCOUNT = Path("/var/run/secrets/kubernetes.io/serviceaccount")
TOKEN_READ_AGAIN_S = 30.0


class AccessError(Exception):
    """No usable credentials; the text says what to do."""


@dataclass
class Access:
    """An API server and the operator's identity there."""

    server: str
    tls: ssl.SSLContext
    namespace: str = "default"
    token: str | None = None
    token_file: Path | None = None
    _read_at: float = field(default=float("-inf"), repr=False)

    def authorization(self) -> dict[str, str]:
        """HTTP header of the identity; none for client certificates."""
        if self.token_file is not None and time.monotonic() - self._read_at > TOKEN_READ_AGAIN_S:
            self.refuse()
        return {"Authorization": f"Bearer {self.token}"} if self.token else {}

    def refuse(self) -> None:
        """Note that the API server did not accept the token: read it anew."""
        if self.token_file is not None:
            try:
                self.token = self.token_file.read_text(encoding="utf-8").strip()
            except OSError as error:
                if self.token is None:
                    raise AccessError(f"{self.token_file}: {error.strerror}") from error
            self._read_at = time.monotonic()


def find_access() -> Access:
    """Access by KUBECONFIG, by the pod's service account, or by ~/.kube/config; the first that there is."""
    given = os.environ.get("KUBECONFIG")
    if given:
        return from_kubeconfig(Path(given))
    if (SERVICE_ACCOUNT / "token").exists() and os.environ.get("KUBERNETES_SERVICE_HOST"):
        return _from_service_account()
    usual = Path.home() / ".kube" / "config"
    if usual.exists():
        return from_kubeconfig(usual)
    raise AccessError("no cluster to talk to: set KUBECONFIG, or run in a pod with a service account")


def from_kubeconfig(path: Path) -> Access:
    """Access by a kubeconfig's current context. Raises AccessError where it has none that can be used here."""
    try:
        config = yaml.safe_load(path.read_text(encoding="utf-8"))
        context = _named(config, "contexts", config["current-context"])["context"]
        cluster = _named(config, "clusters", context["cluster"])["cluster"]
        user = _named(config, "users", context["user"])["user"] or {}
        server = str(cluster["server"]).rstrip("/")
    except OSError as error:
        raise AccessError(f"{path}: {error.strerror}") from error
    except (yaml.YAMLError, KeyError, TypeError) as error:
        raise AccessError(f"{path}: not a kubeconfig with a current context: {error}") from error
    unsupported = {"exec", "auth-provider"} & user.keys()
    if unsupported:
        raise AccessError(f"{path}: the user's {unsupported.pop()} is not supported; give it a token or a certificate")
    token_file = user.get("tokenFile")
    return Access(
        server,
        _tls(cluster, user, path.parent),
        context.get("namespace") or "default",
        user.get("token"),
        path.parent / token_file if token_file else None,
    )


def _from_service_account() -> Access:
    host, port = os.environ["KUBERNETES_SERVICE_HOST"], os.environ.get("KUBERNETES_SERVICE_PORT", "443")
    return Access(
        f"https://[{host}]:{port}" if ":" in host else f"https://{host}:{port}",
        ssl.create_default_context(cafile=str(SERVICE_ACCOUNT / "ca.crt")),
        (SERVICE_ACCOUNT / "namespace").read_text(encoding="utf-8").strip(),
        token_file=SERVICE_ACCOUNT / "token",
    )


def _named(config: Mapping[str, Any], part: str, name: str) -> Mapping[str, Any]:
    found: Mapping[str, Any]
    for found in config[part]:
        if found["name"] == name:
            return found
    raise KeyError(f"{part} has no {name}")


def _tls(cluster: Mapping[str, Any], user: Mapping[str, Any], folder: Path) -> ssl.SSLContext:
    authority = _pem(cluster, "certificate-authority", folder)
    context = ssl.create_default_context(cadata=authority.decode() if authority else None)
    if cluster.get("insecure-skip-tls-verify"):
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    certificate, key = _pem(user, "client-certificate", folder), _pem(user, "client-key", folder)
    if certificate and key:
        with tempfile.NamedTemporaryFile() as both:  # ssl loads a client's certificate from a file only
            both.write(certificate + b"\n" + key)
            both.flush()
            context.load_cert_chain(both.name)
    return context


def _pem(holder: Mapping[str, Any], key: str, folder: Path) -> bytes | None:
    if holder.get(f"{key}-data"):
        return base64.b64decode(holder[f"{key}-data"])
    return (folder / holder[key]).read_bytes() if holder.get(key) else None
