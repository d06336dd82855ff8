"""Placements of small clusters against all placements there are, and of larger ones against random ones.

The cost is computed here a second time, rank by rank, from its definition in docs/placement.md.
"""

import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from functools import cache
from itertools import combinations, pairwise, permutations
from pathlib import Path
from statistics import mean

import pytest
import yaml
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from moe_operator.placement import Node, Placement, Unplaceable, place
from moe_plan.layout import DIMENSIONS, Layout
from moe_plan.manifest import parse_deployment
from moe_plan.plan import Degrees, Plan
from moe_plan.planner import make_plan
from moe_plan.spec import Levels, Scheduling, Topology

GPU = "nvidia.com/gpu"
HOST, RACK, ZONE = LEVELS = ("kubernetes.io/hostname", "example/rack", "example/zone")
WEIGHTS = {"tp": 1000, "ep": 100, "pp": 10, "replica": 1}


@cache
def base() -> Plan:
    manifest = Path(__file__).parents[2] / "examples/seed-s1.yaml"
    return make_plan(parse_deployment(yaml.safe_load(manifest.read_text())))


def plan_of(layout: Layout, ranks_per_slot: int) -> Plan:
    sizes = {"slots": layout.world // ranks_per_slot, "ranks_per_slot": ranks_per_slot}
    degrees = Degrees(ep=layout.ep, tp=layout.tp, pp=layout.pp)
    return base().model_copy(update={"degrees": degrees, "rank_order": layout.rank_order, **sizes})


@st.composite
def plans(draw: st.DrawFn, slots: int) -> Plan:
    sizes = st.sampled_from([1, 2, 3, 4])
    layout = Layout(draw(sizes), draw(sizes), draw(sizes), draw(st.sampled_from(list(permutations(DIMENSIONS)))))
    shares = [n for n in range(1, 13) if layout.world % n == 0 and layout.world // n <= slots]
    assume(shares)
    return plan_of(layout, draw(st.sampled_from(shares)))


@st.composite
def clusters(draw: st.DrawFn, plan: Plan, nodes: int) -> list[Node]:
    """Nodes that hold 0 to 4 slots in up to two zones of up to three racks; racks are named alike in both zones."""
    per = plan.ranks_per_slot
    place_of = st.tuples(st.sampled_from("ab"), st.sampled_from("xyz"), st.integers(0, 4), st.integers(0, 2))
    return [
        Node(f"n{i}", {RACK: rack, ZONE: zone}, {GPU: (free + used) * per}, {GPU: used * per})
        for i, (zone, rack, free, used) in enumerate(draw(st.lists(place_of, min_size=1, max_size=nodes)))
    ]


def tiers(nodes: Sequence[Node]) -> list[dict[str, object]]:
    """What domain each node is in, by tier below the cluster; tiers that part the nodes no further are left out."""
    found = [
        {node.name: node.name for node in nodes},
        {node.name: (node.labels[RACK], node.labels[ZONE]) for node in nodes},
        {node.name: node.labels[ZONE] for node in nodes},
    ]
    kept: list[dict[str, object]] = []
    for domains in found:
        count = len(set(domains.values()))
        if not kept or 1 < count < len(set(kept[-1].values())):
            kept.append(dict(domains))
    return kept


def cost(plan: Plan, nodes: Sequence[Node], where: Sequence[str]) -> float:
    """Of `docs/placement.md`, with a loop over ranks."""
    usable = [node for node in nodes if node.allocatable[GPU] >= plan.ranks_per_slot]
    network = tiers(usable)
    top = len(network)
    slot = {rank: rank // plan.ranks_per_slot for rank in range(plan.degrees.world)}

    def tier(first: int, second: int) -> int:
        a, b = where[slot[first]], where[slot[second]]
        return next((t for t, domains in enumerate(network) if domains[a] == domains[b]), top)

    def climb(group: Sequence[int]) -> float:
        pairs = [tier(a, b) for a, b in combinations(group, 2) if slot[a] != slot[b]]
        return max(pairs) + mean(pairs) / (top + 1)

    kinds = {kind: [g for g in groups if len({slot[r] for r in g}) > 1] for kind, groups in talking(plan).items()}
    return sum(WEIGHTS[kind] * mean(map(climb, groups)) for kind, groups in kinds.items() if groups)


def talking(plan: Plan) -> dict[str, list[tuple[int, ...]]]:
    layout = Layout(plan.degrees.ep, plan.degrees.tp, plan.degrees.pp, plan.rank_order)
    return {
        "tp": list(layout.groups(["tp"])),
        "ep": list(layout.groups(["ep"])),
        "pp": [link for group in layout.groups(["pp"]) for link in pairwise(group)],
        "replica": [tuple(range(layout.world))],
    }


def feasible(plan: Plan, nodes: Sequence[Node]) -> Iterator[tuple[str, ...]]:
    """All placements that no node is too small for."""
    room = {node.name: node.free(GPU) // plan.ranks_per_slot for node in nodes}

    def extend(placed: tuple[str, ...]) -> Iterator[tuple[str, ...]]:
        if len(placed) == plan.slots:
            yield placed
            return
        for name, slots in room.items():
            if placed.count(name) < slots:
                yield from extend((*placed, name))

    return extend(())


def holds(plan: Plan, nodes: Sequence[Node], required: Mapping[str, str], where: Sequence[str]) -> bool:
    node = {n.name: n for n in nodes}
    layout = Layout(plan.degrees.ep, plan.degrees.tp, plan.degrees.pp, plan.rank_order)
    groups = {kind: layout.groups([kind]) for kind in DIMENSIONS} | {"replica": (tuple(range(layout.world)),)}
    domain = {
        HOST: lambda n: n.name,
        RACK: lambda n: (n.labels[RACK], n.labels[ZONE]),
        ZONE: lambda n: n.labels[ZONE],
    }
    return all(
        len({domain[level](node[where[rank // plan.ranks_per_slot]]) for rank in group}) == 1
        for kind, level in required.items()
        for group in groups[kind]  # type: ignore[index]  # a Levels field
    )


@settings(max_examples=50, deadline=None)
@given(st.data())
def test_a_small_placement_is_within_5_percent_of_the_cheapest_there_is(data: st.DataObject) -> None:
    plan = data.draw(plans(slots=4))
    nodes = data.draw(clusters(plan, nodes=5))
    found = place(plan, Topology(levels=LEVELS), Scheduling(), nodes)
    costs = [cost(plan, nodes, where) for where in feasible(plan, nodes)]
    if isinstance(found, Unplaceable):
        assert not costs
        return
    assert cost(plan, nodes, found.nodes) <= min(costs) * 1.05 + 1e-9


@pytest.mark.slow
@settings(max_examples=50, deadline=None)
@given(st.data())
def test_required_levels_hold_and_are_refused_only_where_no_placement_has_them(data: st.DataObject) -> None:
    plan = data.draw(plans(slots=4))
    nodes = data.draw(clusters(plan, nodes=5))
    kinds = st.dictionaries(st.sampled_from(sorted(WEIGHTS)), st.sampled_from(LEVELS), max_size=3)
    required = data.draw(kinds)
    found = place(plan, Topology(levels=LEVELS, required=Levels(**required)), Scheduling(), nodes)
    allowed = [where for where in feasible(plan, nodes) if holds(plan, nodes, required, where)]
    if isinstance(found, Unplaceable):
        assert not allowed
        assert all(found.reasons)
        return
    assert found.nodes in allowed
    assert cost(plan, nodes, found.nodes) <= min(cost(plan, nodes, where) for where in allowed) * 1.05 + 1e-9


@settings(max_examples=30, deadline=None)
@given(st.data(), st.integers(0, 2**32))
def test_no_random_placement_is_better(data: st.DataObject, seed: int) -> None:
    plan = data.draw(plans(slots=24))
    nodes = data.draw(clusters(plan, nodes=40))
    found = place(plan, Topology(levels=LEVELS), Scheduling(), nodes)
    room = [node.name for node in nodes for _ in range(node.free(GPU) // plan.ranks_per_slot)]
    assert isinstance(found, Unplaceable) == (len(room) < plan.slots)
    if isinstance(found, Unplaceable):
        return
    assert len(found.nodes) == plan.slots
    assert all(found.nodes.count(name) <= room.count(name) for name in found.nodes)
    chance, own = random.Random(seed), cost(plan, nodes, found.nodes)
    for _ in range(5):
        assert own <= cost(plan, nodes, chance.sample(room, plan.slots)) + 1e-9


@settings(max_examples=30, deadline=None)
@given(st.data())
def test_slots_that_stay_stay_and_the_rest_is_placed_as_near_as_can_be(data: st.DataObject) -> None:
    plan = data.draw(plans(slots=4))
    nodes = data.draw(clusters(plan, nodes=5))
    before = place(plan, Topology(levels=LEVELS), Scheduling(), nodes)
    assume(isinstance(before, Placement))
    assert isinstance(before, Placement)
    keep = dict(data.draw(st.lists(st.sampled_from(list(enumerate(before.nodes))), unique=True)))
    lost = data.draw(st.sampled_from(nodes)).name
    keep = {slot: name for slot, name in keep.items() if name != lost}
    left = [replace(node, ready=node.name != lost) for node in nodes]
    after = place(plan, Topology(levels=LEVELS), Scheduling(), left, keep=keep)
    possible = [
        where
        for where in feasible(plan, [node for node in left if node.ready])
        if all(where[slot] == name for slot, name in keep.items())
    ]
    if isinstance(after, Unplaceable):
        assert not possible
        return
    assert after.nodes in possible
    assert cost(plan, nodes, after.nodes) <= min(cost(plan, nodes, where) for where in possible) * 1.05 + 1e-9


@settings(max_examples=30, deadline=None)
@given(st.data())
def test_the_order_in_which_nodes_come_does_not_matter(data: st.DataObject) -> None:
    plan = data.draw(plans(slots=24))
    nodes = data.draw(clusters(plan, nodes=30))
    shuffled = data.draw(st.permutations(nodes))
    topology = Topology(levels=LEVELS)
    assert place(plan, topology, Scheduling(), nodes) == place(plan, topology, Scheduling(), shuffled)


@settings(max_examples=30, deadline=None)
@given(st.data())
def test_an_empty_cluster_scores_1_and_every_score_below_1_has_its_reason(data: st.DataObject) -> None:
    plan = data.draw(plans(slots=8))
    nodes = data.draw(clusters(plan, nodes=12))
    found = place(plan, Topology(levels=LEVELS), Scheduling(), nodes)
    if isinstance(found, Placement):
        assert 0 <= found.score <= 1
        assert (found.score < 1) == bool(found.misses)
    empty = place(plan, Topology(levels=LEVELS), Scheduling(), [replace(node, used={}) for node in nodes])
    if isinstance(empty, Placement):
        assert (empty.score, empty.misses) == (1, ())


@pytest.mark.slow
@settings(max_examples=60, deadline=None)
@given(st.data())
def test_a_placement_of_six_slots_is_within_5_percent_of_the_cheapest_there_is(data: st.DataObject) -> None:
    plan = data.draw(plans(slots=6))
    nodes = data.draw(clusters(plan, nodes=5))
    assume(sum(node.free(GPU) // plan.ranks_per_slot for node in nodes) < 10)
    found = place(plan, Topology(levels=LEVELS), Scheduling(), nodes)
    if isinstance(found, Placement):
        best = min(cost(plan, nodes, where) for where in feasible(plan, nodes))
        assert cost(plan, nodes, found.nodes) <= best * 1.05 + 1e-9
