"""The plugin as kubectl finds it, and its entry point in this process."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from moe_operator.kubectl.app import main

SCRIPTS = {"kubectl-moe": "moe_operator.kubectl.app", "kubectl_complete-moe": "moe_operator.kubectl.completion"}
"""Modules whose main() the entry points call."""
DEADLINE_S = 60
Plugin = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture(scope="session")
def plugin_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder for the PATH with the plugin's two programs."""
    folder = tmp_path_factory.mktemp("plugin")
    for script, module in SCRIPTS.items():
        path = folder / script
        path.write_text(f"#!{sys.executable}\nfrom {module} import main\nmain()\n")
        path.chmod(0o755)
    return folder


@pytest.fixture
def plugin(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Plugin:
    """Calls the entry point with ARGUMENTS… and a kubeconfig in this process: the client takes a second to import."""

    def run(*arguments: str, kubeconfig: Path) -> subprocess.CompletedProcess[str]:
        command = ["kubectl-moe", *arguments, "--kubeconfig", str(kubeconfig)]
        monkeypatch.setattr(sys, "argv", command)
        capsys.readouterr()
        with pytest.raises(SystemExit) as ended:
            main()
        printed = capsys.readouterr()
        return subprocess.CompletedProcess(command, int(str(ended.value.code)), printed.out, printed.err)

    return run


@pytest.fixture
def plugin_process(plugin_folder: Path, tmp_path: Path) -> Plugin:
    """Runs `kubectl-moe ARGUMENTS…` with a kubeconfig, or with none."""

    def run(*arguments: str, kubeconfig: Path | None = None) -> subprocess.CompletedProcess[str]:
        environment = {**os.environ, "HOME": str(tmp_path), "KUBECONFIG": str(kubeconfig or tmp_path / "absent")}
        command = [str(plugin_folder / "kubectl-moe"), *arguments]
        return subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=DEADLINE_S)

    return run
