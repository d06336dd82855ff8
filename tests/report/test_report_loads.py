"""A report of a plan by measured loads tells them, shows one layer's experts as such, and holds its own verification."""

import json
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from moe_plan.loads import LOADS_VERSION

Moe = Callable[..., subprocess.CompletedProcess[str]]
MANIFEST = "examples/seed-s1.yaml"


@pytest.mark.slow
def test_a_report_tells_the_measured_loads_and_verifies_their_map(moe: Moe, tmp_path: Path) -> None:
    loads = {
        "version": LOADS_VERSION,
        "model": "seed-s1",
        "since": "2026-11-21T10:00:00Z",
        "tokens": 10_000,
        "layers": {str(layer): [(7 * e + 3 * layer) % 64 + 1 for e in range(64)] for layer in range(16)},
    }
    file, folder = tmp_path / "loads.json", tmp_path / "report"
    file.write_text(json.dumps(loads))
    manifest = (Path(__file__).parents[2] / MANIFEST).read_text().replace("ep: 64", "ep: 16")
    done = moe("report", "-f", "-", "-d", folder, "--expert-loads", file, stdin=manifest)
    assert done.returncode == 0, done.stderr
    strategy = json.loads((folder / "strategy.json").read_text())
    assert len(strategy["experts"]["exceptions"]) == 16
    assert strategy["ranks"][0]["experts"] == strategy["experts"]["exceptions"]["0"][:4]
    assert all(check["holds"] for check in json.loads((folder / "verification.json").read_text())["checks"])
    page, guide = (folder / "report.html").read_text(), (folder / "implementation_guide.md").read_text()
    for text in (page, guide):
        assert "experts of layer 0; the others differ" in text
    assert "by the measured loads 1 times" in page
    assert "By the measured loads it is 1 times" in guide
