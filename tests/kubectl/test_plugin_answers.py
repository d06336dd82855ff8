"""What `kubectl moe` prints, of objects as the operator leaves them."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
from simulated import Cluster, gpu_node, label, manifest

from moe_operator.cli.tables import WIDTH
from moe_operator.kubectl import holders, load
from moe_operator.kubectl.holders import NotHeldError
from moe_operator.kubectl.load import Readings, load_lines
from moe_operator.kubectl.placement import network_of, placement_lines
from moe_operator.kubectl.status import status_lines
from moe_operator.kubectl.why import is_ready, why_lines, worst_pod
from moe_operator.reconcile.model import Endpoint
from moe_plan.units import format_seconds


def config_maps(cluster: Cluster) -> list[dict[str, Any]]:
    return [obj for (kind, _), obj in cluster.objects.items() if kind == "ConfigMap"]


def why(cluster: Cluster, last_line: str = "") -> str:
    worst = None if is_ready(cluster.deployment) else worst_pod(cluster.pods())
    return "\n".join(why_lines(cluster.deployment, worst, last_line))


def status(cluster: Cluster) -> str:
    lines = status_lines(cluster.deployment)
    assert max(map(len, lines)) <= WIDTH
    return "\n".join(lines)


def settled(**spec: Any) -> Cluster:
    cluster = Cluster(manifest(**spec))
    cluster.settle()
    return cluster


def test_status_shows_predicted_beside_measured_and_each_replica() -> None:
    cluster = settled(replicas=2)
    for index in (0, 1):
        cluster.endpoints[index] = Endpoint(answered=True, ttft=0.2, tpot=0.02, tokens_per_second=1000.0)
    cluster.settle()
    shown = status(cluster)
    assert "m: qwen3-30b-a3b, ep4·tp1·pp1, 4 GPUs a replica, 2/2 ready" in shown
    assert "  Ready True, Serving: 2 replicas answer" in shown
    plan = cluster.deployment["status"]["plan"]
    rows = {line.split("  ")[0]: line.split() for line in shown.splitlines()}
    assert rows["tokens/s"] == ["tokens/s", f"{plan['tokensPerSecond']:,}", "2,000"]
    assert rows["TPOT"][-2:] == cluster.deployment["status"]["measured"]["tpot"].split()
    assert rows["1"][:5] == ["1", "Ready", "2/2", "1.00", "0"]


def test_status_tells_the_last_failure_and_counts_restarts() -> None:
    cluster = settled()
    cluster.fail("m-0-1", code=3, said="ValueError: tensor lm_head is missing")
    cluster.step()
    shown = status(cluster)
    assert "Restarting" in shown
    rows = {line.split("  ")[0]: line.split() for line in shown.splitlines()}
    assert rows["0"][:5] == ["0", "Restarting", "0/2", "1.00", "1"]
    assert "replica 0: slot 1 on node-1: container runtime exited with 3: ValueError: tensor" in shown


def test_status_of_a_spec_without_a_plan_shows_no_figures() -> None:
    cluster = Cluster(manifest(parallelism={"ep": 5}))
    cluster.settle()
    shown = status(cluster)
    assert shown.startswith("m: no plan, 0/1 ready\n  Ready False, ")
    assert "predicted" not in shown


def test_status_before_the_operator_has_looked_says_so() -> None:
    assert status_lines(manifest()) == ["m: no status yet; is the operator running?"]


def test_status_says_that_it_speaks_of_an_earlier_spec() -> None:
    cluster = settled()
    cluster.edit(replicas=2)
    assert "the operator has not looked at the latest spec yet" in status(cluster)


def test_why_begins_with_what_a_person_must_act_upon_and_tells_nothing_twice() -> None:
    cluster = Cluster(manifest(parallelism={"ep": 5}))
    cluster.settle()
    lines = why(cluster).splitlines()
    assert lines[0] == "m is not ready"
    assert lines[1] == "1. Stalled True, ExpertsNotDivisible"
    assert sum("cannot be dealt evenly" in line for line in lines) == 1
    assert "   read docs/troubleshooting.md#expertsnotdivisible" in lines


def test_why_names_the_pod_that_a_failure_began_with_and_its_last_line() -> None:
    cluster = settled(failure={"maxRestarts": 0})
    cluster.fail("m-0-1", code=3, said="out of slots")
    cluster.now = cluster.now.replace(hour=13)
    cluster.fail("m-0-0", code=1, said="lost a peer")
    cluster.step()
    shown = why(cluster, "bye")
    assert shown.count("out of slots") == 1
    assert shown.endswith("worst pod: m-0-1, container runtime\n   its last line: bye")
    assert why(cluster, "out of slots").endswith("worst pod: m-0-1, container runtime"), "nothing is said twice"
    assert "2. " not in shown, "that no replica answers follows from it"


def test_why_does_not_blame_the_pods_that_a_restart_takes_away() -> None:
    cluster = settled(failure={"maxRestarts": 3})
    cluster.fail("m-0-1", reason="OOMKilled", code=137)
    cluster.step()
    shown = why(cluster)
    assert "1. Ready False, OOMKilled" in shown
    assert "was deleted" not in shown


def test_why_tells_of_a_ready_deployment_what_it_serves_in_spite_of() -> None:
    cluster = settled()
    cluster.nodes["node-1"]["spec"]["unschedulable"] = True
    cluster.settle()
    assert why(cluster).splitlines()[:2] == ["m is ready, yet", "1. Ready True, NodeCordoned"]


def test_why_points_at_a_pod_whose_image_does_not_come() -> None:
    cluster = settled()
    cluster.silent.add(0)
    pod = cluster.objects["Pod", "m-0-1"]
    waiting = {"reason": "ErrImagePull", "message": "ErrImagePull: no such image"}
    pod["status"] = {"phase": "Pending", "containerStatuses": [{"name": "runtime", "state": {"waiting": waiting}}]}
    cluster.step()
    shown = why(cluster)
    assert "worst pod: m-0-1, container runtime" in shown
    assert "no such image" in shown
    assert "read docs/troubleshooting.md#imagenotfound" in shown


def test_why_points_at_the_first_pod_that_is_not_ready_where_none_has_failed() -> None:
    cluster = settled()
    cluster.silent.add(0)
    for name, ready in (("m-0-0", "True"), ("m-0-1", "False")):
        cluster.objects["Pod", name]["status"]["conditions"] = [{"type": "Ready", "status": ready}]
    cluster.step()
    assert "worst pod: m-0-1" in why(cluster)


def test_why_says_of_a_ready_deployment_that_it_is() -> None:
    assert why(settled()) == "m is ready"


def test_the_plan_of_a_replica_is_the_one_it_runs_and_the_deployments_is_todays() -> None:
    cluster = settled(rollout={"partition": 1})
    before = cluster.deployment["status"]["plan"]["hash"]
    cluster.edit(serving={"maxBatchTokens": 512})
    cluster.settle()
    old = holders.plan_of(cluster.deployment, config_maps(cluster), 0)
    new = holders.plan_of(cluster.deployment, config_maps(cluster))
    assert old.hash == before
    assert new.hash == cluster.deployment["status"]["plan"]["hash"] != before


def test_a_plan_of_another_version_is_refused_in_a_sentence() -> None:
    cluster = settled()
    for obj in config_maps(cluster):
        if "plan.json" in obj["data"]:
            obj["data"]["plan.json"] = json.dumps({"version": "moe-operator.dev/plan/v9"})
    with pytest.raises(NotHeldError, match="holds a plan of another version"):
        holders.plan_of(cluster.deployment, config_maps(cluster))


@pytest.mark.parametrize(("rank", "slot"), [(0, 0), (1, 0), (2, 1), (3, 1)])
def test_a_rank_is_found_on_the_pod_of_its_slot(rank: int, slot: int) -> None:
    cluster = settled()
    plan = holders.plan_of(cluster.deployment, config_maps(cluster), 0)
    assert holders.slot_of_rank(plan, rank) == slot
    pod = holders.pod_of(cluster.pods(), 0, slot)
    assert label(pod, "slot") == str(slot)
    assert holders.caption(plan, pod, slot, rank) == (
        f"rank {rank} (stage 0, shard {rank}, tp 0): pod m-0-{slot}, container runtime, node node-{slot}"
    )


def test_a_stage_is_found_on_the_pods_that_hold_its_ranks_in_any_rank_order() -> None:
    outer = settled(parallelism={"ep": 2, "tp": 1, "pp": 2})
    plan = holders.plan_of(outer.deployment, config_maps(outer), 0)
    assert [holders.slots_of_stage(plan, stage) for stage in (0, 1)] == [(0,), (1,)]
    inner = settled(parallelism={"ep": 2, "tp": 1, "pp": 2, "rankOrder": ["ep", "pp", "tp"]})
    plan = holders.plan_of(inner.deployment, config_maps(inner), 0)
    assert [holders.slots_of_stage(plan, stage) for stage in (0, 1)] == [(0, 1), (0, 1)]


def test_a_rank_a_stage_and_a_replica_that_there_are_not_are_told_with_those_that_there_are() -> None:
    cluster = settled()
    plan = holders.plan_of(cluster.deployment, config_maps(cluster), 0)
    with pytest.raises(NotHeldError, match="m has no rank 4; its ranks are 0 to 3"):
        holders.slot_of_rank(plan, 4)
    with pytest.raises(NotHeldError, match="m has no stage 1; its stages are 0 to 0"):
        holders.slots_of_stage(plan, 1)
    with pytest.raises(NotHeldError, match="m has no replica 7; its replicas: 0"):
        holders.plan_of(cluster.deployment, config_maps(cluster), 7)
    with pytest.raises(NotHeldError, match="slot 1 of replica 0 has no pod"):
        holders.pod_of([], 0, 1)


def test_the_log_is_the_fetchers_while_it_is_not_done() -> None:
    fetching = {"status": {"initContainerStatuses": [{"name": "fetch", "state": {"running": {}}}]}}
    done = {"status": {"initContainerStatuses": [{"name": "fetch", "state": {"terminated": {"exitCode": 0}}}]}}
    assert holders.speaking_container(fetching) == "fetch"
    assert holders.speaking_container(done) == "runtime"


def test_the_placement_shows_each_slots_ranks_node_and_domains() -> None:
    cluster = Cluster(manifest(topology={"levels": ["example.com/rack"]}))
    for number, node in enumerate(cluster.nodes.values()):
        node["metadata"]["labels"]["example.com/rack"] = f"rack-{number // 2}"
    cluster.settle()
    plan = holders.plan_of(cluster.deployment, config_maps(cluster), 0)
    network = network_of(cluster.deployment, list(cluster.nodes.values()))
    lines = placement_lines(cluster.replica_status(0), plan, network)
    assert lines[0] == "replica 0: Ready, 2 slots, placement score 1.00"
    assert lines[-2].split() == ["0", "0–1", "0", "0–1", "node-0", "rack-0"]
    assert lines[-1].split() == ["1", "2–3", "0", "2–3", "node-1", "rack-0"]


def test_the_placement_tells_what_lowers_its_score() -> None:
    cluster = Cluster(manifest(topology={"levels": ["example.com/rack"]}), nodes=0)
    for name, rack, gpus in (("a", "1", 2), ("b", "1", 0), ("c", "2", 2), ("d", "2", 0)):
        cluster.nodes[name] = gpu_node(name, gpus)
        cluster.nodes[name]["metadata"]["labels"]["example.com/rack"] = rack
    cluster.settle()
    replica = {**cluster.replica_status(0), "placementScore": "0.40", "placementMisses": ["ep group 0 spans 2 racks"]}
    plan = holders.plan_of(cluster.deployment, config_maps(cluster), 0)
    without = placement_lines(replica, plan, None)
    assert without[:2] == ["replica 0: Ready, 2 slots, placement score 0.40", "  ep group 0 spans 2 racks"]
    assert "rack" not in without[2]


METRICS = """\
# TYPE moe_requests_total counter
moe_requests_total{{outcome="ok"}} 3.0
moe_running_requests 4.0
moe_waiting_requests 1.0
moe_kv_pages_used 25.0
moe_kv_pages 100.0
moe_rank_restarts_total 1.0
moe_generated_tokens_total {tokens}
moe_tpot_seconds_bucket{{le="0.02"}} {tokens}
moe_tpot_seconds_bucket{{le="+Inf"}} {tokens}
moe_slot_pace{{slot="0"}} 1.0
moe_slot_pace{{slot="1"}} 2.41
moe_stage_seconds_total{{part="step",stage="0"}} {step}
moe_stage_seconds_total{{part="communication",stage="0"}} {communication}
moe_expert_tokens_total{{expert="0"}} 10.0
moe_expert_tokens_total{{expert="1"}} 30.0
moe_expert_load_max_over_mean{{layer="0"}} 1.5
moe_expert_load_max_over_mean{{layer="1"}} 1.25
"""


def test_the_load_shows_what_the_frontend_measured_between_two_readings() -> None:
    cluster = settled()
    plan = holders.plan_of(cluster.deployment, config_maps(cluster))
    before = METRICS.format(tokens=100, step=10, communication=5)
    after = METRICS.format(tokens=300, step=14, communication=6)
    lines = load_lines(plan, [Readings(0, before, after, 2.0)])
    assert lines[2].split() == ["0", "4", "1", "25%", "100", "–", *format_seconds(0.01).split(), "25%", "1"]
    experts = next(i for i, line in enumerate(lines) if line.startswith("busiest of 2 experts"))
    assert lines[experts + 3].split() == ["1", "0", "30", "1.50"]
    assert lines[-2].split() == ["0", "1.50"]
    assert lines[3] == "replica 0: slot 1 computes 2.4 times as long as the median slot"


def test_a_frontend_that_gives_no_figures_is_told_with_the_reason() -> None:
    cluster = settled()
    plan = holders.plan_of(cluster.deployment, config_maps(cluster))
    lines = load_lines(plan, [Readings(0, "", "", 0.0, "slot 0 of replica 0 has no pod")])
    assert lines == ["replica 0: no figures: slot 0 of replica 0 has no pod"]


def test_every_figure_that_is_read_is_one_that_the_runtime_exports() -> None:
    read = set(re.findall(r'"(moe_\w+?)(?:_total)?"', Path(load.__file__).read_text()))
    exported = (Path(__file__).parents[2] / "runtime/moe_runtime/frontend/metrics.py").read_text()
    assert len(read) > 5
    assert [name for name in read if f'"{name}"' not in exported] == []
