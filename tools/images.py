"""Build an image with buildah: the same commit on the same base gives the same digest, which is printed.

Layers are kept: where only the project's code has changed, building takes seconds.
"""

import argparse
import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

ROOT = Path(__file__).parents[1]
BASE = "docker.io/library/python:3.12-slim"
EPOCH_S = 0
"""Date of every file: layers of older commits are used again, so theirs must not depend on the commit."""
SBOM = "/opt/moe/sbom.cdx.json"
ISOLATION = "chroot"
"""Needs no container engine; https://github.com/containers/buildah/blob/main/docs/buildah-build.1.md"""


def main() -> None:
    """Build what is asked for. Exits with buildah's status when it fails."""
    given = _arguments()
    tag = given.tag or f"localhost/moe-{given.image}:0.1.0"
    with TemporaryDirectory() as folder:
        anew = ["--no-cache"] if given.no_cache else []
        _run(*_build(given.image, tag, given.base, given.wheels, Path(folder)), *anew, str(ROOT))
    if given.output:
        _run("buildah", "push", "--quiet", tag, f"oci-archive:{given.output}:{tag}")
        given.output.with_suffix(".cdx.json").write_text(_sbom(tag))
    print(tag, _read("buildah", "inspect", "--type=image", "--format={{.FromImageDigest}}", tag))


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("image", choices=["operator", "runtime"])
    parser.add_argument("--base", default=BASE, help=f"an image with Python, pip and venv (default: {BASE})")
    parser.add_argument("--tag", help="name of the image (default: localhost/moe-IMAGE:0.1.0)")
    parser.add_argument("--wheels", type=Path, help="folder of wheels to install from, instead of a package index")
    parser.add_argument("--no-cache", action="store_true", help="build every layer anew")
    parser.add_argument("-o", "--output", type=Path, help="also write an OCI archive, and beside it the SBOM")
    return parser.parse_args()


def _build(image: str, tag: str, base: str, wheels: Path | None, folder: Path) -> list[str]:
    """The command that builds an image from the working tree, but for the tree; its files are dated EPOCH_S."""
    revision = _read("git", "-C", str(ROOT), "describe", "--always", "--abbrev=40", "--dirty", "--exclude=*")
    command = ["buildah", "build", "--quiet", "--layers", f"--isolation={ISOLATION}", f"--timestamp={EPOCH_S}"]
    command += [f"--file={ROOT}/{image}/Containerfile", f"--tag={tag}"]
    command += [f"--build-arg=BASE={base}", f"--build-arg=REVISION={revision}"]
    if wheels:
        configuration = folder / "pip.conf"
        configuration.write_text("[global]\nno-index = true\nfind-links = /wheels\n")
        command += [f"--secret=id=pip,src={configuration}", f"--volume={wheels.resolve()}:/wheels:ro"]
    return command


def _sbom(tag: str) -> str:
    """The bill of materials that an image carries."""
    container = _read("buildah", "from", tag)
    try:
        return _read("buildah", "run", f"--isolation={ISOLATION}", container, "--", "cat", SBOM) + "\n"
    finally:
        _read("buildah", "rm", container)


def _run(*command: str) -> None:
    done = subprocess.run(command, stdout=sys.stderr, check=False)
    if done.returncode:
        sys.exit(done.returncode)


def _read(*command: str) -> str:
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()


if __name__ == "__main__":
    main()
