"""A real control plane on this machine: etcd, API server, scheduler, controller-manager, and kwok's fake nodes.

All processes die with the test process; their state is a temporary folder.
"""

import base64
import ctypes
import json
import signal
import socket
import ssl
import subprocess
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from binaries import binaries
from certificates import Authority

READY_DEADLINE_S = 60
_PR_SET_PDEATHSIG = 1


@dataclass(frozen=True, slots=True)
class ControlPlane:
    """A running control plane and how to reach it."""

    url: str
    kubeconfig: Path
    """Of a cluster administrator."""
    folder: Path
    programs: Path
    authority: Authority

    def kubectl(
        self, *arguments: str, stdin: str = "", kubeconfig: Path | None = None
    ) -> subprocess.CompletedProcess[str]:
        """Run kubectl as a person would; the caller looks at the exit status."""
        command = [str(self.programs / "kubectl"), f"--kubeconfig={kubeconfig or self.kubeconfig}", *arguments]
        return subprocess.run(command, input=stdin, capture_output=True, text=True, check=False, timeout=60)

    def context(self) -> ssl.SSLContext:
        """TLS of the administrator."""
        context = ssl.create_default_context(cafile=str(self.authority.ca_file))
        context.load_cert_chain(self.folder / "admin.crt", self.folder / "admin.key")
        return context

    def install_crd(self) -> None:
        """Install the project's CRD and wait until its resource is served."""
        crd = Path(__file__).parents[2] / "crds" / "moe-operator.dev_moedeployments.yaml"
        for arguments in (
            ("apply", "-f", str(crd)),
            ("wait", "--for=condition=Established", "-f", str(crd), "--timeout=30s"),
        ):
            done = self.kubectl(*arguments)
            if done.returncode:
                raise RuntimeError(done.stderr)
        self._wait_discovered("moedeployments.moe-operator.dev")

    def _wait_discovered(self, resource: str) -> None:
        deadline = time.monotonic() + READY_DEADLINE_S
        while self.kubectl("explain", resource).returncode:
            if time.monotonic() > deadline:
                raise RuntimeError(f"{resource} was not served within {READY_DEADLINE_S} s")
            time.sleep(0.2)

    def add_nodes(self, nodes: Sequence[dict[str, Any]]) -> None:
        """Create fake nodes; they are Ready when kwok has seen them."""
        self.apply({"apiVersion": "v1", "kind": "List", "items": list(nodes)})

    def apply(self, obj: dict[str, Any]) -> None:
        """Apply an object as the administrator. Raises RuntimeError with what kubectl said."""
        done = self.kubectl("apply", "--server-side", "-f", "-", stdin=json.dumps(obj))
        if done.returncode:
            raise RuntimeError(done.stderr)


def gpu_node(name: str, labels: dict[str, str] | None = None, gpus: int = 8) -> dict[str, Any]:
    """A fake node with GPUs."""
    amounts = {"cpu": "128", "memory": "2Ti", "pods": "110", "nvidia.com/gpu": str(gpus)}
    return {
        "apiVersion": "v1",
        "kind": "Node",
        "metadata": {
            "name": name,
            "annotations": {"kwok.x-k8s.io/node": "fake"},
            "labels": {"kubernetes.io/hostname": name, "kubernetes.io/os": "linux", **(labels or {})},
        },
        "status": {"allocatable": amounts, "capacity": amounts},
    }


@contextmanager
def control_plane(
    api_server: Sequence[str] = (), scheduler: Sequence[str] = (), addresses: Sequence[str] = ("10.0.0.1",)
) -> Iterator[ControlPlane]:
    """Start everything, with more flags where given; wait until it answers, stop it at the end.

    `addresses` are those of the API server beside this machine's own.
    """
    programs = binaries()
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="moe-cluster-")))
        authority = Authority(folder)
        etcd_port, etcd_peer_port, port = _free_ports(3)
        plane = ControlPlane(f"https://127.0.0.1:{port}", folder / "admin.kubeconfig", folder, programs, authority)
        _credentials(plane, addresses)
        start = _Starter(stack, programs, folder)
        start(
            "etcd",
            f"--data-dir={folder}/etcd",
            "--unsafe-no-fsync",
            f"--listen-client-urls=http://127.0.0.1:{etcd_port}",
            f"--advertise-client-urls=http://127.0.0.1:{etcd_port}",
            f"--listen-peer-urls=http://127.0.0.1:{etcd_peer_port}",
            f"--initial-advertise-peer-urls=http://127.0.0.1:{etcd_peer_port}",
            f"--initial-cluster=default=http://127.0.0.1:{etcd_peer_port}",
        )
        start("kube-apiserver", *_apiserver_flags(folder, port, etcd_port), *api_server)
        _wait_ready(plane)
        start(
            "kube-scheduler", f"--kubeconfig={plane.kubeconfig}", "--leader-elect=false", "--secure-port=0", *scheduler
        )
        start(
            "kube-controller-manager",
            f"--kubeconfig={plane.kubeconfig}",
            "--leader-elect=false",
            "--secure-port=0",
            "--use-service-account-credentials=true",
            f"--root-ca-file={authority.ca_file}",
            f"--service-account-private-key-file={folder}/sa.key",
        )
        start(
            "kwok",
            f"--kubeconfig={plane.kubeconfig}",
            f"--config={programs}/stages.yaml",
            "--manage-all-nodes=false",
            "--manage-nodes-with-annotation-selector=kwok.x-k8s.io/node=fake",
            "--node-lease-duration-seconds=40",
            "--cidr=127.64.0.0/16",  # addresses of fake pods are this machine, so that a test can serve as one
        )
        yield plane


