"""S1's 128 ranks in 16 real pods, from `helm install` to `helm uninstall`: a story told in order."""

import json
import re
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from helm_chart import NAMESPACE, Helm
from hub_and_s3 import REPOSITORY, Place, serving
from narrowed import MODEL, narrowed
from node import Node
from node_files import HOST
from operator_process import eventually
from terminal import IMAGES, NEXT, RELEASE, Deployed, Figures, Terminal, install, question, uninstall
from transformers import AutoModelForCausalLM, PreTrainedModel

SENTENCE = "It is a truth universally acknowledged, that a single man"
GOES_ON = " in possession of a good fortune"
PROMPTS = [[1, 2, 3, 4, 5], [200, 100, 50], list(range(7, 60))]
TOKENS = 6
STREAMED = 40
AT_ONCE = 16
POD_BYTES, REST_BYTES = 0.55e9, 2.5e9
"""What a pod of 8 ranks takes, and the cluster with the operator: measured, and some more."""


@pytest.fixture(scope="module")
def reference() -> PreTrainedModel:
    torch.set_num_threads(1)
    return AutoModelForCausalLM.from_pretrained(MODEL, dtype=torch.float32)


def greedy(reference: PreTrainedModel, prompt: Sequence[int], tokens: int) -> list[int]:
    """What transformers generates."""
    ids = torch.tensor([list(prompt)])
    made = reference.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=tokens, do_sample=False)
    found: list[int] = made[0, len(prompt) :].tolist()
    return found


