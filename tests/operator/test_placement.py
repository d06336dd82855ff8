"""Where slots go, and what a person is told of it."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import yaml

from moe_operator.placement import Node, Placement, Taint, Unplaceable, place, with_slots
from moe_operator.placement.network import default_levels, make_network
from moe_plan.manifest import parse_deployment
from moe_plan.plan import Degrees, Plan
from moe_plan.planner import make_plan
from moe_plan.spec import Levels, Scheduling, Toleration, Topology

GPU = "nvidia.com/gpu"
HOST, ZONE = "kubernetes.io/hostname", "topology.kubernetes.io/zone"
LEAF, SPINE = "network.topology.nvidia.com/leaf", "network.topology.nvidia.com/spine"
EXAMPLES = Path(__file__).parents[2] / "examples"


@cache
def plan(name: str) -> Plan:
    return make_plan(parse_deployment(yaml.safe_load((EXAMPLES / f"{name}.yaml").read_text())))


def sized(ep: int, tp: int, ranks_per_slot: int, pp: int = 1) -> Plan:
    degrees = Degrees(ep=ep, tp=tp, pp=pp)
    update = {"degrees": degrees, "slots": degrees.world // ranks_per_slot, "ranks_per_slot": ranks_per_slot}
    return plan("seed-s1").model_copy(update=update)


def nodes(leaves: Mapping[str, int], gpus: int = 8, zones: Mapping[str, str] | None = None) -> list[Node]:
    """Empty nodes, so many under each leaf."""
    sizes = [(leaf, i) for leaf, count in leaves.items() for i in range(count)]
    return [
        Node(f"{leaf}-{i}", {LEAF: leaf, ZONE: (zones or {}).get(leaf, "z")}, {GPU: gpus, "pods": 110})
        for leaf, i in sizes
    ]


def put(
    plan: Plan,
    found: Sequence[Node],
    topology: Topology | None = None,
    scheduling: Scheduling | None = None,
    **more: Any,
) -> Placement:
    placement = place(plan, topology or Topology(), scheduling or Scheduling(), found, **more)
    assert isinstance(placement, Placement), str(placement)
    return placement


def refused(
    plan: Plan,
    found: Sequence[Node],
    topology: Topology | None = None,
    scheduling: Scheduling | None = None,
    **more: Any,
) -> str:
    verdict = place(plan, topology or Topology(), scheduling or Scheduling(), found, **more)
    assert isinstance(verdict, Unplaceable), verdict
    return str(verdict)


def leaf_of(placement: Placement) -> list[str]:
    return [name.rpartition("-")[0] for name in placement.nodes]


def test_a_replica_goes_under_the_one_leaf_that_holds_it_though_a_larger_part_is_free_elsewhere() -> None:
    placement = put(plan("seed-s1"), nodes({"a": 15, "b": 16, "c": 15}))
    assert placement.nodes == tuple(f"b-{i}" for i in range(16))
    assert (placement.score, placement.misses) == (1, ())


def test_a_replica_takes_the_leaf_that_it_fills_best_and_leaves_the_large_one_whole() -> None:
    assert set(leaf_of(put(plan("seed-s1"), nodes({"a": 40, "b": 18, "c": 17})))) == {"c"}


def test_each_ep_group_of_seed_s3_lies_under_one_leaf_where_no_leaf_holds_both() -> None:
    placement = put(plan("seed-s3"), nodes({"a": 12, "b": 12}))
    assert leaf_of(placement) == ["a"] * 8 + ["b"] * 8


def test_ep_groups_that_are_not_consecutive_in_rank_are_gathered_too() -> None:
    """With rankOrder [ep, pp, tp] on nodes of 4 the slots of a stage are four apart."""
    s4 = plan("seed-s4")
    split = s4.model_copy(update={"slots": 32, "ranks_per_slot": 4})
    placement = put(split, nodes({"a": 8, "b": 8, "c": 8, "d": 8}, gpus=4))
    by_stage = [{leaf_of(placement)[slot] for slot in range(stage, 32, 4)} for stage in range(4)]
    assert [len(leaves) for leaves in by_stage] == [1, 1, 1, 1]


def test_as_many_ep_groups_as_can_be_are_whole_where_one_must_be_cut() -> None:
    split = plan("seed-s4").model_copy(update={"slots": 32, "ranks_per_slot": 4})
    placement = put(split, nodes({"a": 12, "b": 12, "c": 8}, gpus=4))
    by_stage = [{leaf_of(placement)[slot] for slot in range(stage, 32, 4)} for stage in range(4)]
    assert sorted(len(leaves) for leaves in by_stage) == [1, 1, 1, 2]


def test_a_pipeline_is_cut_once_between_two_nodes_that_take_half_of_it_each() -> None:
    found = [
        Node(f"n{i}", {LEAF: leaf, ZONE: zone}, {GPU: gpus})
        for i, (leaf, zone, gpus) in enumerate(
            [("x", "b", 2), ("x", "b", 1), ("z", "b", 1), ("w", "a", 3), ("y", "b", 2)]
        )
    ]
    assert put(sized(ep=1, tp=1, pp=4, ranks_per_slot=1), found).nodes == ("n0", "n0", "n4", "n4")


def test_slots_share_a_node_that_has_gpus_for_several() -> None:
    placement = put(plan("seed-s1"), nodes({"a": 4, "b": 3}, gpus=32))
    assert placement.nodes == tuple(f"a-{i // 4}" for i in range(16))


def test_a_slot_smaller_than_a_node_takes_the_node_that_is_partly_used() -> None:
    one = sized(ep=2, tp=2, ranks_per_slot=4)
    used = [replace(node, used={GPU: 4} if node.name == "a-2" else {}) for node in nodes({"a": 4})]
    assert put(one, used).nodes == ("a-2",)


def test_pods_of_others_take_their_gpus() -> None:
    used = [replace(node, used={GPU: 1}) if node.name == "a-3" else node for node in nodes({"a": 17})]
    assert "a-3" not in put(plan("seed-s1"), used).nodes


def test_names_are_counted_as_people_count() -> None:
    assert put(plan("seed-s3"), nodes({"a": 20})).nodes == tuple(f"a-{i}" for i in range(16))


def test_seed_s2_has_a_lower_score_and_the_reason_where_the_leaves_are_in_use() -> None:
    free = nodes({"a": 16, "b": 16})
    used = [replace(node, used={GPU: 8}) if node.name.endswith("-0") else node for node in free]
    placement = put(plan("seed-s2"), used)
    assert 0 < placement.score < 1
    assert placement.misses == (
        f"ep groups 0 and 1 span 2 domains of {LEAF}; 1 would do if the cluster were empty",
        f"the replica spans 2 domains of {LEAF}; 1 would do if the cluster were empty",
    )


def test_the_score_is_0_where_everything_is_as_far_apart_as_can_be() -> None:
    pair = sized(ep=64, tp=2, ranks_per_slot=64)
    found = [
        replace(node, used={GPU: 64 if node.name.endswith("-0") else 128}) for node in nodes({"a": 2, "b": 2}, 128)
    ]
    assert put(pair, found).score == 0


def test_a_preferred_level_that_does_not_hold_lowers_the_score_and_is_named() -> None:
    topology = Topology(preferred=Levels(ep=LEAF))
    placement = put(plan("seed-s1"), nodes({"a": 10, "b": 10}), topology)
    assert placement.score < 1
    assert placement.misses == (f"ep groups 0 and 1 span 2 domains of {LEAF}; one is preferred",)


def test_a_preferred_level_that_no_node_carries_is_said() -> None:
    placement = put(plan("seed-s1"), nodes({"a": 16}), Topology(preferred=Levels(ep="example/row")))
    assert placement.misses == ("the level preferred for ep, example/row, is on no node",)


def test_too_few_nodes_are_refused_with_what_each_lacks() -> None:
    found = nodes({"a": 20})
    found[2] = replace(found[2], used={GPU: 4})
    found[3] = replace(found[3], used={GPU: 8})
    found[5] = replace(found[5], ready=False)
    found[6] = replace(found[6], unschedulable=True)
    found[7] = replace(found[7], taints=(Taint("gpu", "broken", "NoSchedule"),))
    found[8] = replace(found[8], allocatable={GPU: 7})
    found += [Node("cpu-0", {}, {"cpu": 64000})]
    assert refused(plan("seed-s1"), found) == (
        "needs room for 16 slots of 8 nvidia.com/gpu each; there is room for 14; "
        "a-2 and a-3 with at most 4 nvidia.com/gpu free; a-8 with at most 7 nvidia.com/gpu in all; "
        "a-5 not ready; a-6 cordoned; a-7 tainted gpu=broken:NoSchedule"
    )


def test_a_cluster_without_gpus_is_refused_with_a_hint() -> None:
    expected = (
        "needs room for 16 slots of 8 nvidia.com/gpu each; there is room for 0; "
        "no node offers nvidia.com/gpu: is its device plugin running?"
    )
    assert refused(plan("seed-s1"), []) == expected
    assert refused(plan("seed-s1"), [Node("cpu-0", {}, {"cpu": 64000})]) == expected


def test_every_resource_that_a_slot_asks_for_counts() -> None:
    found = [
        replace(n, allocatable={GPU: 8, "cpu": 64000, "memory": 2**40}, used={"cpu": 60000}) for n in nodes({"a": 16})
    ]
    requests = {GPU: 8, "cpu": 8000, "memory": 2**38, "pods": 1}
    assert refused(plan("seed-s1"), found, requests=requests) == (
        "needs room for 16 slots of 8 nvidia.com/gpu, 8 cpu, 274.9 GB memory each; there is room for 0; "
        "a-0, a-1, a-2 and 13 others with at most 4 cpu free"
    )
    assert put(plan("seed-s1"), [replace(node, used={}) for node in found], requests=requests).score == 1


def test_a_node_that_takes_no_more_pods_takes_no_slot() -> None:
    found = [replace(node, allocatable={GPU: 8, "pods": 10}, used={"pods": 10}) for node in nodes({"a": 16})]
    assert "a-0, a-1, a-2 and 13 others with no pods free" in refused(
        plan("seed-s1"), found, requests={GPU: 8, "pods": 1}
    )


@pytest.mark.parametrize(
    ("toleration", "kind"),
    [
        (Toleration(key="gpu", operator="Exists"), Placement),
        (Toleration(key="gpu", value="yes"), Placement),
        (Toleration(key="gpu", value="yes", effect="NoSchedule"), Placement),
        (Toleration(operator="Exists"), Placement),
        (Toleration(key="gpu", value="no"), Unplaceable),
        (Toleration(key="gpu", operator="Exists", effect="NoExecute"), Unplaceable),
        (Toleration(key="other", operator="Exists"), Unplaceable),
    ],
)
def test_tainted_nodes_are_used_where_the_taint_is_tolerated(toleration: Toleration, kind: type) -> None:
    found = [replace(node, taints=(Taint("gpu", "yes", "NoSchedule"),)) for node in nodes({"a": 16})]
    verdict = place(plan("seed-s1"), Topology(), Scheduling(tolerations=(toleration,)), found)
    assert isinstance(verdict, kind)


def test_a_taint_that_only_prefers_keeps_no_slot_away() -> None:
    found = [replace(node, taints=(Taint("gpu", "", "PreferNoSchedule"),)) for node in nodes({"a": 16})]
    assert put(plan("seed-s1"), found).score == 1


def test_only_nodes_with_the_selected_labels_are_used() -> None:
    found = [
        replace(n, labels={**n.labels, "pool": "h200"}) if n.name[0] == "b" else n for n in nodes({"a": 20, "b": 16})
    ]
    scheduling = Scheduling.model_validate({"nodeSelector": {"pool": "h200"}})
    assert set(leaf_of(put(plan("seed-s1"), found, scheduling=scheduling))) == {"b"}
    assert "b-0, b-1, b-2 and 13 others without pool=h100 (spec.scheduling.nodeSelector)" in refused(
        plan("seed-s1"), found[20:], scheduling=Scheduling.model_validate({"nodeSelector": {"pool": "h100"}})
    )


@pytest.mark.parametrize(
    ("selector", "told"),
    [
        ({"pool": "h100"}, "no node has the label pool=h100; the nearest that nodes have: pool=h200; "),
        ({"pol": "h200"}, "no node has the label pol=h200; the nearest that nodes have: pool=h200; "),
        ({"xyzzy": "1"}, "no node has the label xyzzy=1; "),
    ],
)
def test_a_selected_label_that_no_node_has_is_told_with_the_nearest(selector: dict[str, str], told: str) -> None:
    found = [replace(node, labels={**node.labels, "pool": "h200"}) for node in nodes({"a": 16})]
    assert told in refused(plan("seed-s1"), found, scheduling=Scheduling.model_validate({"nodeSelector": selector}))


def test_a_device_that_no_node_offers_is_told_with_those_offered() -> None:
    found = [replace(node, allocatable={"amd.com/gpu": 8}) for node in nodes({"a": 16})]
    assert "no node offers nvidia.com/gpu; nodes offer amd.com/gpu: see spec.hardware.resourceName" in refused(
        plan("seed-s1"), found
    )


def test_a_required_level_is_kept_or_refused_with_the_roomiest_domain() -> None:
    topology = Topology(required=Levels(ep=LEAF))
    assert leaf_of(put(plan("seed-s3"), nodes({"a": 9, "b": 8, "c": 7}), topology)) == ["b"] * 8 + ["a"] * 8
    assert refused(plan("seed-s3"), nodes({"a": 7, "b": 6, "c": 5}), topology) == (
        f"one {LEAF} (spec.topology.required.ep) must hold each ep group, 8 slots; the roomiest, a, has room for 7"
    )
    assert refused(plan("seed-s3"), nodes({"a": 9, "b": 7}), topology) == (
        f"one {LEAF} (spec.topology.required.ep) must hold each ep group, 8 slots; there is room for 1 of 2 at once"
    )


def test_required_levels_that_only_conflict_together_are_named_together() -> None:
    zones = {"a": "x", "b": "y"}
    topology = Topology(required=Levels(ep=LEAF, replica=ZONE))
    found = nodes({"a": 15, "b": 8, "c": 8}, zones={**zones, "c": "z"})
    assert refused(plan("seed-s3"), found, topology) == (
        f"one {ZONE} (spec.topology.required.replica) must hold the replica, 16 slots; the roomiest, x, has room for 15"
    )
    found = nodes({"a": 15, "d": 1, "b": 8, "c": 8}, zones={"a": "x", "d": "x", "b": "y", "c": "z"})
    assert refused(plan("seed-s3"), found, topology) == (
        "there is room for each level of spec.topology.required, but not for all at once: "
        f"ep in one {LEAF}, replica in one {ZONE}"
    )


def test_a_required_level_that_is_not_listed_or_carried_is_refused() -> None:
    assert refused(plan("seed-s1"), nodes({"a": 16}), Topology(required=Levels(ep="example/row"))) == (
        "spec.topology.required.ep is example/row, a label that no node for these slots carries"
    )
    near = "network.topology.nvidia.com/leave"
    assert refused(plan("seed-s1"), nodes({"a": 16}), Topology(required=Levels(ep=near))) == (
        f"spec.topology.required.ep is {near}, a label that no node for these slots carries; "
        f"the nearest that nodes have: {LEAF}"
    )
    rows = [replace(node, labels={**node.labels, "example/row": "1"}) for node in nodes({"a": 16})]
    assert refused(plan("seed-s1"), rows, Topology(required=Levels(ep="example/row"))) == (
        "spec.topology.required.ep is example/row, none of the levels known: list the levels in spec.topology.levels"
    )
    topology = Topology(levels=(LEAF,), required=Levels(replica=SPINE))
    assert refused(plan("seed-s1"), nodes({"a": 16}), topology) == (
        f"spec.topology.required.replica is {SPINE}, which spec.topology.levels does not list"
    )


def test_a_level_required_of_groups_inside_a_slot_asks_for_nothing() -> None:
    assert put(plan("seed-s1"), nodes({"a": 16}), Topology(required=Levels(tp="example/row"))).score == 1


def test_replicas_pack_under_one_leaf_or_spread_over_zones() -> None:
    four = sized(ep=16, tp=2, ranks_per_slot=8)
    found = nodes({"a": 9, "b": 8, "c": 10}, zones={"a": "x", "b": "x", "c": "y"})

    def leaves(topology: Topology) -> list[set[str]]:
        taken, left, every = list[str](), list(found), []
        for _ in range(3):
            placement = put(four, left, topology, siblings=taken)
            left = list(with_slots(left, placement.nodes, {GPU: 8}))
            taken += placement.nodes
            every.append(set(leaf_of(placement)))
        return every

    assert leaves(Topology(replicas="pack")) == [{"b"}, {"b"}, {"a"}]
    assert leaves(Topology(replicas="spread")) == [{"b"}, {"c"}, {"a"}]


def test_after_a_node_failure_the_other_slots_stay_and_the_lost_one_goes_nearby() -> None:
    s3, found = plan("seed-s3"), nodes({"a": 9, "b": 9, "c": 9})
    before = put(s3, found)
    lost = before.nodes[3]
    keep = {slot: name for slot, name in enumerate(before.nodes) if name != lost}
    after = put(s3, [replace(n, ready=n.name != lost) for n in found], keep=keep)
    assert {slot: after.nodes[slot] for slot in keep} == keep
    assert leaf_of(after) == leaf_of(before)
    assert after.nodes[3] not in before.nodes


def test_slots_stay_on_a_cordoned_node_but_not_on_one_that_is_gone() -> None:
    s1, found = plan("seed-s1"), nodes({"a": 16})
    keep = {0: "a-0", 1: "a-1"}
    cordoned = [replace(node, unschedulable=node.name == "a-0") for node in found]
    assert put(s1, cordoned, keep=keep).nodes[:2] == ("a-0", "a-1")
    assert refused(s1, cordoned[1:], keep=keep) == "slots are to stay on a-0, which is gone"


def test_slots_that_stay_where_a_required_level_cannot_hold_are_said_to_be_in_the_way() -> None:
    topology = Topology(required=Levels(replica=LEAF))
    found = nodes({"a": 16, "b": 16})
    assert refused(plan("seed-s1"), found, topology, keep={0: "a-0", 1: "b-0"}).startswith(
        "not while 2 of 16 slots stay where they are"
    )


def test_one_rack_name_in_two_zones_is_two_racks() -> None:
    rack = "example/rack"
    found = [
        Node(f"{zone}-{i}", {rack: "r1", ZONE: zone}, {GPU: 8})
        for zone, count in (("x", 9), ("y", 9))
        for i in range(count)
    ]
    topology = Topology(levels=(HOST, rack, ZONE), required=Levels(replica=rack))
    assert "the roomiest, r1, has room for 9" in refused(plan("seed-s1"), found, topology)


def test_nodes_without_a_label_are_near_to_nobody() -> None:
    bare = [replace(node, labels={}) for node in nodes({"bare": 30})]
    assert set(leaf_of(put(plan("seed-s1"), [*bare, *nodes({"a": 16})]))) == {"a"}
    assert "has room for 1" in refused(plan("seed-s1"), [*bare, *nodes({"a": 1})], Topology(required=Levels(ep=LEAF)))


def test_a_cluster_without_any_label_is_placed_by_name() -> None:
    bare = [replace(node, labels={}) for node in nodes({"n": 20})]
    placement = put(plan("seed-s1"), bare)
    assert placement == Placement(tuple(f"n-{i}" for i in range(16)), 1.0, ())


def test_levels_are_those_that_nodes_carry_from_narrow_to_wide() -> None:
    labels = [
        {"topology.k8s.aws/network-node-layer-3": f"l{i // 2}", "topology.k8s.aws/network-node-layer-2": f"m{i // 4}"}
        for i in range(8)
    ]
    network = make_network([Node(f"n{i}", {**label, ZONE: "z"}) for i, label in enumerate(labels)], ())
    assert network.tiers == (
        HOST,
        "topology.k8s.aws/network-node-layer-3",
        "topology.k8s.aws/network-node-layer-2",
        "the cluster",
    )
    assert network.tier_of[ZONE] == network.top


def test_a_known_level_that_cuts_most_domains_of_a_narrower_one_is_passed_over() -> None:
    clique = "nvidia.com/gpu.clique"
    found = [Node(f"n{i}", {clique: f"c{i // 4}", LEAF: f"rail{i % 2}", SPINE: f"s{i // 8}"}) for i in range(16)]
    assert make_network(found, ()).tiers == (HOST, clique, SPINE, "the cluster")
    assert make_network(found, (clique, LEAF, SPINE)).tiers == (HOST, clique, LEAF, SPINE, "the cluster")


def test_the_known_levels_start_at_the_node_and_end_at_the_region() -> None:
    levels = default_levels()
    assert (levels[0], levels[-1]) == (HOST, "topology.kubernetes.io/region")
    assert len(set(levels)) == len(levels)
