"""The operator as a real process, as its own ServiceAccount under its own RBAC rules."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from control_plane import ControlPlane, die_with_parent

from moe_operator.resources import cluster_role, member_role, own_role, wide_role

HOME = "moe-operator-system"
NAME = "moe-operator"
STOP_DEADLINE_S = 15


class Account(NamedTuple):
    """A ServiceAccount of an operator; its roles bear its name."""

    namespace: str = HOME
    name: str = NAME


ACCOUNT = Account()


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


def install(plane: ControlPlane, account: Account = ACCOUNT, namespaces: Sequence[str] = ()) -> None:
    """Namespace, ServiceAccount and RBAC rules of an operator, of some namespaces or of all: it may do nothing else."""
    plane.apply({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": account.namespace}})
    plane.apply({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": account._asdict()})
    wide = wide_role(account.name) if namespaces else cluster_role(account.name)
    for role in (wide, own_role(account.name, account.namespace)):
        bind(plane, account, role)
    for namespace in namespaces:
        bind(plane, account, member_role(f"{account.name}-deployments", namespace))


def bind(plane: ControlPlane, account: Account, role: dict[str, Any]) -> None:
    """Make a role, and give it to an account."""
    reference = {"apiGroup": "rbac.authorization.k8s.io", "kind": role["kind"], "name": role["metadata"]["name"]}
    subjects = [{"kind": "ServiceAccount", **account._asdict()}]
    binding = {**role, "kind": f"{role['kind']}Binding", "roleRef": reference, "subjects": subjects}
    del binding["rules"]
    plane.apply({"apiVersion": "v1", "kind": "List", "items": [role, binding]})


def token(plane: ControlPlane, duration: str = "1h", account: Account = ACCOUNT) -> str:
    """A token of an operator's ServiceAccount."""
    done = plane.kubectl("create", "token", account.name, f"--namespace={account.namespace}", f"--duration={duration}")
    if done.returncode:
        raise RuntimeError(done.stderr)
    return done.stdout.strip()


def write_kubeconfig(plane: ControlPlane, folder: Path, url: str | None = None, account: Account = ACCOUNT) -> Path:
    """A kubeconfig of the ServiceAccount with its token in a file, as in a pod."""
    context = {"cluster": "operator", "user": "operator", "namespace": account.namespace}
    (folder / "token").write_text(token(plane, account=account))
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
        "contexts": [{"name": "operator", "context": context}],
    }
    path = folder / "kubeconfig"
    path.write_text(json.dumps(config))
    return path


@contextmanager
def running(
    plane: ControlPlane,
    folder: Path,
    *arguments: str,
    identity: str = "operator-a",
    url: str | None = None,
    account: Account = ACCOUNT,
) -> Iterator[Operator]:
    """An operator that ends with the block."""
    operator = start(plane, folder, *arguments, identity=identity, url=url, account=account)
    try:
        yield operator
    finally:
        operator.kill()


def start(
    plane: ControlPlane,
    folder: Path,
    *arguments: str,
    identity: str = "operator-a",
    url: str | None = None,
    account: Account = ACCOUNT,
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
            env={**os.environ, "KUBECONFIG": str(write_kubeconfig(plane, folder, url, account))},
            preexec_fn=die_with_parent,  # noqa: PLW1509  # one prctl call
        )
    return Operator(process, log_file, identity)


def eventually(
    question: Callable[[], Any], what: str | Callable[[], str], deadline_s: float = 60.0, every_s: float = 0.1
) -> Any:
    """The first true answer to a question, asked again and again.

    Raises AssertionError after the deadline, with `what` was waited for, or what there is to say then.
    """
    deadline = time.monotonic() + deadline_s
    while not (answer := question()):
        if time.monotonic() > deadline:
            raise AssertionError(f"not within {deadline_s:g} s: {what() if callable(what) else what}")
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
