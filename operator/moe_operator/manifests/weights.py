"""Where the weights come from, as a volume of the pod and the directory in it that the runtime reads."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

MOUNT = "/models"
_NAME = re.compile(r"[a-z0-9]([-.a-z0-9]*[a-z0-9])?")


@dataclass(frozen=True, slots=True)
class Weights:
    """The model volume of a pod."""

    volume: Mapping[str, Any]
    """The volume's source, as in spec.volumes."""
    checkpoint: str
    """Directory in the container with the checkpoint."""
    fetched: bool
    """Whether the pod fetches the checkpoint into the volume before it starts; else it is there, read-only."""


def weights(source: str, revision: str) -> Weights | None:
    """The model volume of a source; None for random weights. Raises ValueError with what is wrong with the source."""
    scheme, _, rest = source.partition("://")
    if source == "random":
        return None
    where = [part for part in rest.split("/") if part]
    if ".." in where:
        raise ValueError("must not climb with ..")
    if scheme == "pvc" and not where:
        raise ValueError("must name a PersistentVolumeClaim: pvc://CLAIM/PATH")
    if scheme == "pvc":
        return _claimed(*where)
    if scheme == "file":
        if not rest.startswith("/"):
            raise ValueError("must name a directory on the nodes from the root: file:///PATH")
        if not where:
            raise ValueError("must name a directory below the nodes' root: file:///PATH")
        return Weights({"hostPath": {"path": rest, "type": "Directory"}}, MOUNT, fetched=False)
    # A path for each revision, so that deployments can share a volume that an override puts here.
    return Weights({"emptyDir": {}}, "/".join((MOUNT, *where, revision)), fetched=True)


def _claimed(claim: str, *path: str) -> Weights:
    if len(claim) > 253 or not _NAME.fullmatch(claim):
        raise ValueError(f"must begin with the name of a PersistentVolumeClaim, which {claim!r} is not")
    volume = {"persistentVolumeClaim": {"claimName": claim, "readOnly": True}}
    return Weights(volume, "/".join((MOUNT, *path)), fetched=False)
