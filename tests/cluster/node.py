"""A real node beside the control plane: kubelet, containerd, pod network, Services and DNS, from Debian's packages.

Everything of it, its pods included, runs in PID, mount and network namespaces whose first process ends with the test
process: the kernel then kills all processes in them and takes away all mounts, interfaces, routes and rules. What is left
are cgroups and a temporary folder, which `reaper.py` removes, also where the test process was killed. Images stay in
`containerd_root()` between runs.

    host 198.18.0.1 ── veth ── 198.18.0.2 node ── a veth a pod ── 198.18.64.0/18
                                          └── Services 198.19.0.0/16 (kube-proxy)

The host has routes to pods and Services, so that the API server, which runs there, reaches webhooks.
"""

import fcntl
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from binaries import cached, node_binaries
from control_plane import ControlPlane, die_with_parent
from node_files import (
    CNI,
    HOST,
    NAME,
    NODE,
    PODS,
    SERVICES,
    write_containerd_files,
    write_kubelet_files,
)
from operator_process import eventually

API_SERVER = (
    "--bind-address=0.0.0.0",
    f"--advertise-address={HOST}",
    "--endpoint-reconciler-type=lease",
    f"--service-cluster-ip-range={SERVICES}",
)
"""Flags of an API server that pods reach; its certificate is for HOST and KUBERNETES_SERVICE."""
PROGRAMS = {
    "containerd": "containerd",
    "ctr": "containerd",
    "runc": "runc",
    "conntrack": "conntrack",
    "socat": "socat",
    "ethtool": "ethtool",
    "iptables": "iptables",
    "ip": "iproute2",
    "nsenter": "util-linux",
    "unshare": "util-linux",
    "kmod": "kmod",
}
"""What a node needs of Debian: program and package."""
READY_DEADLINE_S = 90
ALONE_DEADLINE_S = 1800
_SYSCTLS = ("vm/overcommit_memory", "vm/panic_on_oom", "kernel/panic", "kernel/panic_on_oops", "kernel/keys/root_maxkeys", "kernel/keys/root_maxbytes")  # fmt: skip
"""What a kubelet sets for the whole machine."""


def missing() -> str:
    """Why no node can be started here, and how to mend it; empty where it can."""
    if os.geteuid() != 0:
        return "a node needs root"
    packages = {package for program, package in PROGRAMS.items() if shutil.which(program) is None}
    if not (CNI / "ptp").exists():
        packages.add("containernetworking-plugins")
    if packages:
        return f"apt-get install --no-install-recommends {' '.join(sorted(packages))}"
    return _forbidden()


def _forbidden() -> str:
    """What this machine does not let root do; empty where it lets it."""
    new = ["unshare", "--pid", "--mount", "--net", "--fork", "--mount-proc", "mount", "-t", "tmpfs", "tmpfs", "/run"]
    if subprocess.run(new, capture_output=True, check=False).returncode:
        return "root may not make namespaces and mounts here"
    return "" if os.access("/sys/fs/cgroup", os.W_OK) else "root may not make cgroups here"


def containerd_root() -> Path:
    """Where images are kept between runs."""
    return cached("containerd")


@dataclass(frozen=True, slots=True)
class Node:
    """A running node."""

    plane: ControlPlane
    folder: Path
    first: int
    """The process that holds the node's namespaces."""

    def command(self, *command: str) -> list[str]:
        """A command in the node's namespaces."""
        return ["nsenter", f"--target={self.first}", "--pid", "--mount", "--net", *command]

    def run(self, *command: str, stdin: Any = None, deadline_s: float = 60) -> str:
        """Standard output of a command on the node. Raises RuntimeError with what it said."""
        done = subprocess.run(
            self.command(*command), stdin=stdin, capture_output=True, text=True, check=False, timeout=deadline_s
        )
        if done.returncode:
            raise RuntimeError(f"{' '.join(command)}: {done.stderr[-2000:]}")
        return done.stdout

    def ctr(self, *arguments: str, stdin: Any = None, deadline_s: float = 60) -> str:
        """Containerd's own command, in the kubelet's namespace."""
        return self.run("ctr", "--namespace=k8s.io", *arguments, stdin=stdin, deadline_s=deadline_s)

    def processes(self) -> list[str]:
        """Command lines of all processes of the node."""
        lines = self.run("ps", "-e", "-o", "args=").splitlines()
        return [line for line in lines if not line.startswith("ps -e")]


