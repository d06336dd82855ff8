"""What a search may choose from: each field of a layout is free, or kept at one value."""

from collections.abc import Iterable
from dataclasses import dataclass
from itertools import permutations
from typing import Literal

from moe_plan.layout import DIMENSIONS, Dimension
from moe_plan.rules import valid_tp
from moe_plan.spec import MAX_GPUS
from moe_plan.subject import Subject

Field = Literal["ep", "tp", "pp", "replicas", "redundantExperts", "rankOrder", "microBatches"]
FIELDS: tuple[Field, ...] = ("ep", "tp", "pp", "replicas", "redundantExperts", "rankOrder", "microBatches")
"""What a search varies, as the manifest names it."""


@dataclass(frozen=True, slots=True)
class Space:
    """The values of each field. None means all that the algebra allows."""

    max_gpus: int
    """GPUs of the whole deployment at most."""
    tp: tuple[int, ...]
    pp: tuple[int, ...]
    rank_orders: tuple[tuple[Dimension, ...], ...]
    """The first of those that are alike is taken."""
    ep: int | None = None
    redundant: int | None = None
    replicas: int | None = None
    micro_batches: int | None = None

    @property
    def max_world(self) -> int:
        """GPUs of one replica at most."""
        return min(MAX_GPUS, self.max_gpus // (self.replicas or 1))


def space(subject: Subject, max_gpus: int, keep: Iterable[Field]) -> Space:
    """Everything but what is kept as the manifest has it; `auto` is free in any case."""
    kept, parallelism = set(keep), subject.spec.parallelism
    layers = len(subject.shape.layers)

    def value(field: Field, given: int | Literal["auto"]) -> int | None:
        return given if field in kept and given != "auto" else None

    tp, pp = value("tp", parallelism.tp), value("pp", parallelism.pp)
    others = [order for order in permutations(DIMENSIONS) if order != parallelism.rank_order]
    return Space(
        max_gpus=max_gpus,
        tp=valid_tp(subject) if tp is None else (tp,),
        pp=tuple(range(1, layers + 1)) if pp is None else (pp,),
        rank_orders=(parallelism.rank_order, *(() if "rankOrder" in kept else others)),
        ep=value("ep", parallelism.ep),
        redundant=value("redundantExperts", parallelism.redundant_experts),
        replicas=value("replicas", max(1, subject.spec.replicas)),
        micro_batches=value("microBatches", parallelism.micro_batches),
    )
