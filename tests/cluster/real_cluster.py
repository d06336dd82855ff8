"""A whole cluster with real pods: control plane and one node, with images of buildah's storage on it."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import binaries
import images
import node
from control_plane import control_plane
from node import Node
from node_files import HOST, KUBERNETES_SERVICE
from node_images import bring_in


def missing() -> str:
    """Why there can be none here, and what to do about it; empty where there can."""
    if not binaries.node_programs_built():
        return "no kubelet and CoreDNS: `python tests/cluster/binaries.py` builds them"
    if why := images.missing() or node.missing():
        return why
    return "images were never built here: `python tests/cluster/images.py` does" if images.never_built() else ""


@contextmanager
def real_cluster(brought: Sequence[str], gpus: int = 128) -> Iterator[Node]:
    """A cluster whose node is ready, has these images, and so many GPUs to give away. Nothing of it is left at the end."""
    addresses = (HOST, KUBERNETES_SERVICE)
    with control_plane(node.API_SERVER, addresses=addresses) as plane, node.containerd(plane) as only:
        bring_in(only, brought)
        with node.joined(only, gpus):
            yield only
