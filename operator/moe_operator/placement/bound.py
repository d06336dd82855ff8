"""A cost below which no placement can be: what each group would cost if it had the roomiest domains to itself.

The pairs of a group that part at a tier are fewest when the roomiest domains are filled one after another, since the
sum of squares of the heaps is then largest.
"""

from collections.abc import Iterator, Sequence
from heapq import nlargest

from moe_operator.placement.cost import Cost
from moe_operator.placement.groups import Group, apart


def lower_bound(cost: Cost, capacity: Sequence[int]) -> float:
    """A lower bound of the cost of any placement that puts no more slots on a node than it has capacity for."""
    talking, _ = cost.terms
    slots = cost.traffic.slots
    rooms = [nlargest(slots, found) for found in _rooms(cost, capacity)]
    return sum(weight * _least_climb(group, rooms, cost.network.top) for group, weight in talking)


def _rooms(cost: Cost, capacity: Sequence[int]) -> Iterator[list[int]]:
    """Slots that fit in each domain, by tier below the cluster."""
    network, rooms = cost.network, list(capacity)
    for children in network.children:
        yield rooms
        rooms = [sum(rooms[below] for below in domain) for domain in children]


def _least_climb(group: Group, rooms: Sequence[Sequence[int]], top: int) -> float:
    height = next((tier for tier, found in enumerate(rooms) if found[0] >= len(group.slots)), top)
    even = len(set(group.ranks)) == 1
    parted = sum(apart(_filled(group, found)) for found in rooms[:height]) if even else 0
    return height + parted / group.pairs / (top + 1)


def _filled(group: Group, rooms: Sequence[int]) -> Iterator[int]:
    """Ranks in each of the roomiest domains."""
    left = len(group.slots)
    for room in rooms:
        if left == 0:
            return
        yield min(room, left) * group.ranks[0]
        left -= min(room, left)
