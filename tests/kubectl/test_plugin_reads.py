"""What the plugin reads of pods through the API server: logs and figures, which need a kubelet or a pod that answers."""

import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

from answering import Answers, api_server, kubeconfig
from simulated import Cluster, manifest

Plugin = Callable[..., subprocess.CompletedProcess[str]]
PODS = "/api/v1/namespaces/team/pods"
DEPLOYMENT = "/apis/moe-operator.dev/v1alpha1/namespaces/team/moedeployments/m"


def served(cluster: Cluster, more: Answers) -> Answers:
    """A settled deployment of two slots as an API server holds it."""
    cluster.settle()

    def listed(kind: str) -> tuple[int, Any]:
        items = [obj for (found, _), obj in sorted(cluster.objects.items()) if found == kind]
        return 200, {"items": items, "metadata": {}}

    lists = {PODS: listed("Pod"), "/api/v1/namespaces/team/configmaps": listed("ConfigMap")}
    return {DEPLOYMENT: (200, cluster.deployment), **lists, **more}


def ask(plugin: Plugin, folder: Path, answers: Answers, *arguments: str) -> subprocess.CompletedProcess[str]:
    with api_server(answers) as server:
        return plugin(*arguments, "-n", "team", kubeconfig=kubeconfig(folder, server))


def test_logs_prints_the_lines_of_the_pod_that_holds_the_rank(plugin: Plugin, tmp_path: Path) -> None:
    answers = served(Cluster(manifest()), {f"{PODS}/m-0-1/log": (200, "first\nµ-second")})
    done = ask(plugin, tmp_path, answers, "logs", "m", "--rank", "3")
    assert (done.returncode, done.stdout) == (0, "first\nµ-second\n")
    assert "pod m-0-1, container runtime" in done.stderr


def test_logs_of_a_stage_prints_every_pod_that_holds_it(plugin: Plugin, tmp_path: Path) -> None:
    logs = {f"{PODS}/m-0-{slot}/log": (200, f"slot {slot}\n") for slot in (0, 1)}
    done = ask(plugin, tmp_path, served(Cluster(manifest()), logs), "logs", "m", "--stage", "0")
    assert done.stdout == "slot 0\nslot 1\n"
    assert "ranks 0–1: pod m-0-0" in done.stderr
    follow = ask(plugin, tmp_path, served(Cluster(manifest()), logs), "logs", "m", "--stage", "0", "--follow")
    assert follow.returncode == 2
    assert "follow one of its ranks" in follow.stderr


TAGGED = """it serves
[pp0 ep2 tp0 rank2] loads
{"time": "t", "level": "info", "message": "loads", "slot": 1, "pp": 0, "ep": 3, "tp": 0, "rank": 3}
{"time": "t", "level": "info", "message": "joined", "slot": 1}
[pp0 ep3 tp0 rank3] first
[gateway slot1] listens
[pp1 ep0 tp0 rank4] of another stage
"""


def test_logs_of_a_rank_leave_out_what_its_neighbours_say(plugin: Plugin, tmp_path: Path) -> None:
    answers = served(Cluster(manifest()), {f"{PODS}/m-0-1/log": (200, TAGGED)})
    lines = TAGGED.splitlines()
    done = ask(plugin, tmp_path, answers, "logs", "m", "--rank", "3")
    assert done.stdout.splitlines() == [lines[0], *lines[2:6]]
    last = ask(plugin, tmp_path, answers, "logs", "m", "--rank", "2", "--tail", "3")
    assert last.stdout.splitlines() == [lines[1], lines[3], lines[5]], "the last of those that are shown"


def test_logs_of_a_stage_leave_out_the_ranks_of_others(plugin: Plugin, tmp_path: Path) -> None:
    logs = {f"{PODS}/m-0-{slot}/log": (200, TAGGED) for slot in (0, 1)}
    done = ask(plugin, tmp_path, served(Cluster(manifest()), logs), "logs", "m", "--stage", "0")
    assert done.stdout.splitlines() == TAGGED.splitlines()[:6] * 2


def test_why_asks_the_worst_pod_for_its_last_line(plugin: Plugin, tmp_path: Path) -> None:
    cluster = Cluster(manifest())
    cluster.settle()
    cluster.silent.add(0)
    answers = served(cluster, {f"{PODS}/m-0-1/log": (200, "waits for slot 0\n")})
    for pod, ready in zip(cluster.pods(), ("True", "False"), strict=True):
        pod["status"]["conditions"] = [{"type": "Ready", "status": ready}]
    done = ask(plugin, tmp_path, answers, "why", "m")
    assert "its last line: waits for slot 0" in done.stdout


def test_top_reads_the_frontends_figures(plugin: Plugin, tmp_path: Path) -> None:
    figures = {f"{PODS}/m-0-0:8000/proxy/metrics": (200, "moe_running_requests 5.0\n")}
    done = ask(plugin, tmp_path, served(Cluster(manifest()), figures), "top", "m", "--seconds", "0.1")
    assert done.stdout.splitlines()[-1].split()[:3] == ["0", "5", "–"]


def test_top_tells_which_frontend_does_not_answer(plugin: Plugin, tmp_path: Path) -> None:
    refused = {f"{PODS}/m-0-0:8000/proxy/metrics": (503, "no route to host")}
    done = ask(plugin, tmp_path, served(Cluster(manifest()), refused), "top", "m")
    assert done.stdout == "replica 0: no figures: the API server refuses (HTTP 503): no route to host\n"


def test_the_placement_goes_without_domains_where_nodes_may_not_be_seen(plugin: Plugin, tmp_path: Path) -> None:
    forbidden = {"/api/v1/nodes": (403, {"message": 'nodes is forbidden: User "eve" cannot list them'})}
    done = ask(plugin, tmp_path, served(Cluster(manifest()), forbidden), "describe", "m")
    assert done.returncode == 0
    assert done.stderr.startswith("without network domains: not allowed: nodes is forbidden")
    assert "node-1" in done.stdout