@contextmanager
def containerd(plane: ControlPlane) -> Iterator[Node]:
    """A node with a network and containerd: images can be brought in. Only one at a time on a machine."""
    with ExitStack() as stack:
        stack.enter_context(_alone())
        folder = Path(tempfile.mkdtemp(prefix="moe-node-"))
        cgroups = _cgroups(folder.name)
        stack.enter_context(_reaped(folder, cgroups))
        node = Node(plane, folder, stack.enter_context(_namespaces()))
        _private_mounts(node)
        _connect(node)
        write_containerd_files(folder, containerd_root())
        _start(stack, node, "containerd", f"--config={folder}/containerd.toml")
        eventually(lambda: _says(node, "ctr", "version"), "containerd answers", READY_DEADLINE_S)
        _forget_containers(node)
        yield node


@contextmanager
def joined(node: Node, gpus: int) -> Iterator[Node]:
    """The node in the cluster, ready, with so many GPUs to give away."""
    programs, plane, folder = node_binaries(), node.plane, node.folder
    with ExitStack() as stack:
        user = plane.authority.issue(f"system:node:{NAME}", organisation="system:nodes")
        write_kubelet_files(folder, plane, user)
        _start(
            stack,
            node,
            str(programs / "kubelet"),
            f"--config={folder}/kubelet.json",
            f"--kubeconfig={folder}/kubelet.kubeconfig",
            f"--hostname-override={NAME}",
            f"--node-ip={NODE}",
            f"--root-dir={folder}/kubelet",
            f"--cert-dir={folder}/kubelet-pki",
            "--v=1",
        )
        _start(stack, node, str(programs / "kube-proxy"), f"--config={folder}/proxy.json")
        _start(stack, node, str(programs / "coredns"), f"-conf={folder}/Corefile")
        eventually(lambda: _ready(plane), f"the node is ready; see {folder}", READY_DEADLINE_S)
        _offer_gpus(plane, gpus)
        yield node


def _ready(plane: ControlPlane) -> bool:
    path = '{.status.conditions[?(@.type=="Ready")].status}{.spec.taints}'
    return plane.kubectl("get", "node", NAME, "-o", f"jsonpath={path}").stdout == "True"


def _offer_gpus(plane: ControlPlane, gpus: int) -> None:
    amounts = {"nvidia.com/gpu": str(gpus)}
    patch = json.dumps({"status": {"capacity": amounts, "allocatable": amounts}})
    done = plane.kubectl("patch", "node", NAME, "--subresource=status", "--type=merge", f"--patch={patch}")
    if done.returncode:
        raise RuntimeError(done.stderr)


@contextmanager
def _alone() -> Iterator[None]:
    """Wait until no other test run has the node's addresses and images."""
    containerd_root().mkdir(parents=True, exist_ok=True)
    with containerd_root().with_suffix(".lock").open("w") as lock:
        eventually(lambda: _locks(lock), "no other test run has a cluster", ALONE_DEADLINE_S, every_s=1)
        yield


def _locks(lock: IO[str]) -> bool:
    with suppress(BlockingIOError):
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return True
    return False


def _cgroups(name: str) -> list[Path]:
    """A cgroup of the node's own in each hierarchy, below which the kubelet makes those of pods."""
    top = Path("/sys/fs/cgroup")
    unified = (top / "cgroup.controllers").exists()
    if unified:  # a kubelet needs in its cgroup what the machine has
        for controller in (top / "cgroup.controllers").read_text().split():
            (top / "cgroup.subtree_control").write_text(f"+{controller}")
    tops = [top] if unified else [d for d in top.iterdir() if (d / "cgroup.procs").exists()]
    made = [hierarchy / name for hierarchy in tops if not hierarchy.is_symlink()]
    for cgroup in made:
        cgroup.mkdir()
        for setting in ("cpuset.cpus", "cpuset.mems"):  # version 1 admits no process where these are empty
            if (cgroup / setting).exists() and not (cgroup / setting).read_text().strip():
                (cgroup / setting).write_text((cgroup.parent / setting).read_text())
    return made


