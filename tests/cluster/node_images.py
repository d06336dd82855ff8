"""Images of buildah's storage into a node's containerd, which is given only the layers that it has not got."""

import subprocess
from collections.abc import Sequence

from binaries import node_binaries
from image_archive import write_archive
from node import Node
from node_files import SANDBOX

DEADLINE_S = 1200


def bring_in(node: Node, images: Sequence[str]) -> None:
    """Have containerd hold what buildah's storage has under these names. Raises RuntimeError where that fails."""
    for image in (*images, _sandbox()):
        known = node.ctr("content", "list", "--quiet").split()
        with subprocess.Popen(
            node.command("ctr", "--namespace=k8s.io", "images", "import", "-"),
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
        ) as importing:
            assert importing.stdin is not None
            write_archive(image, importing.stdin, known)
            importing.stdin.close()
            if importing.wait(DEADLINE_S):
                raise RuntimeError(f"containerd does not take {image}; see {node.folder}/containerd.log")


def image_size(node: Node, image: str) -> str:
    """What an image takes, its layers unpacked, as containerd says it."""
    (found,) = (line.split() for line in node.ctr("images", "list").splitlines() if line.startswith(f"{image} "))
    return " ".join(found[3:5])


def _sandbox() -> str:
    """The image of the process that holds a pod's namespaces, made where buildah has none."""
    if subprocess.run(["buildah", "inspect", "--type=image", SANDBOX], capture_output=True, check=False).returncode:
        container = _buildah("from", "scratch").strip()
        try:
            _buildah("add", "--quiet", container, str(node_binaries() / "pause"), "/pause")
            _buildah("config", "--entrypoint", '["/pause"]', container)
            _buildah("commit", "--quiet", container, SANDBOX)
        finally:
            _buildah("rm", container)
    return SANDBOX


def _buildah(*arguments: str) -> str:
    done = subprocess.run(["buildah", *arguments], capture_output=True, text=True, check=False, timeout=DEADLINE_S)
    if done.returncode:
        raise RuntimeError(f"buildah {arguments[0]}: {done.stderr[-2000:]}")
    return done.stdout
