"""Placements and their lack, in sentences for the person who must act."""

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence

from moe_operator.placement.cost import Cost, Where, spans
from moe_operator.placement.eligible import barred, free, matches, offered
from moe_operator.placement.fit import Held, Room, make_parts
from moe_operator.placement.groups import KINDS, Group, Kind, Traffic
from moe_operator.placement.network import Network, natural
from moe_operator.placement.nodes import Amounts, Node
from moe_plan.spec import Scheduling

_NAMED = 3
"""Groups or nodes named before the rest are counted."""


def lack_of_nodes(
    slots: int, fit: int, nodes: Sequence[Node], scheduling: Scheduling, requests: Amounts, gpu: str
) -> Iterator[str]:
    """Why there is no room for a replica's slots, and what keeps which nodes from giving it."""
    each = ", ".join(f"{amount} {name}" for name, amount in requests.items() if name != "pods")
    yield f"needs room for {_count(slots, 'slot')} of {each} each; there is room for {fit}"
    with_gpus = [node for node in nodes if node.allocatable.get(gpu, 0) > 0]
    if not with_gpus:
        yield f"no node offers {gpu}: is its device plugin running?"
        return
    found: defaultdict[str, list[Node]] = defaultdict(list)
    for node in sorted(with_gpus, key=lambda node: natural(node.name)):
        reason = _shortcoming(node, scheduling, requests)
        if reason:
            found[reason].append(node)
    for reason, some in found.items():
        yield f"{_names([node.name for node in some])} {reason}"


def _shortcoming(node: Node, scheduling: Scheduling, requests: Amounts) -> str:
    if not matches(node, scheduling.node_selector):
        missing = [f"{k}={v}" for k, v in scheduling.node_selector.items() if node.labels.get(k) != v]
        return f"without {', '.join(missing)} (spec.scheduling.nodeSelector)"
    if offered(node, requests) == 0:
        return f"with no more than {_least(node.allocatable, requests)} in all"
    bar = barred(node, scheduling)
    if bar or free(node, requests) > 0:
        return bar
    left = {name: max(0, node.free(name)) for name in node.allocatable}
    return f"with {_least(left, requests)} free"


def _least(amounts: Amounts, requests: Amounts) -> str:
    """The amount that falls shortest of its request."""
    name = min(requests, key=lambda name: amounts.get(name, 0) / requests[name] if requests[name] else 1)
    return f"{amounts.get(name, 0)} {name}"


def unknown_level(kind: Kind, level: str, levels: Sequence[str]) -> str:
    """A required level that is none."""
    field = f"spec.topology.required.{kind}"
    if levels and level not in levels:
        return f"{field} is {level}, which spec.topology.levels does not list"
    return f"{field} is {level}, a label that no node for these slots carries" + (
        "" if levels else ", or none of those known: list the levels in spec.topology.levels"
    )


def lack_of_domains(network: Network, traffic: Traffic, room: Room, required: Held) -> Iterator[str]:
    """Which required level is in the way, and how much its roomiest domain holds."""
    for kind in KINDS:
        groups = [group for group in traffic.whole if group.kind == kind]
        if kind not in required or not groups:
            continue
        tier = required[kind]
        parts = make_parts(traffic, ((kind, tier),), network.top)
        if room.holds(parts):
            continue
        size = max(len(group.slots) for group in groups)
        rooms = _rooms(network, room, tier)
        best = max(range(len(rooms)), key=lambda domain: rooms[domain])
        text = (
            f"{network.tiers[tier]} (spec.topology.required.{kind}) must hold {_a_group(kind)}, {_count(size, 'slot')}"
        )
        if rooms[best] < size:
            yield f"one {text}; the roomiest, {network.labels[tier][best]}, has room for {rooms[best]}"
        else:
            whole = sum(have // size for have in rooms)
            yield f"one {text}; they have room for {whole} of {parts.count[tier]} at once"
    levels = ", ".join(f"{kind} in {network.tiers[tier]}" for kind, tier in required.items())
    yield f"the levels of spec.topology.required do not hold together: {levels}"


def _rooms(network: Network, room: Room, tier: int) -> list[int]:
    """Slots that fit in each domain of a tier."""
    rooms = [0] * len(network.labels[tier])
    for node, slots in enumerate(room.slots):
        rooms[network.domain(tier, node)] += slots
    return rooms


def misses(cost: Cost, levels: Mapping[Kind, str], where: Where, ideal: Where) -> Iterator[str]:
    """What is worse than preferred, and what is worse than the same cluster would allow if it were empty."""
    for kind in KINDS:
        groups = [group for group in cost.traffic.whole if group.kind == kind]
        yield from _preference(cost, kind, levels, groups, where)
        yield from _spread(cost.network, groups, where, ideal)


def _preference(
    cost: Cost, kind: Kind, levels: Mapping[Kind, str], groups: Sequence[Group], where: Where
) -> Iterator[str]:
    if kind not in cost.preferred or not groups:
        return
    tier, level = cost.preferred[kind], levels[kind]
    if tier is None:
        yield f"the level preferred for {kind}, {level}, is on no node"
        return
    loose = [group for group in groups if not cost.holds(group, tier, where)]
    if loose:
        most = max(spans(cost.network, group, tier, where) for group in loose)
        yield f"{_groups(loose)} {_span(loose)} {most} domains of {level}; one is preferred"


def _spread(network: Network, groups: Sequence[Group], where: Where, ideal: Where) -> Iterator[str]:
    """The widest tier of which groups of a kind lie in more domains than they need to."""
    for tier in reversed(range(network.top)):
        best = max((spans(network, group, tier, ideal) for group in groups), default=1)
        loose = [group for group in groups if spans(network, group, tier, where) > best]
        if loose:
            most = max(spans(network, group, tier, where) for group in loose)
            domains = "nodes" if tier == 0 else f"domains of {network.tiers[tier]}"
            yield f"{_groups(loose)} {_span(loose)} {most} {domains}; {best} would do if the cluster were empty"
            return


def _a_group(kind: Kind) -> str:
    return "the replica" if kind == "replica" else f"each {kind} group"


def _groups(groups: Sequence[Group]) -> str:
    kind, numbers = groups[0].kind, sorted(number for group in groups for number in group.numbers)
    if kind == "replica":
        return "the replica"
    if len(numbers) == 1:
        return f"{kind} group {numbers[0]}"
    return f"{kind} groups {_names(map(str, numbers))}"


def _span(groups: Sequence[Group]) -> str:
    return "spans" if sum(len(group.numbers) for group in groups) == 1 else "span"


def _names(names: Iterable[str]) -> str:
    every = list(names)
    shown, rest = every[:_NAMED], len(every) - _NAMED
    if rest > 0:
        return f"{', '.join(shown)} and {rest} {'other' if rest == 1 else 'others'}"
    return f"{', '.join(shown[:-1])} and {shown[-1]}" if len(shown) > 1 else shown[0]


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"
