"""Deals experts by measured loads, and tells how evenly they then fall on the ranks; what was worked out is remembered."""

from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np

from moe_plan.experts import deal, physical_to_logical
from moe_plan.loads import ExpertLoads
from moe_plan.packing import Floats, Ints, fullest_share, physical_by_load
from moe_plan.plan import ExpertMap
from moe_plan.shares import busiest_load


@dataclass(frozen=True, slots=True)
class Dealing:
    """Experts dealt by load."""

    experts: ExpertMap
    imbalance: float
    """Tokens of the fullest ep coordinate over the mean, as a mean over the MoE layers."""

    @property
    def ep(self) -> int:
        """ep coordinates that they are dealt over."""
        return (self.experts.logical + self.experts.redundant) // self.experts.per_rank

    @property
    def skew(self) -> float:
        """By how much routing raises the busiest rank's load above what equally wanted experts would give it."""
        return self.imbalance / (self.ep * busiest_load(self.experts))


class DealingColumns(NamedTuple):
    """The same of many candidates, `[candidates]` each."""

    busiest: Floats
    """`shares.busiest_load`."""
    skew: Floats


@dataclass(frozen=True, eq=False)
class Dealer:
    """Deals the experts of one trace."""

    loads: ExpertLoads
    _known: dict[tuple[int, int], Dealing] = field(default_factory=dict)
    _shares: Floats = field(init=False)
    """Share of the layer's tokens that each logical expert has, `[MoE layers, experts]`."""

    def __post_init__(self) -> None:
        counts = np.asarray([self.loads.layers[layer] for layer in self._layers], dtype=np.float64)
        object.__setattr__(self, "_shares", counts / counts.sum(axis=1, keepdims=True))

    @property
    def _layers(self) -> list[int]:
        return sorted(self.loads.layers)

    def deal(self, redundant: int, ep: int) -> Dealing:
        """Experts by load, layer by layer; never less even than without the loads. The counts must have passed the rules."""
        known = self._known.get((redundant, ep))
        if known is None:
            known = self._known[redundant, ep] = self._deal(redundant, ep)
        return known

    def columns(self, ep: Ints, per_rank: Ints) -> DealingColumns:
        """Dealings over ep coordinates of `per_rank` physical experts, `[candidates]` each."""
        pairs, inverse = np.unique(np.stack([ep, per_rank]), axis=1, return_inverse=True)
        dealings = [self.deal(e * each - self._shares.shape[1], e) for e, each in pairs.T.tolist()]
        found = np.asarray([(busiest_load(dealing.experts), dealing.skew) for dealing in dealings]).reshape(-1, 2)
        return DealingColumns(*found[inverse.ravel()].T)

    def _deal(self, redundant: int, ep: int) -> Dealing:
        even = deal(self._shares.shape[1], redundant, ep)
        as_even = physical_to_logical(even, layer=-1)
        before = self._fullest(even)
        physical, fullest = physical_by_load(self._shares, redundant, ep)
        kept = {
            layer: tuple(row)
            for layer, row, better in zip(self._layers, physical.tolist(), fullest < before, strict=True)
            if better and tuple(row) != as_even
        }
        experts = even.model_copy(update={"exceptions": kept})
        return Dealing(experts, ep * float(np.minimum(fullest, before).mean()))

    def imbalance(self, experts: ExpertMap) -> float:
        """Tokens of the fullest ep coordinate over the mean, as a mean over the MoE layers, under some map."""
        ep = (experts.logical + experts.redundant) // experts.per_rank
        return ep * float(self._fullest(experts).mean())

    def _fullest(self, experts: ExpertMap) -> Floats:
        physical = np.asarray([physical_to_logical(experts, layer) for layer in self._layers])
        return fullest_share(self._shares, physical, physical.shape[1] // experts.per_rank)
