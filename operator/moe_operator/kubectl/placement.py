"""Where a replica lies: slot to node to domains of the network, with its score and what lowers it. Pure."""

from collections.abc import Mapping, Sequence
from typing import Any

from moe_operator.cli.tables import table
from moe_operator.kubectl.holders import coordinates, ranks_of, spelt
from moe_operator.kubectl.status import fitted, wrapped
from moe_operator.placement.network import Network, make_network
from moe_operator.placement.nodes import nodes_from_objects
from moe_operator.reconcile.model import Object
from moe_plan.plan import Plan


def network_of(deployment: Object, nodes: Sequence[Object]) -> Network:
    """The network that placement follows, of the cluster as it is now."""
    levels = (deployment["spec"].get("topology") or {}).get("levels") or ()
    return make_network(nodes_from_objects(nodes, ()), tuple(levels))


def placement_lines(replica: Mapping[str, Any], plan: Plan, network: Network | None) -> list[str]:
    """One replica: score, misses, and a line for each slot. Without a network the domains are left out."""
    nodes = replica["nodes"]
    if not nodes:
        return [f"replica {replica['index']}: {replica['phase']}, no nodes yet"]
    score = replica["placementScore"] or "unknown"
    lines = [f"replica {replica['index']}: {replica['phase']}, {len(nodes)} slots, placement score {score}"]
    for miss in replica.get("placementMisses") or ():
        lines += wrapped(miss, "  ")
    levels = () if network is None else network.tiers[1:-1]
    if levels:
        lines += wrapped(f"levels, narrowest first: {', '.join(levels)}", "  ")
    rows = [(str(slot), *_held(plan, slot), node, *_domains(network, node)) for slot, node in enumerate(nodes)]
    header = ("slot", "ranks", "stages", "shards", "node", *(level.rpartition("/")[2] for level in levels))
    return [fitted(line) for line in (*lines, *table(rows, header=header))]


def _held(plan: Plan, slot: int) -> tuple[str, str, str]:
    """Ranks of a slot, and the stages and shards (ep coordinates) that they belong to."""
    held = list(coordinates(plan, slot))
    stages, shards = sorted({c.pp for c in held}), sorted({c.ep for c in held})
    return spelt(ranks_of(plan, slot)), spelt(stages), spelt(shards)


def _domains(network: Network | None, node: str) -> tuple[str, ...]:
    if network is None:
        return ()
    tiers = range(1, network.top)
    if node not in network.names:
        return tuple("gone" for _ in tiers)
    at = network.names.index(node)
    return tuple(network.labels[tier][network.domain(tier, at)] for tier in tiers)
