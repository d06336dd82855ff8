"""A cluster with fake GPU nodes, frontends that answer, and deployments for the operator: what its tests share."""

import http.server
import itertools
import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from control_plane import ControlPlane, gpu_node
from http_servers import http_server
from operator_process import eventually

CHILDREN = "pods,configmaps,services,serviceaccounts,poddisruptionbudgets,networkpolicies"
OURS = "app.kubernetes.io/managed-by=moe-operator"
_numbers = itertools.count()


class Frontends:
    """One HTTP server that answers for every frontend: fake pods have addresses of this machine."""

    def __init__(self) -> None:
        self.port = 0
        self.status = 200
        self.metrics = ""
        self.health = ""
        """What /health says; empty for a word that is no JSON."""

    @contextmanager
    def serving(self) -> Iterator["Frontends"]:
        frontends = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                self.send_response(frontends.status)
                self.end_headers()
                health = frontends.health or "loading weights\n"
                self.wfile.write((frontends.metrics if self.path == "/metrics" else health).encode())

            def log_message(self, *_: Any) -> None:
                pass

        with http_server(Handler, "0.0.0.0") as server:
            self.port = server.server_port
            yield self


@dataclass
class Ground:
    """A namespace of its own on nodes of its own."""

    plane: ControlPlane
    port: int
    nodes: int
    namespace: str = field(default_factory=lambda: f"test-{next(_numbers)}")

    def __post_init__(self) -> None:
        self.plane.apply({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": self.namespace}})
        self.plane.add_nodes([gpu_node(name, {"pool": self.namespace}) for name in self.node_names])

    @property
    def node_names(self) -> list[str]:
        return [f"{self.namespace}-n{number:03}" for number in range(self.nodes)]

    def ready_nodes(self) -> int:
        """Nodes that pods can go to: the node controller takes its taint off a little after they are ready."""
        answer = self.plane.kubectl("get", "nodes", "-o", "json", f"--selector=pool={self.namespace}")
        nodes: list[dict[str, Any]] = json.loads(answer.stdout)["items"]
        return sum(not node["spec"].get("taints") for node in nodes)

    def deployment(self, name: str = "m", *, ep: int = 8, replicas: int = 1, **spec: Any) -> dict[str, Any]:
        """A deployment of ep/4 pods a replica."""
        return {
            "apiVersion": "moe-operator.dev/v1alpha1",
            "kind": "MoEDeployment",
            "metadata": {"name": name, "namespace": self.namespace},
            "spec": {
                "model": {"architecture": "seed-s1", "source": "random", "dtype": "bfloat16"},
                "hardware": {"accelerator": "seed-64gb", "gpusPerNode": 8},
                "parallelism": {"ep": ep, "tp": 2},
                "replicas": replicas,
                "scheduling": {"nodeSelector": {"pool": self.namespace}},
                "serving": {"port": self.port},
                **spec,
            },
        }

    def apply(self, deployment: dict[str, Any]) -> None:
        self.plane.apply(deployment)

    def delete(self, name: str = "m") -> None:
        done = self.plane.kubectl("delete", "moed", name, f"--namespace={self.namespace}", "--wait=false")
        assert done.returncode == 0, done.stderr

    def get(self, kinds: str, *arguments: str) -> list[dict[str, Any]]:
        done = self.plane.kubectl("get", kinds, f"--namespace={self.namespace}", "-o", "json", *arguments)
        assert done.returncode == 0, done.stderr
        items: list[dict[str, Any]] = json.loads(done.stdout)["items"]
        return items

    def children(self) -> list[dict[str, Any]]:
        return self.get(CHILDREN, "--selector", OURS)

    def pods(self) -> dict[str, dict[str, Any]]:
        return {pod["metadata"]["name"]: pod for pod in self.get("pods")}

    def status(self, name: str = "m") -> dict[str, Any]:
        found = [item for item in self.get("moed") if item["metadata"]["name"] == name]
        return found[0].get("status") or {} if found else {}

    def condition(self, kind: str, name: str = "m") -> tuple[str, str, str]:
        """Status, reason and message; empty while there is none."""
        for found in self.status(name).get("conditions") or ():
            if found["type"] == kind:
                return found["status"], found["reason"], found["message"]
        return "", "", ""

    def wait_ready(self, replicas: int, name: str = "m", deadline_s: float = 90.0) -> None:
        """Wait until so many replicas serve, and the operator says that it has nothing left to do."""

        def settled() -> bool:
            status = self.status(name)
            done = {c["type"]: c["status"] for c in status.get("conditions") or ()}
            ready = f"{replicas}/{replicas}"
            return status.get("ready") == ready and done["Ready"] == "True" and done["Reconciling"] == "False"

        eventually(settled, f"{replicas} replicas ready: {self.status(name)}", deadline_s)

    def wait_gone(self, deadline_s: float = 90.0) -> None:
        eventually(lambda: not self.children(), "all children gone", deadline_s)
