"""Placements and their lack, in sentences for the person who must act."""

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence

from moe_operator.placement.cost import Cost, Where, parted, spans
from moe_operator.placement.eligible import barred, counts, free, offered
from moe_operator.placement.fit import Held, Room, make_parts
from moe_operator.placement.groups import KINDS, Group, Kind, Traffic
from moe_operator.placement.hints import nearest, no_device, no_label
from moe_operator.placement.network import Network, natural
from moe_operator.placement.nodes import Amounts, Node
from moe_plan.spec import Scheduling
from moe_plan.units import format_bytes

_NAMED = 3
"""Groups or nodes named before the rest are counted."""
_EMPTY = "if the cluster were empty"


def lack_of_nodes(
    slots: int, fit: int, nodes: Sequence[Node], scheduling: Scheduling, requests: Amounts, gpu: str
) -> Iterator[str]:
    """Why there is no room for a replica's slots, and what keeps which nodes from giving it."""
    each = ", ".join(_amount(name, amount) for name, amount in requests.items() if name != "pods")
    yield f"needs room for {_count(slots, 'slot')} of {each} each; there is room for {fit}"
    with_gpus = [node for node in nodes if node.allocatable.get(gpu, 0) > 0]
    if not with_gpus:
        yield no_device(gpu, nodes)
    yield from no_label(scheduling.node_selector, with_gpus)
    barring: defaultdict[str, list[str]] = defaultdict(list)
    short: defaultdict[tuple[str, str], dict[str, int]] = defaultdict(dict)
    for node in sorted(with_gpus, key=lambda node: natural(node.name)):
        bar = _bar(node, scheduling)
        if bar:
            barring[bar].append(node.name)
        elif free(node, requests) == 0:
            when = "free" if offered(node, requests) else "in all"
            name, amount = _scarcest(node, requests, when)
            short[when, name][node.name] = amount
    for (when, name), amounts in short.items():
        most = max(amounts.values())
        yield f"{_names(amounts)} with {f'at most {_amount(name, most)}' if most else f'no {name}'} {when}"
    yield from (f"{_names(names)} {bar}" for bar, names in barring.items())


def _bar(node: Node, scheduling: Scheduling) -> str:
    missing = [f"{key}={value}" for key, value in scheduling.node_selector.items() if node.labels.get(key) != value]
    if missing:
        return f"without {', '.join(missing)} (spec.scheduling.nodeSelector)"
    return barred(node, scheduling)


def _scarcest(node: Node, requests: Amounts, when: str) -> tuple[str, int]:
    """The resource that falls shortest of its request, and how much of it there is."""
    names = [name for name in requests if counts(node, name)]
    amounts = {name: max(0, node.free(name) if when == "free" else node.allocatable.get(name, 0)) for name in names}
    name = min(names, key=lambda name: amounts[name] / requests[name])
    return name, amounts[name]


def _amount(name: str, amount: int) -> str:
    if name == "cpu":
        return f"{amount / 1000:g} cpu"
    is_bytes = name in {"memory", "ephemeral-storage"} or name.startswith("hugepages-")
    return f"{format_bytes(amount)} {name}" if is_bytes else f"{amount} {name}"


def unknown_level(kind: Kind, level: str, levels: Sequence[str], nodes: Sequence[Node]) -> str:
    """A required level that is none, with the labels of the nodes that it may mean."""
    field = f"spec.topology.required.{kind}"
    if levels and level not in levels:
        return f"{field} is {level}, which spec.topology.levels does not list"
    carried = {key for node in nodes for key in node.labels}
    if level in carried:
        return f"{field} is {level}, none of the levels known: list the levels in spec.topology.levels"
    return f"{field} is {level}, a label that no node for these slots carries{nearest(level, carried)}"