def _apiserver_flags(folder: Path, port: int, etcd_port: int) -> list[str]:
    return [
        f"--etcd-servers=http://127.0.0.1:{etcd_port}",
        "--bind-address=127.0.0.1",
        f"--secure-port={port}",
        f"--client-ca-file={folder}/ca.crt",
        f"--tls-cert-file={folder}/apiserver.crt",
        f"--tls-private-key-file={folder}/apiserver.key",
        "--service-account-issuer=https://kubernetes.default.svc",
        f"--service-account-key-file={folder}/sa.pub",
        f"--service-account-signing-key-file={folder}/sa.key",
        "--service-cluster-ip-range=10.0.0.0/16",
        "--authorization-mode=Node,RBAC",
        "--allow-privileged",
        "--endpoint-reconciler-type=none",
        "--kubelet-preferred-address-types=InternalIP",
        f"--audit-log-path={folder}/audit.log",
        f"--audit-policy-file={_audit_policy(folder)}",
        f"--kubelet-client-certificate={folder}/admin.crt",
        f"--kubelet-client-key={folder}/admin.key",
    ]


def _audit_policy(folder: Path) -> Path:
    """Metadata of each request: which verbs on which resources the operator needs is read from it."""
    path = folder / "audit-policy.yaml"
    path.write_text(
        '{"apiVersion": "audit.k8s.io/v1", "kind": "Policy", "omitStages": ["RequestReceived"], "rules": [{"level": "Metadata"}]}'
    )
    return path


def _credentials(plane: ControlPlane, addresses: Sequence[str]) -> None:
    authority, folder = plane.authority, plane.folder
    authority.service_account_keys()
    authority.issue("apiserver", organisation="", addresses=("127.0.0.1", *addresses))
    authority.issue("admin", organisation="system:masters")
    plane.kubeconfig.write_text(json.dumps(kubeconfig(plane.url, authority, folder / "admin")))


def kubeconfig(url: str, authority: Authority, user: Path) -> dict[str, Any]:
    """A kubeconfig of the certificate and key beside `user`.crt and `user`.key."""
    cluster = {"server": url, "certificate-authority-data": _encoded(authority.ca_file)}
    client = {
        "client-certificate-data": _encoded(user.with_suffix(".crt")),
        "client-key-data": _encoded(user.with_suffix(".key")),
    }
    return {
        "apiVersion": "v1",
        "kind": "Config",
        "current-context": "test",
        "clusters": [{"name": "test", "cluster": cluster}],
        "users": [{"name": "test", "user": client}],
        "contexts": [{"name": "test", "context": {"cluster": "test", "user": "test"}}],
    }


def _encoded(path: Path) -> str:
    return base64.b64encode(path.read_bytes()).decode()


def _wait_ready(plane: ControlPlane) -> None:
    deadline = time.monotonic() + READY_DEADLINE_S
    while True:
        try:
            urllib.request.urlopen(f"{plane.url}/readyz", timeout=2, context=plane.context()).close()
        except (urllib.error.URLError, OSError) as error:
            if time.monotonic() > deadline:
                log = (plane.folder / "kube-apiserver.log").read_text()[-2000:]
                raise RuntimeError(
                    f"the API server was not ready within {READY_DEADLINE_S} s: {error}\n{log}"
                ) from error
            time.sleep(0.05)
        else:
            return


def _free_ports(count: int) -> list[int]:
    with ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for probe in sockets:
            probe.bind(("127.0.0.1", 0))
        return [probe.getsockname()[1] for probe in sockets]


class _Starter:
    """Starts programs that die with this process and are stopped, last first, when the stack unwinds."""

    def __init__(self, stack: ExitStack, programs: Path, folder: Path) -> None:
        self._stack, self._programs, self._folder = stack, programs, folder

    def __call__(self, program: str, *flags: str) -> None:
        log = self._stack.enter_context((self._folder / f"{program}.log").open("wb"))
        command = [self._programs / program, *flags]
        process = subprocess.Popen(command, stdout=log, stderr=log, preexec_fn=die_with_parent)  # noqa: PLW1509  # one prctl call
        self._stack.callback(_stop, process)


def die_with_parent() -> None:
    """Have the kernel end this process when its parent ends: to be called between fork and exec."""
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


def _stop(process: subprocess.Popen[bytes]) -> None:
    process.kill()  # nothing of the state is kept, so nothing needs a graceful end
    process.wait()
