"""What kube-score advises on the chart's objects, and why some of it is not followed."""

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml
from binaries import TOOLS, tool
from helm_chart import Render

KUBERNETES = "v1.36"
GOOD = 7
"""Grades go to 10; what is lower is advised to be changed."""
CASES = sorted((Path(__file__).parent / "values").glob("*.yaml"))
NOT_FOLLOWED = {
    "container-image-pull-policy": "IfNotPresent: tags are versions here, and a registry that is down must stop no restart",
    "container-resources": "no limit of CPU: throttled, the leader would lose its lease",
    "pod-networkpolicy": "egress is open by default, since no policy can name an API server's address",
}
TURNED_OFF = {
    "everything": {"deployment-has-host-podantiaffinity": "the values give another affinity"},
    "least": {"container-security-context-user-group-id": "runAsUser is null, as OpenShift wants it"},
    "namespaced": {"deployment-replicas": "replicas is 1"},
}


@pytest.fixture(scope="session")
def kube_score() -> Path:
    program = tool("kube-score")
    if program is None:
        pytest.skip(f"no kube-score {TOOLS['kube-score'][1]}; `python tests/cluster/binaries.py` builds it")
    return program


def advised(kube_score: Path, objects: list[dict[str, Any]]) -> dict[str, str]:
    """What is said of each check that objects fail."""
    command = [str(kube_score), "score", "--output-format=json", f"--kubernetes-version={KUBERNETES}", "-"]
    given = yaml.safe_dump_all(objects)
    done = subprocess.run(command, input=given, capture_output=True, text=True, check=False, timeout=60)
    checks = [check for scored in json.loads(done.stdout) for check in scored["checks"] if not check["skipped"]]
    assert len(checks) > len(objects)
    return {check["check"]["id"]: str(check["comments"]) for check in checks if check["grade"] < GOOD}


@pytest.mark.parametrize("values", CASES, ids=lambda path: path.stem)
def test_advice_is_followed_or_there_is_a_reason(kube_score: Path, render: Render, values: Path) -> None:
    said = advised(kube_score, render(yaml.safe_load(values.read_text())))
    assert {
        check: why for check, why in said.items() if check not in NOT_FOLLOWED | TURNED_OFF.get(values.stem, {})
    } == {}
    if values.stem == "default":
        assert said.keys() == NOT_FOLLOWED.keys()
