"""The plugin where it cannot have what it asks for: one line each, and exit status 1 or 2."""

import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from answering import api_server, kubeconfig

from moe_operator import kubectl

Plugin = Callable[..., subprocess.CompletedProcess[str]]
DEPLOYMENTS = "/apis/moe-operator.dev/v1alpha1/namespaces/default/moedeployments"


def refusal(code: int, message: str) -> tuple[int, Any]:
    return code, {"kind": "Status", "status": "Failure", "message": message, "code": code}


def said(done: subprocess.CompletedProcess[str]) -> str:
    """What the plugin said on stderr, which is one line."""
    assert done.returncode == 1, done.stderr
    assert done.stdout == ""
    assert done.stderr.count("\n") == 1
    return done.stderr.strip()


def test_no_kubeconfig(plugin_process: Plugin) -> None:
    assert "no cluster to ask" in (line := said(plugin_process("status", "m")))
    assert "set KUBECONFIG or give --kubeconfig" in line


def test_a_file_that_is_no_kubeconfig(plugin: Plugin, tmp_path: Path) -> None:
    (tmp_path / "odd").write_text("- a list\n")
    assert said(plugin("status", "m", kubeconfig=tmp_path / "odd")).startswith("error: no cluster to ask: ")


def test_no_such_context(plugin: Plugin, tmp_path: Path) -> None:
    path = kubeconfig(tmp_path, "http://127.0.0.1:1")
    assert "nowhere" in said(plugin("status", "m", "--context", "nowhere", kubeconfig=path))


def test_nobody_listens(plugin: Plugin, tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        server = f"http://127.0.0.1:{free.getsockname()[1]}"
    line = said(plugin("why", "m", kubeconfig=kubeconfig(tmp_path, server)))
    assert line.startswith(f"error: {server} does not answer: ")
    assert "Connection refused" in line
    assert "object at" not in line


def test_no_permission(plugin: Plugin, tmp_path: Path) -> None:
    message = 'moedeployments.moe-operator.dev "m" is forbidden: User "eve" cannot get resource'
    with api_server({f"{DEPLOYMENTS}/m": refusal(403, message)}) as server:
        line = said(plugin("describe", "m", kubeconfig=kubeconfig(tmp_path, server)))
    assert line == f"error: not allowed: {message}"


def test_no_such_deployment_names_those_that_there_are(plugin: Plugin, tmp_path: Path) -> None:
    others = {"items": [{"metadata": {"name": "a"}}, {"metadata": {"name": "b"}}], "metadata": {}}
    with api_server({f"{DEPLOYMENTS}/m": refusal(404, '"m" not found'), DEPLOYMENTS: (200, others)}) as server:
        line = said(plugin("plan", "m", kubeconfig=kubeconfig(tmp_path, server)))
    assert line == "error: no MoEDeployment m in namespace default; there are a, b"


def test_a_cluster_without_the_crd(plugin: Plugin, tmp_path: Path) -> None:
    with api_server({}) as server:
        line = said(plugin("top", "m", kubeconfig=kubeconfig(tmp_path, server)))
    assert line == (
        "error: the cluster does not serve moe-operator.dev/v1alpha1; install the operator's CustomResourceDefinition"
    )


@pytest.mark.parametrize(
    "arguments", [("logs", "m"), ("logs", "m", "--rank", "1", "--stage", "0"), ("status",), ("x",)]
)
def test_wrong_use_exits_with_2(plugin: Plugin, arguments: tuple[str, ...], tmp_path: Path) -> None:
    done = plugin(*arguments, kubeconfig=tmp_path / "absent")
    assert done.returncode == 2
    assert "Traceback" not in done.stderr


def test_a_deployment_that_nobody_looked_at_says_so(plugin: Plugin, tmp_path: Path) -> None:
    bare = {"metadata": {"name": "m", "generation": 1}, "spec": {}}
    none = {"items": [], "metadata": {}}
    answers = {f"{DEPLOYMENTS}/m": (200, bare)}
    answers |= {f"/api/v1/namespaces/default/{kind}": (200, none) for kind in ("pods", "configmaps")}
    with api_server(answers) as server:
        path = kubeconfig(tmp_path, server)
        for command in ("status", "why"):
            done = plugin(command, "m", kubeconfig=path)
            assert (done.returncode, done.stdout) == (0, "m: no status yet; is the operator running?\n")
        assert said(plugin("plan", "m", kubeconfig=path)) == "error: m has no plan; see kubectl moe why m"
        assert "m has no replicas yet" in said(plugin("logs", "m", "--rank", "0", kubeconfig=path))


def test_the_client_is_not_installed(plugin: Plugin, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "moe_operator.kubectl.cluster", None)
    line = said(plugin("status", "m", kubeconfig=tmp_path / "absent"))
    assert line.endswith("is not installed; pip install 'moe-operator[kubectl]'")


def test_the_plugin_needs_nothing_of_what_the_operator_and_the_runtime_need() -> None:
    modules = [f"moe_operator.kubectl.{path.stem}" for path in Path(kubectl.__file__).parent.glob("[a-z]*.py")]
    script = f"""
import importlib, sys
for name in {modules}: importlib.import_module(name)
print([name for name in ("aiohttp", "cryptography", "jinja2", "kopf", "torch") if name in sys.modules])
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout == "[]\n"
