"""A whole cluster with real pods: control plane and one node, with images of buildah's storage on it."""

import sys
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
    if why := images.missing() or node.missing():
        return why
    built = binaries.node_programs_built() and not images.never_built()
    return "" if built else "kubelet, CoreDNS and images are still to be built: `make e2e` does it, once"


def prepare() -> None:
    """Build what is built once. Exits with the reason where there can be no cluster."""
    if why := images.missing() or node.missing():
        sys.exit(f"no real pods here: {why}")
    print(f"The programs of a node are in {binaries.node_binaries()}", flush=True)
    if images.never_built():
        print("Building both images: about 15 minutes and 15 GB, once.", flush=True)
        for image in images.IMAGES:
            images.store(image)


@contextmanager
def real_cluster(brought: Sequence[str], gpus: int = 128) -> Iterator[Node]:
    """A cluster whose node is ready, has these images, and so many GPUs to give away. Nothing of it is left at the end."""
    addresses = (HOST, KUBERNETES_SERVICE)
    with control_plane(node.API_SERVER, addresses=addresses) as plane, node.containerd(plane) as only:
        bring_in(only, brought)
        with node.joined(only, gpus):
            yield only


if __name__ == "__main__":
    prepare()
