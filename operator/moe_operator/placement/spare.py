"""Nodes with room, those that are interchangeable counted as one."""

from collections import defaultdict
from collections.abc import Iterator, Sequence

from moe_operator.placement.network import Network, natural


class Spare:
    """Room on nodes while slots come and go.

    Nodes of one domain of tier 1 that hold equally much are alike while no slot is on them.
    """

    def __init__(self, network: Network, capacity: Sequence[int], where: Sequence[int]) -> None:
        self.room = {node: slots for node, slots in enumerate(capacity) if slots > 0}
        self._network = network
        self._load: defaultdict[int, int] = defaultdict(int)
        alike: defaultdict[tuple[int, int], list[int]] = defaultdict(list)
        for node, slots in self.room.items():
            alike[network.home[node], slots].append(node)
        self._alike = [sorted(alike[key], key=lambda node: natural(network.names[node])) for key in sorted(alike)]
        for node in where:
            self.take(node)

    def take(self, node: int) -> None:
        """Put a slot on a node."""
        self.room[node] -= 1
        self._load[node] += 1

    def give(self, node: int) -> None:
        """Take a slot off a node."""
        self.room[node] += 1
        self._load[node] -= 1

    def in_use(self) -> list[int]:
        """Nodes with slots on them and room for another, by number."""
        return sorted(node for node, load in self._load.items() if load and self.room[node] > 0)

    def empty(self) -> Iterator[int]:
        """One of each lot of alike nodes with room and no slot on them."""
        for nodes in self._alike:
            node = next((node for node in nodes if not self._load.get(node)), None)
            if node is not None:
                yield node

    def near(self) -> list[int]:
        """Of `empty`, the nodes in domains of tier 1 that hold slots."""
        homes = {self._network.home[node] for node, load in self._load.items() if load}
        return [node for node in self.empty() if self._network.home[node] in homes]
