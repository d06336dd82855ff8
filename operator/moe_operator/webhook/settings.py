"""Where the webhook listens, and how the API server reaches it."""

from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from moe_operator.engines import Images
from moe_operator.ownership import Owners
from moe_operator.reconcile.objects import MANAGER

PATH = "/validate"
"""Path that the API server posts reviews to."""


@dataclass(frozen=True, slots=True)
class Settings:
    """Settings of one operator process."""

    namespace: str
    """Namespace of the operator: its Service and its Secret are there."""
    name: str = MANAGER
    """Of the ValidatingWebhookConfiguration."""
    namespaces: tuple[str, ...] = ()
    """Whose manifests are reviewed; those of all when empty."""
    service: str = "moe-operator-webhook"
    """Service in front of the operator's pods, and Secret that holds the certificate."""
    address: str | None = None
    """Address to listen on; all when None."""
    port: int = 9443
    """Port to listen on; the Service's port 443 leads to it."""
    url: str | None = None
    """https://HOST:PORT at which the API server reaches this process, where no Service leads to it."""
    certificates: Path | None = None
    """Folder with tls.crt, tls.key and ca.crt, as cert-manager's Secret mounts; made and rotated here when None."""
    images: Images = ()
    """Of engines, where a manifest names none."""
    owners: Owners = ()
    """With which the configuration and the Secret go."""

    @property
    def client(self) -> dict[str, object]:
        """How the API server calls: clientConfig without its caBundle."""
        if self.url is not None:
            return {"url": f"{self.url.rstrip('/')}{PATH}"}
        return {"service": {"namespace": self.namespace, "name": self.service, "path": PATH, "port": 443}}

    @property
    def hosts(self) -> tuple[str, ...]:
        """Names that the certificate must bear."""
        if self.url is not None:
            return (urlsplit(self.url).hostname or "",)
        return (f"{self.service}.{self.namespace}.svc", f"{self.service}.{self.namespace}.svc.cluster.local")
