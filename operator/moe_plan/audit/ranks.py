"""GPUs that a document assigns by number, held against the rank order that explains most of them."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import permutations

from moe_plan.audit.recognise import Mention
from moe_plan.audit.verdict import Fact
from moe_plan.layout import DIMENSIONS, Coordinate, Layout

MAX_WORLD = 65_536
"""Largest replica whose ranks are enumerated; a document may state any degree."""


@dataclass(frozen=True, slots=True)
class Assignment:
    """The layout that a document means."""

    layout: Layout
    layers: int
    gpus_per_node: int

    def members(self, quantity: str, index: int) -> tuple[int, ...]:
        """Ranks, or layers, of one group. Empty when there is no such group."""
        layout = self.layout
        match quantity:
            case "ep_members" if index < layout.ep:
                return layout.group(("pp", "tp"), layout.rank(Coordinate(0, index, 0)))
            case "pp_members" if index < layout.pp:
                return layout.group(("tp",), layout.rank(Coordinate(index, 0, 0)))
            case "ep_peers":
                return layout.group(("ep",), 0)
            case "stage_layers" if index < layout.pp and self.layers % layout.pp == 0:
                size = self.layers // layout.pp
                return tuple(range(index * size, (index + 1) * size))
            case _:
                return ()

    def numbers(self) -> dict[str, float]:
        """What formulas may ask of the layout."""
        strides = {f"distance_along_{dimension}": float(self.layout.stride(dimension)) for dimension in DIMENSIONS}
        if not self.gpus_per_node:
            return strides
        nodes = {rank // self.gpus_per_node for rank in self.members("ep_members", 0)}
        return {**strides, "nodes_of_ep_coordinate": float(len(nodes))}

    def explains(self, mention: Mention) -> bool:
        """Whether a mention says what this layout says."""
        if mention.members:
            return mention.members == self.members(mention.quantity, mention.index)
        stride = self.numbers().get(f"distance_along_{mention.quantity.removesuffix('_stride')}")
        return mention.amount is not None and mention.amount.high == stride


def find_assignment(facts: dict[str, Fact], mentions: Sequence[Mention]) -> Assignment | None:
    """The layout in the rank order that explains most mentions, the default order first.

    None when a degree is not stated or the layout is too large to enumerate.
    """
    degrees = {name: facts[name].value if name in facts else 1.0 for name in ("ep", "tp", "pp")}
    if "ep" not in facts or max(degrees.values()) > MAX_WORLD or not all(map(float.is_integer, degrees.values())):
        return None
    ep, tp, pp = (int(degrees[name]) for name in ("ep", "tp", "pp"))
    if ep * tp * pp > MAX_WORLD:
        return None
    layers = int(facts["layers"].value) if "layers" in facts and facts["layers"].value <= MAX_WORLD else 0
    node = int(facts["gpus_per_node"].value) if "gpus_per_node" in facts else 0
    telling = [m for m in mentions if m.quantity in ("ep_members", "pp_members") or m.quantity.endswith("_stride")]
    candidates = [Assignment(Layout(ep, tp, pp, order), layers, node) for order in permutations(DIMENSIONS)]
    return max(candidates, key=lambda candidate: sum(map(candidate.explains, telling)))
