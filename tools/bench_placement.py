"""How much processor time one call of `place` takes on 5,000 nodes, cluster by cluster. Nothing is asserted: machines differ.

Run it with `python tools/bench_placement.py`.
"""

import random
import statistics
import time
from collections.abc import Sequence
from pathlib import Path

import yaml

from moe_operator.placement import Node, Placement, nodes_from_objects, place
from moe_plan.manifest import parse_deployment
from moe_plan.plan import Degrees, Plan
from moe_plan.planner import make_plan
from moe_plan.spec import Scheduling, Topology

ROOT = Path(__file__).parents[1]
GPU = "nvidia.com/gpu"
NODES, LEAF, SPINE, ZONE = 5_000, 32, 512, 2_048
CALLS = 15
SEED = 1


def main() -> None:
    """Print the table."""
    rows = [
        (f"{name}, {cluster}", *_measured(plan, nodes)) for name, plan in _plans() for cluster, nodes in _clusters()
    ]
    print(f"{'processor time of place, 5,000 nodes (target 50 ms)':<58}{'first':>9}{'median':>9}{'score':>7}")
    for name, first, median, score in [*rows, _reading()]:
        print(f"{name:<58}{first * 1e3:>6.1f} ms{median * 1e3:>6.1f} ms{score:>7}")


def _plans() -> list[tuple[str, Plan]]:
    base = make_plan(parse_deployment(yaml.safe_load((ROOT / "examples/seed-s1.yaml").read_text())))

    def plan(ep: int, tp: int, pp: int) -> Plan:
        degrees = Degrees(ep=ep, tp=tp, pp=pp)
        return base.model_copy(update={"degrees": degrees, "slots": degrees.world // 8, "ranks_per_slot": 8})

    return [
        ("16 slots, ep 64 tp 2", plan(64, 2, 1)),
        ("16 slots, ep 8 tp 2 pp 8", plan(8, 2, 8)),
        ("128 slots, ep 512 tp 2", plan(512, 2, 1)),
        ("128 slots, ep 64 tp 2 pp 8", plan(64, 2, 8)),
    ]


def _clusters() -> list[tuple[str, list[Node]]]:
    chance = random.Random(SEED)  # noqa: S311  # a cluster, not a secret
    taken = {name: [chance.random() < share for _ in range(NODES)] for name, share in (("half", 0.5), ("most", 0.93))}
    return [
        ("empty", _nodes([0] * NODES)),
        ("half taken", _nodes([8 * full for full in taken["half"]])),
        ("93 % taken", _nodes([8 * full for full in taken["most"]])),
        ("no labels", _nodes([8 * full for full in taken["half"]], labelled=0)),
    ]


def _nodes(used: Sequence[int], labelled: int = NODES) -> list[Node]:
    return [
        Node(
            f"gpu-{i}",
            {
                "kubernetes.io/hostname": f"gpu-{i}",
                "kubernetes.io/os": "linux",
                "network.topology.nvidia.com/leaf": f"leaf-{i // LEAF}",
                "network.topology.nvidia.com/spine": f"spine-{i // SPINE}",
                "topology.kubernetes.io/zone": f"zone-{i // ZONE}",
            }
            if i < labelled
            else {},
            {GPU: 8},
            {GPU: gpus},
        )
        for i, gpus in enumerate(used)
    ]


def _measured(plan: Plan, nodes: Sequence[Node]) -> tuple[float, float, str]:
    """Seconds of the first call and of the median one, and the score."""
    seconds, score = [], ""
    for _ in range(CALLS):
        started = time.process_time()
        found = place(plan, Topology(), Scheduling(), nodes)
        seconds.append(time.process_time() - started)
        score = f"{found.score:.3f}" if isinstance(found, Placement) else "none"
    return seconds[0], statistics.median(seconds), score


def _reading() -> tuple[str, float, float, str]:
    """Seconds to read 5,000 nodes and as many pods from their JSON."""
    nodes = [
        {
            "metadata": {"name": f"gpu-{i}", "labels": {"kubernetes.io/hostname": f"gpu-{i}"}},
            "status": {
                "allocatable": {GPU: "8", "cpu": "191450m", "memory": "2063451Mi", "pods": "110"},
                "conditions": [{"type": "Ready", "status": "True"}],
            },
        }
        for i in range(NODES)
    ]
    requests = {GPU: "8", "cpu": "16", "memory": "64Gi"}
    pods = [
        {"spec": {"nodeName": f"gpu-{i}", "containers": [{"resources": {"requests": requests}}]}} for i in range(NODES)
    ]
    seconds = []
    for _ in range(CALLS):
        started = time.process_time()
        nodes_from_objects(nodes, pods)
        seconds.append(time.process_time() - started)
    return "reading 5,000 nodes and 5,000 pods", seconds[0], statistics.median(seconds), ""


if __name__ == "__main__":
    main()
