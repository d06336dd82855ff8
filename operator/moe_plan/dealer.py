"""Deals experts by measured loads, and tells how evenly they then fall on the ranks.

How evenly is remembered, since a search asks again and again; the maps themselves are too large for that.
"""

from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np

from moe_plan.experts import deal, physical_to_logical
from moe_plan.loads import ExpertLoads
from moe_plan.packing import Bools, Floats, Ints, Packing, fullest_share, pack_by_load
from moe_plan.plan import ExpertMap
from moe_plan.search.arrays import distinct
from moe_plan.shares import busiest_load

_BETTER = 1 - 1e-9
"""Share of what a layer has without loads below which it is better dealt by them."""


class Evenness(NamedTuple):
    """How evenly experts dealt by load fall on ranks."""

    imbalance: float
    """Tokens of the fullest ep coordinate over the mean, as a mean over the MoE layers."""
    busiest: float
    """`shares.busiest_load` of the map."""
    skew: float
    """By how much routing raises the busiest rank's load above that."""


class EvennessColumns(NamedTuple):
    """The same of many candidates, `[candidates]` each."""

    busiest: Floats
    skew: Floats


class _Dealt(NamedTuple):
    """One way of dealing, layer by layer."""

    packing: Packing
    better: Bools
    """Whether the packing is better than even dealing, `[MoE layers]`."""
    fullest: Floats
    """Share of the layer's tokens on the fullest ep coordinate, `[MoE layers]`."""


@dataclass(frozen=True, eq=False)
class Dealer:
    """Deals the experts of one trace."""

    loads: ExpertLoads
    _known: dict[tuple[int, int], Evenness] = field(default_factory=dict)
    _shares: Floats = field(init=False)
    """Share of the layer's tokens that each logical expert has, `[MoE layers, experts]`."""

    def __post_init__(self) -> None:
        counts = np.asarray([self.loads.layers[layer] for layer in self._layers], dtype=np.float64)
        object.__setattr__(self, "_shares", counts / counts.sum(axis=1, keepdims=True))

    @property
    def _layers(self) -> list[int]:
        return sorted(self.loads.layers)

    @property
    def _logical(self) -> int:
        return int(self._shares.shape[1])

    def deal(self, redundant: int, ep: int) -> ExpertMap:
        """Experts by load, layer by layer; never less even than without the loads. The counts must have passed the rules."""
        dealt = self._dealt(redundant, ep)
        rows = zip(self._layers, dealt.packing.physical().tolist(), dealt.better, strict=True)
        kept = {layer: tuple(row) for layer, row, better in rows if better}
        return deal(self._logical, redundant, ep).model_copy(update={"exceptions": kept})

    def evenness(self, redundant: int, ep: int) -> Evenness:
        """How evenly experts so dealt fall on ranks."""
        known = self._known.get((redundant, ep))
        if known is None:
            dealt = self._dealt(redundant, ep)
            imbalance = ep * float(dealt.fullest.mean())
            busiest = 1 / ep if dealt.better.any() else busiest_load(deal(self._logical, redundant, ep))
            known = self._known[redundant, ep] = Evenness(imbalance, busiest, imbalance / (ep * busiest))
        return known

    def columns(self, ep: Ints, per_rank: Ints) -> EvennessColumns:
        """The same over ep coordinates of `per_rank` physical experts, `[candidates]` each."""
        first, which = distinct(ep, per_rank)
        pairs = zip(ep[first].tolist(), per_rank[first].tolist(), strict=True)
        found = [self.evenness(degree * each - self._logical, degree) for degree, each in pairs]
        table = np.asarray([(of.busiest, of.skew) for of in found]).reshape(-1, 2)
        return EvennessColumns(*table[which].T)

    def imbalance(self, experts: ExpertMap) -> float:
        """Tokens of the fullest ep coordinate over the mean, as a mean over the MoE layers, under some map."""
        ep = (experts.logical + experts.redundant) // experts.per_rank
        return ep * float(self._fullest(experts).mean())

    def _dealt(self, redundant: int, ep: int) -> _Dealt:
        packing = pack_by_load(self._shares, redundant, ep)
        before = self._fullest(deal(self._logical, redundant, ep))
        better = packing.packed.fullest < _BETTER * before
        return _Dealt(packing, better, np.where(better, packing.packed.fullest, before))

    def _fullest(self, experts: ExpertMap) -> Floats:
        even = physical_to_logical(experts, layer=-1)
        physical = np.tile(np.asarray(even), (len(self._shares), 1))
        for row, layer in enumerate(self._layers):
            if layer in experts.exceptions:
                physical[row] = experts.exceptions[layer]
        return fullest_share(self._shares, physical, len(even) // experts.per_rank)