@contextmanager
def _reaped(folder: Path, cgroups: Sequence[Path]) -> Iterator[None]:
    """Have all put back when the block, or this process, ends."""
    paths = [path for name in _SYSCTLS if (path := Path("/proc/sys", name)).exists()]
    plan = {
        "cgroups": [str(cgroup) for cgroup in cgroups],
        "sysctls": {str(path): path.read_text() for path in paths},
        "folders": [str(folder)],
    }
    (folder / "reaper.json").write_text(json.dumps(plan))
    command = [sys.executable, str(Path(__file__).with_name("reaper.py")), str(folder / "reaper.json")]
    reaper = subprocess.Popen(command, stdin=subprocess.PIPE, start_new_session=True)
    try:
        yield
    finally:
        reaper.communicate(timeout=READY_DEADLINE_S)


@contextmanager
def _namespaces() -> Iterator[int]:
    """Process id of the first process of new namespaces, which takes in orphans."""
    ready = "echo ready; while :; do sleep 3600; done"
    command = ["unshare", "--pid", "--mount", "--net", "--fork", "--kill-child", "--mount-proc", "bash", "-c", ready]
    holder = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, preexec_fn=die_with_parent)  # noqa: PLW1509  # one prctl call
    try:
        assert holder.stdout is not None
        if holder.stdout.readline() != "ready\n":
            raise RuntimeError("namespaces of PID, mount and network cannot be made here")
        (first,) = map(int, Path(f"/proc/{holder.pid}/task/{holder.pid}/children").read_text().split())
        yield first
    finally:
        holder.kill()
        holder.communicate()


def _private_mounts(node: Node) -> None:
    """Give the node what it writes outside of its folder: gone with its namespaces."""
    node.run("mount", "--make-rshared", "/")
    for path in ("/run", "/var/lib", "/var/log"):
        node.run("mount", "-t", "tmpfs", "tmpfs", path)


def _connect(node: Node) -> None:
    """The link between host and node, and the host's routes through it; both end with the node's namespace."""
    host = ["ip", "link", "add", "moe-e2e", "type", "veth", "peer", "name", "uplink", "netns", str(node.first)]
    for command in (
        host,
        ["ip", "address", "add", f"{HOST}/30", "dev", "moe-e2e"],
        ["ip", "link", "set", "moe-e2e", "up"],
        node.command("ip", "link", "set", "lo", "up"),
        node.command("ip", "address", "add", f"{NODE}/30", "dev", "uplink"),
        node.command("ip", "link", "set", "uplink", "up"),
        node.command("ip", "route", "add", "default", "via", HOST),
        node.command("sysctl", "--quiet", "--write", "net.ipv4.ip_forward=1"),
        ["ip", "route", "add", PODS, "via", NODE],
        ["ip", "route", "add", SERVICES, "via", NODE],
    ):
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=30)
        if done.returncode:
            raise RuntimeError(f"{' '.join(command)}: {done.stderr}")


def _start(stack: ExitStack, node: Node, program: str, *flags: str) -> None:
    """Start a program of the node; it ends with the block, or with the node's namespaces."""
    log = stack.enter_context((node.folder / f"{Path(program).name}.log").open("wb"))
    process = subprocess.Popen(node.command(program, *flags), stdout=log, stderr=log, preexec_fn=die_with_parent)  # noqa: PLW1509  # one prctl call
    stack.callback(process.wait)
    stack.callback(_kill_children, process.pid)


def _kill_children(pid: int) -> None:
    """Kill what a nsenter runs, after which it ends."""
    for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split():
        os.kill(int(child), 9)


def _says(node: Node, *command: str) -> bool:
    return subprocess.run(node.command(*command), capture_output=True, check=False, timeout=30).returncode == 0


def _forget_containers(node: Node) -> None:
    """Remove what containerd remembers of the containers of a run that was killed."""
    for container in node.ctr("containers", "list", "--quiet").split():
        node.ctr("containers", "remove", container)
