"""The network as a tree of domains: nodes, then one tier a level, then the cluster.

A domain of a level holds the nodes that agree in that level's label and in those of all wider levels, so that the same
rack name in two zones means two racks. A node without a label shares its domain only with the nodes that it shares
the next narrower domain with: nobody is near to what is unknown. Levels that part the nodes no further than a
narrower one, or not at all, make no tier of their own.
"""

import re
import tomllib
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cache, lru_cache
from pathlib import Path

from moe_operator.placement.nodes import HOSTNAME, Node

_FILE = Path(__file__).with_name("levels.toml")
_DIGITS = re.compile(r"(\d+)")

CLUSTER = "the cluster"

Labels = tuple[str | None, ...]
"""Values of a node's levels, narrowest first."""


@dataclass(frozen=True, slots=True)
class Network:
    """Tiers 0 (a node) to `top` (the cluster); domains are numbered within their tier, nodes as in `names`."""

    names: tuple[str, ...]
    """Name of each node."""
    tiers: tuple[str, ...]
    """What each tier is: a label, or 'the cluster' for the topmost."""
    tier_of: dict[str, int]
    """Tier of each level; levels that make no tier of their own are the tier that they amount to."""
    home: tuple[int, ...]
    """Domain of tier 1 of each node."""
    paths: tuple[tuple[int, ...], ...]
    """Domains of each domain of tier 1, by tier from 1 to the top."""
    children: tuple[tuple[tuple[int, ...], ...], ...]
    """Domains of tier t − 1 in each domain of tier t, by t from 1; for t = 1 nodes."""
    labels: tuple[tuple[str, ...], ...]
    """What each domain of a tier is called, by tier."""

    values: tuple[tuple[str, ...], ...]
    """A node's labels by level, of one node of each domain of tier 1."""
    levels: tuple[str, ...]
    """Levels that `values` are of."""

    @property
    def top(self) -> int:
        """The tier of the cluster."""
        return len(self.tiers) - 1

    def domain(self, tier: int, node: int) -> int:
        """The domain of a tier that a node is in."""
        return node if tier == 0 else self.paths[self.home[node]][tier - 1]

    def named(self, level: str, domain: int) -> str:
        """What a domain of a level's tier is called at that level."""
        tier = self.tier_of[level]
        if tier == 0 or level not in self.levels:
            return self.labels[tier][domain]
        inside = next(i for i, path in enumerate(self.paths) if path[tier - 1] == domain)
        return self.values[inside][self.levels.index(level)]


@cache
def default_levels() -> tuple[str, ...]:
    """Labels that tell where a node stands, of clouds and label writers known, narrowest first."""
    return tuple(level["label"] for level in tomllib.loads(_FILE.read_text(encoding="utf-8"))["level"])


@cache
def weights() -> dict[str, int]:
    """What a tier climbed costs, by kind of group."""
    return dict(tomllib.loads(_FILE.read_text(encoding="utf-8"))["weights"])


@lru_cache(maxsize=65536)
def natural(name: str) -> tuple[int | str, ...]:
    """Sorting key that puts node-9 before node-10."""
    return tuple(int(part) if i % 2 else part for i, part in enumerate(_DIGITS.split(name)))


def make_network(nodes: Sequence[Node], levels: Sequence[str]) -> Network:
    """The tree of `nodes`. Without `levels`, those of the known ones that nodes carry and that lie within each other."""
    wanted = [level for level in levels or default_levels() if level != HOSTNAME]
    known = set[str]().union(*(node.labels for node in nodes))
    carried = [level for level in wanted if level in known]
    if not levels:
        carried = _nested({tuple(map(node.labels.get, carried)) for node in nodes}, carried)
    values = [_known(tuple(map(node.labels.get, carried)), node) for node in nodes]
    return _tree(tuple(node.name for node in nodes), carried, values)


def _nested(values: Iterable[Labels], levels: Sequence[str]) -> list[str]:
    """Levels that do not cut most domains of a kept, narrower one in two."""
    distinct, kept = list(values), list[int]()
    for level in range(len(levels)):
        if not any(_cuts(distinct, level, narrower) for narrower in kept):
            kept.append(level)
    return [levels[level] for level in kept]


def _cuts(values: Sequence[Labels], level: int, narrower: int) -> bool:
    within = defaultdict(set)
    for value in values:
        if value[narrower] is not None and value[level] is not None:
            within[value[narrower]].add(value[level])
    return 2 * sum(len(wider) > 1 for wider in within.values()) > len(within)


def _known(values: Labels, node: Node) -> tuple[str, ...]:
    """The values with one of the node's own, or of its next narrower domain, where a label is missing."""
    if None not in values:
        return values  # type: ignore[return-value]  # no None in it
    known, below = [], f"node {node.name}"
    for value in values:
        below = value if value is not None else below if below.startswith("unknown, ") else f"unknown, {below}"
        known.append(below)
    return tuple(known)


def _tree(names: tuple[str, ...], levels: Sequence[str], values: Sequence[tuple[str, ...]]) -> Network:
    distinct = sorted(set(values), key=lambda value: tuple(natural(v) for v in reversed(value)))
    tiers, tier_of = _tiers(distinct, levels, len(names))
    at = [levels.index(name) for name in tiers[1:-1]]
    numbers: list[dict[tuple[str, ...], int]] = [{} for _ in tiers[1:]]
    path_of, labels = {}, [list[str]() for _ in tiers[1:]]
    for value in distinct:
        path = []
        for t, level in enumerate([*at, len(levels)]):
            number = numbers[t].setdefault(value[level:], len(numbers[t]))
            if number == len(labels[t]):
                labels[t].append(value[level] if level < len(levels) else CLUSTER)
            path.append(number)
        path_of[value] = tuple(path)
    paths = dict.fromkeys(path_of.values())
    return Network(
        names=names,
        tiers=tuple(tiers),
        tier_of=tier_of,
        home=tuple(path_of[value][0] for value in values),
        paths=tuple(paths),
        children=_children(tuple(path_of[value][0] for value in values), tuple(paths)),
        labels=(names, *map(tuple, labels)),
        values=tuple({path: value for value, path in path_of.items()}.values()),
        levels=tuple(levels),
    )


def _tiers(distinct: Sequence[tuple[str, ...]], levels: Sequence[str], nodes: int) -> tuple[list[str], dict[str, int]]:
    """The levels that part the nodes anew, between the node and the cluster; and the tier of every level."""
    tiers, tier_of, domains = [HOSTNAME], {HOSTNAME: 0}, nodes
    whole: list[str] = []
    for i, level in enumerate(levels):
        count = len({value[i:] for value in distinct})
        if count <= 1:
            whole.append(level)
        elif count < domains:
            tiers.append(level)
        tier_of[level] = len(tiers) - 1
        domains = count
    tiers.append(CLUSTER)
    return tiers, tier_of | dict.fromkeys(whole, len(tiers) - 1)


def _children(home: Sequence[int], paths: Sequence[tuple[int, ...]]) -> tuple[tuple[tuple[int, ...], ...], ...]:
    nodes = [list[int]() for _ in paths]
    for node, domain in enumerate(home):
        nodes[domain].append(node)
    tiers = [tuple(map(tuple, nodes))]
    for t in range(1, len(paths[0]) if paths else 0):
        below: defaultdict[int, dict[int, None]] = defaultdict(dict)
        for path in paths:
            below[path[t]][path[t - 1]] = None
        tiers.append(tuple(tuple(below[domain]) for domain in sorted(below)))
    return tuple(tiers)