def lack_of_domains(
    network: Network, traffic: Traffic, room: Room, required: Held, levels: Mapping[Kind, str]
) -> Iterator[str]:
    """Which required level is in the way, and how much its roomiest domain holds."""
    found = [
        _lack_of(network, groups, room, required[kind], levels[kind])
        for kind in KINDS
        if kind in required
        and (groups := [group for group in traffic.whole if group.kind == kind])
        and not room.holds(make_parts(traffic, ((kind, required[kind]),), network.top))
    ]
    together = ", ".join(f"{kind} in one {levels[kind]}" for kind in required)
    yield from found or [f"there is room for each level of spec.topology.required, but not for all at once: {together}"]


def _lack_of(network: Network, groups: Sequence[Group], room: Room, tier: int, level: str) -> str:
    kind, size = groups[0].kind, max(len(group.slots) for group in groups)
    rooms = (*room.free, (sum(room.slots),))[tier]
    best = max(range(len(rooms)), key=lambda domain: rooms[domain])
    text = f"one {level} (spec.topology.required.{kind}) must hold {_a_group(kind)}, {_count(size, 'slot')}"
    if rooms[best] < size:
        return f"{text}; the roomiest, {network.named(level, best)}, has room for {rooms[best]}"
    at_once = sum(have // size for have in rooms)
    return f"{text}; there is room for {at_once} of {sum(len(group.slots) for group in groups) // size} at once"


def misses(cost: Cost, levels: Mapping[Kind, str], where: Where, ideal: Where) -> Iterator[str]:
    """What is worse than preferred, and what is worse than the same cluster would allow if it were empty."""
    found: list[str] = []
    for kind in KINDS:
        groups = [group for group in cost.traffic.whole if group.kind == kind]
        found += _preference(cost, kind, levels, groups, where)
        found += _spread(cost.network, groups, where, ideal)
    yield from found or _parted(cost, where, ideal)


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
    """The widest tier of which groups of a kind lie in more domains than they need to, or more groups do."""
    for tier in reversed(range(network.top)):
        had = {group: spans(network, group, tier, where) for group in groups}
        best = sorted((spans(network, group, tier, ideal) for group in groups), reverse=True)
        loose = [group for group in groups if had[group] > best[0]]
        if loose:
            yield f"{_groups(loose)} {_span(loose)} {_up_to(had, loose, tier, network)}; {best[0]} would do {_EMPTY}"
            return
        cut = [group for group in groups if had[group] > 1]
        if len(cut) > sum(one > 1 for one in best):
            yield f"{_groups(cut)} {_span(cut)} {_up_to(had, cut, tier, network)}; fewer groups would {_EMPTY}"
            return


def _parted(cost: Cost, where: Where, ideal: Where) -> Iterator[str]:
    """Groups that span as many domains as they would at best, but are dealt to them less favourably."""
    for kind in KINDS:
        groups = [group for group in cost.traffic.talking if group.kind == kind]
        for tier in reversed(range(cost.network.top)):
            had, best = (_apart(cost.network, groups, tier, nodes) for nodes in (where, ideal))
            if had > best:
                domains = _domains(tier, cost.network)
                yield f"{had:.1%} of the {kind} traffic between slots crosses {domains}; {best:.1%} would {_EMPTY}"
                return
    yield f"the slots lie somewhat farther apart than they would {_EMPTY}"


def _apart(network: Network, groups: Sequence[Group], tier: int, where: Where) -> float:
    """Share of the pairs of ranks in different slots that lie in different domains of a tier."""
    total = sum(len(group.numbers) * group.pairs for group in groups)
    crossing = sum(len(group.numbers) * parted(network, group, tier, where) for group in groups)
    return crossing / total if total else 0.0


def _up_to(had: Mapping[Group, int], loose: Iterable[Group], tier: int, network: Network) -> str:
    return f"{max(had[group] for group in loose)} {_domains(tier, network)}"


def _domains(tier: int, network: Network) -> str:
    return "nodes" if tier == 0 else f"domains of {network.tiers[tier]}"


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
