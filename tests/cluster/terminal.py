"""What a person does at a terminal beside a real cluster: kubectl with the plugin, and requests to Services."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
from helm_chart import CHART, NAMESPACE, Helm
from node import Node

IMAGES = {"operator": "localhost/moe-operator:e2e", "runtime": "localhost/moe-runtime:e2e"}
"""Tags of their own, so that a test run does not take those of a person's builds."""
NEXT = "localhost/moe-runtime:e2e-next"
"""The same image under another tag, to roll out."""
RELEASE = "moe-operator"
Figures = dict[str, str]
"""What was measured, and how much it was."""
REQUEST_DEADLINE_S = 300
READY_DEADLINE_S = 600
EVERY_KIND = (
    "moedeployments,pods,services,endpointslices,configmaps,secrets,serviceaccounts,networkpolicies,"
    "poddisruptionbudgets,persistentvolumeclaims,leases,deployments,replicasets,roles,rolebindings"
)


@dataclass(frozen=True)
class Terminal:
    """A terminal whose kubectl speaks to the cluster as its administrator."""

    node: Node

    def run(self, *arguments: str, stdin: str = "", deadline_s: float = 60) -> subprocess.CompletedProcess[str]:
        """`kubectl ARGUMENTS…`; the caller looks at the exit status."""
        plane = self.node.plane
        found = f"{plane.programs}:{Path(sys.executable).parent}:{os.environ['PATH']}"
        environment = {**os.environ, "PATH": found, "KUBECONFIG": str(plane.kubeconfig)}
        command = [str(plane.programs / "kubectl"), *arguments]
        return subprocess.run(
            command, input=stdin, env=environment, capture_output=True, text=True, check=False, timeout=deadline_s
        )

    def kubectl(self, *arguments: str, stdin: str = "", deadline_s: float = 60) -> str:
        """What `kubectl ARGUMENTS…` prints; it must succeed."""
        done = self.run(*arguments, stdin=stdin, deadline_s=deadline_s)
        assert done.returncode == 0, f"kubectl {' '.join(arguments)}: {done.stdout}{done.stderr}"
        return done.stdout

    def get(self, *arguments: str) -> Any:
        """`kubectl get ARGUMENTS… -o json`."""
        return json.loads(self.kubectl("get", *arguments, "-o", "json"))

    def there(self, namespace: str) -> set[str]:
        """Kind and name of everything in a namespace but what each has."""
        every = set(self.kubectl("get", EVERY_KIND, f"--namespace={namespace}", "-o", "name").split())
        return every - {"serviceaccount/default", "configmap/kube-root-ca.crt"}


@dataclass(frozen=True)
class Deployed:
    """A MoEDeployment that a person looks after."""

    terminal: Terminal
    manifest: dict[str, Any]
    namespace: str = "default"

    @property
    def name(self) -> str:
        return str(self.manifest["metadata"]["name"])

    def apply(self) -> None:
        self.terminal.kubectl("apply", f"--namespace={self.namespace}", "-f", "-", stdin=json.dumps(self.manifest))

    def patch(self, spec: dict[str, Any]) -> None:
        patch = json.dumps({"spec": spec})
        self.terminal.kubectl("patch", f"moed/{self.name}", self._here, "--type=merge", f"--patch={patch}")

    def wait(self, condition: str = "Ready", deadline_s: int = READY_DEADLINE_S) -> None:
        """`kubectl wait`. Raises AssertionError with what the plugin says is wrong."""
        waiting = ("wait", f"moed/{self.name}", self._here, f"--for=condition={condition}", f"--timeout={deadline_s}s")
        done = self.terminal.run(*waiting, deadline_s=deadline_s + 30)
        assert done.returncode == 0, f"{done.stderr}\n{self.moe('why')}\n{self.pods_table()}"

    def moe(self, *command: str) -> str:
        """`kubectl moe COMMAND… NAME`."""
        return self.terminal.kubectl("moe", command[0], self.name, *command[1:], self._here)

    def status(self) -> dict[str, Any]:
        return self.terminal.get(f"moed/{self.name}", self._here).get("status") or {}

    def pods(self) -> dict[str, dict[str, Any]]:
        """Pods by name."""
        listed = self.terminal.get("pods", self._here, f"--selector=moe-operator.dev/deployment={self.name}")
        return {pod["metadata"]["name"]: pod for pod in listed["items"]}

    def pods_table(self) -> str:
        return self.terminal.kubectl("get", "pods", self._here, "-o", "wide")

    def url(self) -> str:
        """The Service's address, which this machine has a route to."""
        spec = self.terminal.get(f"service/{self.name}", self._here)["spec"]
        return f"http://{spec['clusterIP']}:{spec['ports'][0]['port']}"

    def ask(self, prompt: str | Sequence[int], tokens: int) -> dict[str, Any]:
        """The only choice of a greedy completion."""
        answer = httpx.post(f"{self.url()}/v1/completions", json=question(prompt, tokens), timeout=REQUEST_DEADLINE_S)
        assert answer.status_code == 200, answer.text
        choice: dict[str, Any] = answer.json()["choices"][0]
        return choice

    def stream(self, prompt: str | Sequence[int], tokens: int) -> Iterator[list[int]]:
        """Token ids of a streamed greedy completion, as they come."""
        asked = question(prompt, tokens) | {"stream": True}
        url = f"{self.url()}/v1/completions"
        with httpx.stream("POST", url, json=asked, timeout=REQUEST_DEADLINE_S) as response:
            for line in response.iter_lines():
                if line.startswith("data: {"):
                    yield json.loads(line.removeprefix("data: "))["choices"][0]["token_ids"]

    def first_token_s(self, prompt: str) -> float:
        """Seconds until a stream's first token."""
        began = time.monotonic()
        next(self.stream(prompt, 1))
        return time.monotonic() - began

    @property
    def _here(self) -> str:
        return f"--namespace={self.namespace}"


def install(helm: Helm, terminal: Terminal, *more: str) -> None:
    """`helm install` of the chart, with more values where given, until the operator is ready."""
    done = helm(
        *("install", RELEASE, CHART, "--namespace", NAMESPACE, "--create-namespace", "--wait", "--timeout=240s"),
        *("--set", "image.registry=localhost", "--set", "image.tag=e2e", "--set", "image.pullPolicy=Never"),
        *("--set", f"runtime.images.moe={IMAGES['runtime']}", f"--kubeconfig={terminal.node.plane.kubeconfig}", *more),
    )
    assert done.returncode == 0, done.stderr + terminal.kubectl("describe", "pods", f"--namespace={NAMESPACE}")


def uninstall(helm: Helm, terminal: Terminal) -> None:
    """`helm uninstall`, until its pods are gone."""
    kubeconfig = f"--kubeconfig={terminal.node.plane.kubeconfig}"
    done = helm("uninstall", RELEASE, "--namespace", NAMESPACE, "--wait", kubeconfig)
    assert done.returncode == 0, done.stderr


def question(prompt: str | Sequence[int], tokens: int) -> dict[str, Any]:
    """Body of a greedy completion."""
    asked = prompt if isinstance(prompt, str) else list(prompt)
    return {"prompt": asked, "max_tokens": tokens, "temperature": 0, "return_token_ids": True}
