"""The operator's image, built by its Containerfile from Debian's packages."""

import io
import json
import os
import re
import signal
import subprocess
import tarfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import images
import pytest
from control_plane import ControlPlane
from image_archive import layers, write_archive
from operator_process import HOME, eventually, install, write_kubeconfig
from operator_process import NAME as OPERATOR

pytestmark = [
    pytest.mark.soak,
    pytest.mark.skipif(bool(images.missing()), reason=f"images are built elsewhere: {images.missing()}"),
]
LARGEST_MB = 150
"""Of the operator's image as a registry keeps it."""
THIN_MB = 10
"""Of the layer that a change of code makes anew."""


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return images.snapshot(tmp_path_factory.mktemp("source") / "tree")


@pytest.fixture(scope="module")
def archive(source: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """The image and its digest."""
    path = tmp_path_factory.mktemp("image") / "operator.tar"
    return path, images.build(source, "operator", "--output", path)


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


@contextmanager
def container() -> Iterator[str]:
    command = ["buildah", "from", "localhost/moe-operator:0.1.0"]
    made = subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    try:
        yield made
    finally:
        subprocess.run(["buildah", "rm", made], capture_output=True, check=True)


def inside(command: list[str], stdin: str = "") -> subprocess.CompletedProcess[str]:
    """A command run in the image as its user."""
    with container() as made:
        return subprocess.run(
            ["buildah", "run", "--isolation=chroot", made, "--", *command],
            input=stdin, capture_output=True, text=True, check=False, timeout=120,
        )  # fmt: skip


@contextmanager
def running(*command: str) -> Iterator[None]:
    """A command that goes on in its own session until the block is left."""
    process = subprocess.Popen(command, start_new_session=True)
    try:
        yield
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def test_the_same_input_gives_the_same_image(archive: tuple[Path, str], source: Path) -> None:
    again = ("--no-cache", "--tag=localhost/moe-operator:again")
    assert images.build(source, "operator", *again) == archive[1]


@pytest.mark.usefixtures("archive")
def test_another_commit_changes_one_thin_layer(source: Path) -> None:
    before = layers("localhost/moe-operator:0.1.0")
    with (source / "operator" / "moe_operator" / "samples.py").open("a") as code:
        code.write("# changed\n")
    images.build(source, "operator", "--tag=localhost/moe-operator:changed")
    after = layers("localhost/moe-operator:changed")
    assert after[:-1] == before[:-1]
    thin = io.BytesIO()
    write_archive("localhost/moe-operator:changed", thin, known=before)
    assert thin.tell() < THIN_MB * 1e6
    assert after[-1].removeprefix("sha256:").encode() in thin.getvalue()


def test_the_image_is_small_and_runs_as_nobody(archive: tuple[Path, str]) -> None:
    assert archive[0].stat().st_size < LARGEST_MB * 1e6
    config = configuration(archive[0])
    assert config["User"] == "65532:65532"
    assert config["Entrypoint"] == ["moe"]
    assert config["Labels"]["org.opencontainers.image.title"] == "moe-operator"
    assert config["Labels"]["org.opencontainers.image.revision"] != "unknown"


def test_the_bill_of_materials_lists_what_is_installed_and_nothing_else(archive: tuple[Path, str]) -> None:
    listed = "from importlib.metadata import distributions as d; print(*(f'{i.name}@{i.version}' for i in d()))"
    said = inside(["python3", "-c", listed]).stdout.split()
    named = (one.split("@") for one in said)
    python = {f"pkg:pypi/{re.sub('[-_.]+', '-', name).lower()}@{version}" for name, version in named}
    packages = inside(["dpkg-query", "-W", "-f", "${Package}@${Version} "]).stdout.split()
    bill = inside(["cat", "/opt/moe/sbom.cdx.json"]).stdout
    assert bill == archive[0].with_suffix(".cdx.json").read_text()
    components = json.loads(bill)["components"]
    urls = [unquote(component["purl"]).partition("?")[0] for component in components]
    assert sorted(urls) == sorted(python | {f"pkg:deb/debian/{package}" for package in packages})
    assert len(python) > 20


def test_the_bill_of_materials_has_every_hash_of_the_lock(archive: tuple[Path, str]) -> None:
    lock = (images.ROOT / "operator" / "requirements.txt").read_text()
    components = json.loads(archive[0].with_suffix(".cdx.json").read_text())["components"]
    python = [one for one in components if one["purl"].startswith("pkg:pypi/")]
    assert {one["purl"].removeprefix("pkg:pypi/").replace("@", "==") for one in python} == set(
        re.findall(r"^(\S+==\S+)", lock, re.MULTILINE)
    )
    assert sorted(said["value"] for one in python for said in one["properties"]) == sorted(
        re.findall(r"--hash=(\S+)", lock)
    )


@pytest.mark.usefixtures("archive")
def test_the_image_has_the_command_and_no_torch() -> None:
    manifest = (images.ROOT / "examples" / "seed-s1.yaml").read_text()
    planned = inside(["moe", "plan", "-f", "-"], stdin=manifest)
    assert planned.stdout.startswith("seed-s1: the plan holds"), planned.stderr
    assert inside(["python3", "-c", "import torch"]).returncode != 0
    assert inside(["moe", "operator", "run", "--help"]).returncode == 0
    assert inside(["sh", "-c", "touch /opt/moe/x"]).returncode != 0


@pytest.mark.usefixtures("archive")
def test_the_operator_of_the_image_leads_a_cluster(bare_plane: ControlPlane, tmp_path: Path) -> None:
    bare_plane.install_crd()
    install(bare_plane)
    kubeconfig = write_kubeconfig(bare_plane, tmp_path)
    authority = bare_plane.authority.ca_file
    kubeconfig.write_text(kubeconfig.read_text().replace(str(authority), "/cluster/ca.crt"))
    (tmp_path / "ca.crt").write_bytes(authority.read_bytes())
    tmp_path.chmod(0o755)  # the image's user is another one

    def leader() -> str:
        shown = ("-o", "jsonpath={.spec.holderIdentity}")
        return bare_plane.kubectl("get", "lease", OPERATOR, f"--namespace={HOME}", *shown).stdout

    with container() as made:
        mounted = (f"--volume={tmp_path}:/cluster:ro", "--env=KUBECONFIG=/cluster/kubeconfig")
        operator = ("moe", "operator", "run", "--identity=in-image", "--webhook=off", "--health-port=0")
        with running("buildah", "run", "--isolation=chroot", *mounted, made, "--", *operator):
            eventually(lambda: leader() == "in-image", "the operator of the image leads")
