"""The operator's image, built by its Containerfile from Debian's packages."""

import json
import subprocess
import tarfile
from pathlib import Path
from typing import Any

import images
import pytest

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(bool(images.missing()), reason=f"images are built elsewhere: {images.missing()}"),
]
LARGEST_MB = 150
"""Of the operator's image as a registry keeps it."""


@pytest.fixture(scope="module")
def wheels(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheels")
    images.download("operator", folder)
    return folder


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return images.snapshot(tmp_path_factory.mktemp("source") / "tree")


@pytest.fixture(scope="module")
def archive(source: Path, wheels: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """The image and its digest."""
    path = tmp_path_factory.mktemp("image") / "operator.tar"
    return path, images.build(source, "operator", wheels, path)


def configuration(archive: Path) -> dict[str, Any]:
    def blob(held: tarfile.TarFile, digest: str) -> dict[str, Any]:
        file = held.extractfile(f"blobs/{digest.replace(':', '/')}")
        assert file is not None
        found: dict[str, Any] = json.load(file)
        return found

    with tarfile.open(archive) as held:
        index = held.extractfile("index.json")
        assert index is not None
        manifest = blob(held, json.load(index)["manifests"][0]["digest"])
        return blob(held, manifest["config"]["digest"])["config"]  # type: ignore[no-any-return]


def inside(command: list[str], stdin: str = "") -> subprocess.CompletedProcess[str]:
    """A command run in the image as its user."""
    container = subprocess.run(
        ["buildah", "from", "localhost/moe-operator:0.1.0"], capture_output=True, text=True, check=True
    ).stdout.strip()
    try:
        return subprocess.run(
            ["buildah", "run", "--isolation=chroot", container, "--", *command],
            input=stdin, capture_output=True, text=True, check=False, timeout=120,
        )  # fmt: skip
    finally:
        subprocess.run(["buildah", "rm", container], capture_output=True, check=True)


def test_the_same_input_gives_the_same_image(
    archive: tuple[Path, str], source: Path, wheels: Path, tmp_path: Path
) -> None:
    assert images.build(source, "operator", wheels, tmp_path / "again.tar") == archive[1]


def test_the_image_is_small_and_runs_as_nobody(archive: tuple[Path, str]) -> None:
    assert archive[0].stat().st_size < LARGEST_MB * 1e6
    config = configuration(archive[0])
    assert config["User"] == "65532:65532"
    assert config["Entrypoint"] == ["moe"]
    assert config["Labels"]["org.opencontainers.image.title"] == "moe-operator"
    assert config["Labels"]["org.opencontainers.image.revision"] != "unknown"


@pytest.mark.usefixtures("archive")
def test_the_image_has_the_command_and_no_torch() -> None:
    manifest = (images.ROOT / "examples" / "seed-s1.yaml").read_text()
    planned = inside(["moe", "plan", "-f", "-"], stdin=manifest)
    assert planned.stdout.startswith("seed-s1: the plan holds"), planned.stderr
    assert inside(["python3", "-c", "import torch"]).returncode != 0
    assert inside(["moe", "operator", "run", "--help"]).returncode == 0
    assert inside(["sh", "-c", "touch /opt/moe/x"]).returncode != 0
