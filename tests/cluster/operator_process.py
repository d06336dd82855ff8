"""The operator as a real process, as its own ServiceAccount under its own RBAC rules."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from control_plane import ControlPlane, die_with_parent

from moe_operator.resources import cluster_role, own_role

HOME = "moe-operator-system"
NAME = "moe-operator"
STOP_DEADLINE_S = 15


@dataclass
class Operator:
    """A running operator."""

    process: subprocess.Popen[bytes]
    log_file: Path
    identity: str

    @property
    def log(self) -> str:
        return self.log_file.read_text()

    def kill(self) -> None:
        """End it as a lost machine would."""
        self.process.kill()
        self.process.wait()

    def stop(self) -> int:
        """End it as the kubelet would; its exit status."""
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(STOP_DEADLINE_S)


def install(plane: ControlPlane) -> None:
    """Namespace, ServiceAccount and RBAC rules of the operator: nothing else may be done by it."""
    account = {"kind": "ServiceAccount", "name": NAME, "namespace": HOME}
    items: list[dict[str, Any]] = [
        {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": HOME}},
        {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": NAME, "namespace": HOME}},
    ]
    for role in (cluster_role(NAME), own_role(NAME, HOME)):
        reference = {"apiGroup": "rbac.authorization.k8s.io", "kind": role["kind"], "name": NAME}
        binding = {**role, "kind": f"{role['kind']}Binding", "roleRef": reference, "subjects": [account]}
        del binding["rules"]
        items += [role, binding]
    plane.apply({"apiVersion": "v1", "kind": "List", "items": items})


def token(plane: ControlPlane, duration: str = "1h") -> str:
    """A token of the operator's ServiceAccount."""
    done = plane.kubectl("create", "token", NAME, f"--namespace={HOME}", f"--duration={duration}")
    if done.returncode:
        raise RuntimeError(done.stderr)
    return done.stdout.strip()


def write_kubeconfig(plane: ControlPlane, folder: Path, url: str | None = None) -> Path:
    """A kubeconfig of the ServiceAccount with its token in a file, as in a pod."""
    (folder / "token").write_text(token(plane))
    config = {
        "apiVersion": "v1",
        "kind": "Config",
        "current-context": "operator",
        "clusters": [
            {
                "name": "operator",
                "cluster": {"server": url or plane.url, "certificate-authority": str(plane.authority.ca_file)},
            }
        ],
        "users": [{"name": "operator", "user": {"tokenFile": "token"}}],
        "contexts": [{"name": "operator", "context": {"cluster": "operator", "user": "operator", "namespace": HOME}}],
    }
    path = folder / "kubeconfig"
    path.write_text(json.dumps(config))
    return path


@contextmanager
def running(
    plane: ControlPlane, folder: Path, *arguments: str, identity: str = "operator-a", url: str | None = None
) -> Iterator[Operator]:
    """An operator that ends with the block."""
    operator = start(plane, folder, *arguments, identity=identity, url=url)
    try:
        yield operator
    finally:
        operator.kill()


def start(
    plane: ControlPlane, folder: Path, *arguments: str, identity: str = "operator-a", url: str | None = None
) -> Operator:
    """Start an operator; whoever starts it ends it."""
    folder.mkdir(parents=True, exist_ok=True)
    log_file = folder / f"{identity}.log"
    moe = shutil.which("moe", path=str(Path(sys.executable).parent))
    assert moe is not None
    command = [moe, "operator", "run", f"--identity={identity}", "--health-port=0", "--webhook=off", *arguments]
    with log_file.open("ab") as log:
        process = subprocess.Popen(
            command,
            stdout=log,
            stderr=log,
            env={**os.environ, "KUBECONFIG": str(write_kubeconfig(plane, folder, url))},
            preexec_fn=die_with_parent,  # noqa: PLW1509  # one prctl call
        )
    return Operator(process, log_file, identity)


def eventually(question: Callable[[], Any], what: str, deadline_s: float = 60.0, every_s: float = 0.1) -> Any:
    """The first true answer to a question, asked again and again. Raises AssertionError after the deadline."""
    deadline = time.monotonic() + deadline_s
    while not (answer := question()):
        if time.monotonic() > deadline:
            raise AssertionError(f"not within {deadline_s:g} s: {what}")
        time.sleep(every_s)
    return answer


def resident_mb(process: subprocess.Popen[bytes]) -> float:
    """Resident memory of a process, MB."""
    status = Path(f"/proc/{process.pid}/status").read_text()
    line = next(line for line in status.splitlines() if line.startswith("VmRSS"))
    return int(line.split()[1]) * 1024 / 1e6


def cpu_s(process: subprocess.Popen[bytes]) -> float:
    """CPU time that a process has used, seconds."""
    fields = Path(f"/proc/{process.pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
