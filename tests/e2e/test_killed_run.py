"""A test run that is killed leaves nothing of its cluster behind."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import real_cluster
from operator_process import eventually

STORY = """
import json, sys, time
sys.path[:0] = sys.argv[1:]
from real_cluster import real_cluster
from node_files import SANDBOX
with real_cluster([], gpus=0) as node:
    pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "held", "namespace": "default"}}
    pod["spec"] = {"containers": [{"name": "held", "image": SANDBOX, "imagePullPolicy": "Never"}]}
    pod["spec"] |= {"automountServiceAccountToken": False}
    node.plane.kubectl("wait", "serviceaccount/default", "--for=create", "--timeout=30s")
    node.plane.apply(pod)
    node.plane.kubectl("wait", "pod/held", "--for=condition=Ready", "--timeout=60s")
    print(node.folder, flush=True)
    time.sleep(600)
"""


def left_of(folder: Path) -> list[str]:
    """What there still is of a node: its folder, processes, cgroups and link."""
    lines = subprocess.run(["ps", "-e", "-o", "args="], capture_output=True, text=True, check=True).stdout.splitlines()
    links = subprocess.run(["ip", "-o", "link"], capture_output=True, text=True, check=True).stdout.splitlines()
    found = [line for line in lines if folder.name in line or "containerd-shim" in line]
    found += [link for link in links if "moe-e2e" in link]
    found += map(str, Path("/sys/fs/cgroup").glob(f"*/{folder.name}"))
    return found + [str(folder)] * folder.exists()


@pytest.mark.skipif(bool(real_cluster.missing()), reason=f"no real pods here: {real_cluster.missing()}")
def test_a_run_that_is_killed_leaves_nothing() -> None:
    cluster = Path(real_cluster.__file__).parent
    command = [sys.executable, "-c", STORY, str(cluster), str(cluster.parents[1] / "operator")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as run:
        assert run.stdout is not None
        folder = Path(run.stdout.readline().strip())
        assert str(folder) in left_of(folder)
        assert any("containerd-shim" in line for line in left_of(folder))
        os.kill(run.pid, signal.SIGKILL)
    eventually(lambda: not left_of(folder), f"nothing is left of {folder}", 60)