@pytest.fixture(scope="module")
def ep(figures: Figures) -> int:
    """S1's 64, or what this machine's memory has room for."""
    available = re.search(r"MemAvailable: +(\d+) kB", Path("/proc/meminfo").read_text())
    assert available
    room = int(available[1]) * 1024 - REST_BYTES
    found = next((ep for ep in (64, 32, 16) if ep // 4 * POD_BYTES < room), 8)
    if found < 64:
        figures["S1: memory has no room for 128 ranks, so ep is"] = str(found)
    return found


@pytest.fixture(scope="module")
def s1(terminal: Terminal, checkpoint: Path, ep: int) -> Deployed:
    return Deployed(terminal, narrowed(checkpoint, ep=ep))


@pytest.fixture(scope="module")
def hub(cluster: Node) -> Iterator[Place]:
    """A Hugging Face Hub with the model, where the cluster's pods reach it."""
    assert cluster.processes()
    files = {file.name: file.read_bytes() for file in MODEL.iterdir()}
    with serving(Place(files, large=frozenset({"model.safetensors"})), (HOST, HOST)) as place:
        yield place


@pytest.fixture(scope="module")
def small(terminal: Terminal, hub: Place) -> Deployed:
    """The same model on 16 ranks in 2 pods, which fetch it."""
    manifest = narrowed(MODEL, ep=8)
    manifest["metadata"]["name"] = "small"
    manifest["spec"]["model"]["source"] = f"hf://{REPOSITORY}"
    manifest["spec"]["runtime"] = {"env": [{"name": "HF_ENDPOINT", "value": hub.url}]}
    return Deployed(terminal, manifest)


def test_helm_installs_an_operator_that_leads(terminal: Terminal, helm: Helm, figures: Figures) -> None:
    began = time.monotonic()
    install(helm, terminal)
    figures["helm install until both operator pods are ready"] = f"{time.monotonic() - began:.1f} s"
    leader = ("get", "lease", RELEASE, f"--namespace={NAMESPACE}", "-o", "jsonpath={.spec.holderIdentity}")
    eventually(lambda: terminal.run(*leader).stdout, "one leads")
    figures["operator: resident memory of its pods at the start"] = ", ".join(resident(terminal))


def resident(terminal: Terminal) -> Iterator[str]:
    """Resident memory of the operator's processes."""
    for pod in terminal.get("pods", f"--namespace={NAMESPACE}")["items"]:
        status = terminal.kubectl(
            "exec", f"--namespace={NAMESPACE}", pod["metadata"]["name"], "--", "cat", "/proc/1/status"
        )
        kilobytes = re.search(r"VmRSS:\s+(\d+) kB", status)
        assert kilobytes, status
        yield f"{int(kilobytes[1]) * 1024 / 1e6:.0f} MB"


def test_impossible_degrees_are_refused_at_apply(terminal: Terminal, s1: Deployed) -> None:
    manifest = json.loads(json.dumps(s1.manifest))
    manifest["spec"]["parallelism"]["ep"] = 48

    def refused() -> str:
        done = terminal.run("apply", "--dry-run=server", "-f", "-", stdin=json.dumps(manifest))
        return done.stderr if done.returncode else ""

    said = eventually(refused, "the webhook is asked")
    assert "64 experts" in said
    assert "ep 64" in said or "EP64" in said, said


def test_16_pods_of_8_ranks_become_ready_and_answer_with_the_tokens_of_transformers(
    s1: Deployed, ep: int, reference: PreTrainedModel, figures: Figures
) -> None:
    began = time.monotonic()
    s1.apply()
    s1.wait()
    figures["S1: kubectl apply until Ready"] = f"{time.monotonic() - began:.0f} s"
    first = s1.first_token_s(SENTENCE)
    figures["S1: kubectl apply until the first token"] = f"{time.monotonic() - began:.0f} s"
    figures["S1: first token of one request"] = f"{first:.2f} s"
    assert len(s1.pods()) == ep // 4
    assert s1.ask(SENTENCE, 8)["text"].startswith(GOES_ON)
    assert [s1.ask(prompt, TOKENS)["token_ids"] for prompt in PROMPTS] == [
        greedy(reference, prompt, TOKENS) for prompt in PROMPTS
    ]


def test_a_pod_of_another_namespace_asks_by_name(terminal: Terminal, s1: Deployed, reference: PreTrainedModel) -> None:
    asking = (
        "import json, sys, urllib.request as r;"
        f"a = r.Request('http://{s1.name}.default:8000/v1/completions', sys.argv[1].encode(), "
        "{'Content-Type': 'application/json'});"
        "print(json.load(r.urlopen(a, timeout=120))['choices'][0]['token_ids'])"
    )
    body = json.dumps(question(PROMPTS[0], TOKENS))
    terminal.kubectl("create", "namespace", "client")
    terminal.kubectl(
        *("run", "client", "--namespace=client", f"--image={IMAGES['operator']}", "--image-pull-policy=Never"),
        *("--restart=Never", "--command", "--", "python3", "-c", asking, body),
    )
    waiting = ("wait", "pod/client", "--namespace=client", "--for=jsonpath={.status.phase}=Succeeded", "--timeout=150s")
    done = terminal.run(*waiting, deadline_s=180)
    said = terminal.kubectl("logs", "client", "--namespace=client")
    assert done.returncode == 0, said
    assert json.loads(said) == greedy(reference, PROMPTS[0], TOKENS)
    terminal.kubectl("delete", "namespace", "client", deadline_s=120)


def test_the_status_has_predicted_and_measured_speed(s1: Deployed, ep: int, figures: Figures) -> None:
    def measured() -> Any:
        with ThreadPoolExecutor(AT_ONCE) as asking:
            list(asking.map(lambda _: s1.ask(PROMPTS[1], TOKENS), range(AT_ONCE)))
        found = s1.status().get("measured") or {}
        return found.get("tokensPerSecond") and found

    found = eventually(measured, "the operator has measured", deadline_s=300, every_s=2)
    predicted = s1.status()["plan"]
    assert predicted["tokensPerSecond"] > 0
    figures[f"S1: tokens/s measured with {AT_ONCE} requests at a time, and predicted for a core a rank"] = (
        f"{found['tokensPerSecond']} and {predicted['tokensPerSecond']}"
    )
    row = s1.terminal.kubectl("get", "moed", s1.name).splitlines()[1].split()
    assert row[1:5] == ["seed-s1", f"ep{ep}·tp2·pp1", str(2 * ep), "1/1"]


def test_the_plugin_tells_how_it_stands(s1: Deployed, ep: int) -> None:
    last = ep // 4 - 1
    assert f"ep{ep}·tp2·pp1, {2 * ep} GPUs a replica, 1/1 ready" in s1.moe("status")
    assert "is ready" in s1.moe("why")
    assert f"ep {ep} · tp 2 · pp 1 = {2 * ep} ranks" in s1.moe("plan")
    assert re.search(
        rf"^{last} +{8 * last}–{8 * last + 7} +0 +{ep - 4}–{ep - 1} +e2e", s1.moe("describe"), re.MULTILINE
    )
    assert f"joined the frontend as slot {last}" in s1.moe("logs", f"--rank={2 * ep - 1}")
    assert "busiest of 64 experts" in s1.moe("top")


RANKS = """
import os
processes = [int(name) for name in os.listdir("/proc") if name.isdigit()]
children = {pid: open(f"/proc/{pid}/task/{pid}/children").read().split() for pid in processes}
print(*sorted(pid for pid, of in children.items() if not of and pid != os.getpid()))
"""


def test_a_killed_rank_costs_a_stream_a_pause_and_no_token(
    s1: Deployed, reference: PreTrainedModel, figures: Figures
) -> None:
    victim = f"{s1.name}-0-1"
    before = s1.pods()
    tokens: list[int] = []
    times: list[float] = []
    for piece in s1.stream(PROMPTS[0], STREAMED):
        tokens += piece
        times.append(time.monotonic())
        if len(times) == 5:
            ranks = s1.terminal.kubectl("exec", victim, "--", "python", "-c", RANKS).split()
            s1.terminal.kubectl("exec", victim, "--", "sh", "-c", f"kill -9 {ranks[0]}")
    assert tokens == greedy(reference, PROMPTS[0], STREAMED)
    pause = max(after - before for before, after in pairwise(times))
    figures["S1: pause of a stream when a rank is killed (all 128 start anew)"] = f"{pause:.0f} s"
    s1.wait()
    assert same(s1.pods(), before)
    assert s1.status()["replicaStatuses"][0]["restarts"] == 0


def same(pods: dict[str, dict[str, Any]], before: dict[str, dict[str, Any]]) -> bool:
    def identities(some: dict[str, dict[str, Any]]) -> set[str]:
        return {pod["metadata"]["uid"] for pod in some.values()}

    return identities(pods) == identities(before)


def test_deleting_it_leaves_nothing(s1: Deployed, cluster: Node, figures: Figures) -> None:
    began = time.monotonic()
    s1.terminal.kubectl("delete", "moed", s1.name, "--wait=false")
    eventually(lambda: s1.terminal.there("default") == OF_THE_CLUSTER, "all objects are gone", 120, every_s=0.5)
    figures["S1: kubectl delete until nothing is left"] = f"{time.monotonic() - began:.1f} s"
    assert_nothing_runs(cluster, s1.terminal)


OF_THE_CLUSTER = {"service/kubernetes", "endpointslice.discovery.k8s.io/kubernetes"}


def assert_nothing_runs(cluster: Node, terminal: Terminal) -> None:
    """No process of a rank, and nothing on the node but what holds and runs the operator's pods."""
    eventually(lambda: not [line for line in cluster.processes() if "moe_runtime" in line], "no rank is left")
    others = len(terminal.get("pods", f"--namespace={NAMESPACE}")["items"])
    eventually(lambda: len(cluster.run("ip", "netns", "list").splitlines()) == others, "no network namespace is left")
    shims = [line for line in cluster.processes() if "containerd-shim" in line]
    assert len(shims) == others, shims
    assert len([line for line in cluster.processes() if line.startswith("/opt/moe/")]) == others


def test_weights_are_fetched_by_each_pod_and_scaled_to_zero_and_back(
    small: Deployed, hub: Place, reference: PreTrainedModel, cluster: Node, figures: Figures
) -> None:
    began = time.monotonic()
    small.apply()
    small.wait()
    figures["2 pods of 8 ranks: kubectl apply until Ready"] = f"{time.monotonic() - began:.0f} s"
    assert len(hub.sent("model.safetensors")) == len(small.pods()) == 2
    small.terminal.kubectl("scale", "moed", small.name, "--replicas=0")
    eventually(lambda: not small.pods(), "no pod is left", 120)
    assert_nothing_runs(cluster, small.terminal)
    small.terminal.kubectl("scale", "moed", small.name, "--replicas=1")
    small.wait("Available")
    assert small.ask(PROMPTS[1], TOKENS)["token_ids"] == greedy(reference, PROMPTS[1], TOKENS)


def test_a_killed_pod_comes_back(small: Deployed, reference: PreTrainedModel, figures: Figures) -> None:
    before = small.pods()
    began = time.monotonic()
    small.terminal.kubectl("delete", "pod", f"{small.name}-0-1", "--grace-period=0", "--force")
    eventually(lambda: not same(small.pods(), before), "the pod is another", 120)
    small.wait()
    figures["2 pods of 8 ranks: killed pod until Ready again"] = f"{time.monotonic() - began:.0f} s"
    assert small.ask(PROMPTS[1], TOKENS)["token_ids"] == greedy(reference, PROMPTS[1], TOKENS)


def test_another_image_is_rolled_out(small: Deployed, cluster: Node, reference: PreTrainedModel) -> None:
    cluster.ctr("images", "tag", "--force", IMAGES["runtime"], NEXT)
    small.patch({"runtime": {"image": NEXT}})
    eventually(lambda: images_of(small) == {NEXT}, "both pods have the other image", 120)
    small.wait()
    assert small.ask(PROMPTS[1], TOKENS)["token_ids"] == greedy(reference, PROMPTS[1], TOKENS)


def images_of(deployed: Deployed) -> set[str]:
    return {pod["spec"]["containers"][0]["image"] for pod in deployed.pods().values()}


def test_uninstalling_leaves_nothing_but_the_custom_resource(
    terminal: Terminal, helm: Helm, cluster: Node, figures: Figures
) -> None:
    figures["operator: resident memory of its pods after all this"] = ", ".join(resident(terminal))
    terminal.kubectl("delete", "moed", "--all", "--wait=false")
    eventually(lambda: terminal.there("default") == OF_THE_CLUSTER, "all objects are gone", 120, every_s=0.5)
    uninstall(helm, terminal)
    eventually(lambda: terminal.there(NAMESPACE) == set(), "the namespace is empty", 60)
    kinds = "clusterroles,clusterrolebindings,validatingwebhookconfigurations,customresourcedefinitions"
    left = [name for name in terminal.kubectl("get", kinds, "-o", "name").split() if "moe" in name]
    assert left == ["customresourcedefinition.apiextensions.k8s.io/moedeployments.moe-operator.dev"]
    assert_nothing_runs(cluster, terminal)
