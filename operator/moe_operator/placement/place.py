"""From a plan and the nodes to the node of each slot, or to the reasons why there is none.

1. Count the slots that fit on each node, and build the tree of the network.
2. Hold each kind of group, those that talk most first, at the narrowest tier at which all its groups fit whole.
3. Pack the slots into the tree under these holds; try other orders of the kinds, and keep the cheapest placement.
4. Climb from there by single changes, and compare with the same cluster empty: that gives the score.
"""

from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from moe_operator.placement.bound import lower_bound
from moe_operator.placement.cost import NEGLIGIBLE, Cost
from moe_operator.placement.eligible import barred, free, matches, offered
from moe_operator.placement.explain import lack_of_domains, lack_of_nodes, misses, unknown_level
from moe_operator.placement.fit import make_room
from moe_operator.placement.groups import KINDS, Kind, Traffic, traffic
from moe_operator.placement.network import Network, make_network
from moe_operator.placement.nodes import Amounts, Node
from moe_operator.placement.pack import Taste
from moe_operator.placement.solve import Task, improved, solve
from moe_plan.plan import Plan
from moe_plan.spec import Levels, Scheduling, Topology


@dataclass(frozen=True, slots=True)
class Placement:
    """Where a replica's slots go."""

    nodes: tuple[str, ...]
    """Node of each slot."""
    score: float
    """1: as near together as the same cluster would allow if it were empty; 0: spread over all of it."""
    misses: tuple[str, ...] = ()
    """Why the score is below 1; sentences."""


@dataclass(frozen=True, slots=True)
class Unplaceable:
    """Why a replica cannot be placed."""

    reasons: tuple[str, ...]
    """What is lacking where, for the person who must act."""

    def __str__(self) -> str:
        return "; ".join(self.reasons)


def place(
    plan: Plan,
    topology: Topology,
    scheduling: Scheduling,
    nodes: Sequence[Node],
    *,
    requests: Amounts | None = None,
    siblings: Iterable[str] = (),
    keep: Mapping[int, str] | None = None,
) -> Placement | Unplaceable:
    """Place one replica. The same input gives the same placement, in whatever order the nodes come.

    `requests` are those of one slot (default: its GPUs). `siblings` names the node of each slot of the deployment's
    other replicas, for topology.replicas. `keep` maps slots to nodes that they must stay on, whatever has become of
    the node; the rest is placed around them. What the replica's own pods take must not be in the nodes' `used`.
    """
    gpu, siblings = plan.hardware.resource_name, tuple(siblings)
    keep = {slot: name for slot, name in (keep or {}).items() if slot < plan.slots}
    requests = requests or {gpu: plan.ranks_per_slot}
    requests = {name: amount for name, amount in requests.items() if amount > 0}
    kept = Counter(keep.values())
    usable, empty = _usable(nodes, scheduling, requests, kept)
    capacity = [max(kept[n.name], 0 if barred(n, scheduling) else free(n, requests)) for n in usable]
    lost = sorted(set(kept) - {node.name for node in usable})
    if lost:
        return Unplaceable(tuple(f"slots are to stay on {name}, which is gone" for name in lost))
    if sum(capacity) < plan.slots:
        return Unplaceable(tuple(lack_of_nodes(plan.slots, sum(capacity), nodes, scheduling, requests, gpu)))
    network, flow = make_network(usable, topology.levels), traffic(plan)
    unknown = tuple(_unknown_levels(network, flow, topology, usable))
    if unknown:
        return Unplaceable(unknown)
    task = _task(network, flow, topology, capacity, siblings, keep)
    where = solve(task)
    if where is None:
        return Unplaceable(tuple(_in_the_way(task, keep, _chosen(topology.required))))
    return _scored(task, improved(task, where), empty, topology)


def _usable(
    nodes: Sequence[Node], scheduling: Scheduling, requests: Amounts, kept: Collection[str]
) -> tuple[list[Node], list[int]]:
    """Nodes that would take a slot if they were empty and healthy, by name, and how many each."""
    found = []
    for node in nodes:
        slots = offered(node, requests) if matches(node, scheduling.node_selector) else 0
        if slots > 0 or node.name in kept:
            found.append((node.name, slots, node))
    found.sort(key=lambda one: one[0])
    return [node for _, _, node in found], [slots for _, slots, _ in found]


def _chosen(levels: Levels) -> dict[Kind, str]:
    return {kind: level for kind in KINDS if (level := getattr(levels, kind)) is not None}


def _unknown_levels(network: Network, flow: Traffic, topology: Topology, nodes: Sequence[Node]) -> Iterator[str]:
    """Levels required of groups that span slots, but on no node."""
    spanning = {group.kind for group in flow.whole}
    for kind, level in _chosen(topology.required).items():
        if level not in network.tier_of and kind in spanning:
            yield unknown_level(kind, level, topology.levels, nodes)


def _task(
    network: Network,
    flow: Traffic,
    topology: Topology,
    capacity: Sequence[int],
    siblings: Sequence[str],
    keep: Mapping[int, str],
) -> Task:
    number = {name: i for i, name in enumerate(network.names)} if keep or siblings else {}
    required, preferred = _chosen(topology.required), _chosen(topology.preferred)
    return Task(
        cost=Cost(network, flow, {kind: network.tier_of.get(level) for kind, level in preferred.items()}),
        required={kind: network.tier_of[level] for kind, level in required.items() if level in network.tier_of},
        capacity=tuple(capacity),
        taste=_taste(network, [number[name] for name in siblings if name in number], topology.replicas),
        pinned={slot: number[name] for slot, name in keep.items()},
    )


def _taste(network: Network, siblings: Sequence[int], replicas: str) -> Taste:
    """Domains with few slots of other replicas first, or with many."""
    slots = [Counter(network.domain(tier, node) for node in siblings) for tier in range(network.top + 1)]
    sign = 1 if replicas == "spread" else -1

    def taste(tier: int, domain: int) -> Any:
        return sign * slots[tier][domain]

    return taste


def _in_the_way(task: Task, keep: Mapping[int, str], levels: Mapping[Kind, str]) -> Iterator[str]:
    network, flow = task.cost.network, task.cost.traffic
    if keep:
        yield f"not while {len(keep)} of {flow.slots} slots stay where they are"
    yield from lack_of_domains(network, flow, make_room(network, task.capacity), task.required, levels)


def _scored(task: Task, where: list[int], empty: Sequence[int], topology: Topology) -> Placement:
    """The placement, held against the one that the empty cluster would give."""
    cost = task.cost
    names = tuple(cost.network.names[node] for node in where)
    had = cost.total(where)
    if had <= lower_bound(cost, empty) + NEGLIGIBLE:
        return Placement(names, 1.0)
    ideal = _ideal(task, where, tuple(empty))
    least = cost.plain(ideal)
    if had <= least + NEGLIGIBLE:
        return Placement(names, 1.0)
    score = max(0.0, 1 - (had - least) / (cost.worst - least))
    return Placement(names, score, tuple(misses(cost, _chosen(topology.preferred), where, ideal)))


def _ideal(task: Task, where: list[int], empty: tuple[int, ...]) -> list[int]:
    """The placement that the empty cluster would give; `where` is the one found."""
    if empty == task.capacity and not task.pinned:
        return where
    emptied = task.emptied(empty)
    return improved(emptied, solve(emptied) or where)
