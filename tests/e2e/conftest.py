"""One cluster with real pods for all tests here, Helm, and a table of what was measured at the end."""

import os
import shutil
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import real_cluster
from helm_chart import Helm, helm_at
from images import ROOT, build
from narrowed import MODEL
from node import Node
from node_images import image_size
from terminal import IMAGES, Figures, Terminal

measured = Figures()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker(pytest.mark.e2e)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    if measured:
        load = ", ".join(f"{load:.1f}" for load in os.getloadavg())
        terminalreporter.section(f"measured on {os.cpu_count()} CPUs under load {load}")
        for what, figure in measured.items():
            terminalreporter.line(f"{what:<70} {figure}")


@pytest.fixture(scope="session")
def figures() -> Figures:
    """What is measured, for the table at the end."""
    return measured


@pytest.fixture(scope="module")
def cluster(figures: Figures) -> Iterator[Node]:
    """A ready node with both images of today's tree."""
    if why := real_cluster.missing():
        pytest.skip(f"no real pods here: {why}")
    began = time.monotonic()
    for image, tag in IMAGES.items():
        build(ROOT, image, "--tag", tag)
    figures["both images built, layers of dependencies kept"] = f"{time.monotonic() - began:.0f} s"
    began = time.monotonic()
    with real_cluster.real_cluster(tuple(IMAGES.values())) as node:
        figures["cluster started, images on the node"] = f"{time.monotonic() - began:.0f} s"
        for image, tag in IMAGES.items():
            figures[f"{image}'s image, unpacked with its base"] = image_size(node, tag)
        yield node


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model on the node's disk that the pods' user may read."""
    return Path(shutil.copytree(MODEL, tmp_path_factory.mktemp("models") / "quickstart"))


@pytest.fixture(scope="session")
def helm(tmp_path_factory: pytest.TempPathFactory) -> Helm:
    """Runs `helm ARGUMENTS…`."""
    return helm_at(tmp_path_factory.mktemp("helm"), deadline_s=300)


@pytest.fixture(scope="module")
def terminal(cluster: Node) -> Terminal:
    """A person's terminal."""
    return Terminal(cluster)
