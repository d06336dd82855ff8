"""Which links carry what: bytes that the busiest rank sends over each tier of the network, in a step and for a prompt.

Volumes of the algorithms that `moe_plan.cost.collectives` times: rings or trees tier by tier, and an all-to-all that
crosses a tier once for each party that holds one of a token's experts.
"""

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from moe_plan.cost.collectives import distinct_targets, ranks_together
from moe_plan.hardware import Hardware, LinkTier
from moe_plan.kv import ELEMENT_BYTES
from moe_plan.layout import Dimension, Layout
from moe_plan.model import ModelShape, MoeFfn
from moe_plan.plan import Plan, Stage
from moe_plan.shares import kinds_in, layer_kinds
from moe_plan.subject import Subject


@dataclass(frozen=True, slots=True)
class Flow:
    """One kind of message over one tier."""

    what: str
    """tp all-reduce, dispatch, combine or stage boundary."""
    dimension: Dimension
    tier: LinkTier
    parties: int
    """Ranks, nodes or domains that talk over this tier in one group."""
    decode_bytes: float
    """Sent by a rank in one decode step."""
    prompt_bytes: float
    """Sent by a rank while one prompt of the workload is computed."""

    @property
    def decode_s(self) -> float:
        """Least time on the link in a decode step: its bytes at full rate."""
        return self.decode_bytes / self.tier.bandwidth_bytes_per_s


@dataclass(frozen=True, slots=True)
class Crossing:
    """A tier that a group spans, with the parties that talk over it."""

    tier: LinkTier
    parties: int


def crossings(layout: Layout, dimension: Dimension, hardware: Hardware) -> tuple[Crossing, ...]:
    """The tiers that groups along a dimension span, narrowest first; none for groups of one."""
    extent, stride = layout.degree(dimension), layout.stride(dimension)
    found, inside = [], 1
    for tier in hardware.links:
        widest = tier is hardware.links[-1]
        here = extent if widest else max(inside, ranks_together(layout.world, stride, extent, tier.gpus))
        if here > inside:
            found.append(Crossing(tier, math.ceil(here / inside)))
            inside = here
    return tuple(found)


def flows(subject: Subject, plan: Plan) -> tuple[Flow, ...]:
    """All that a rank sends; kinds of messages and tiers that a layout has not are left out."""
    layout = Layout(plan.degrees.ep, plan.degrees.tp, plan.degrees.pp, plan.rank_order)
    decode, prompt = float(plan.prediction.batch_per_shard), float(subject.spec.workload.input_tokens)
    across = {dimension: crossings(layout, dimension, subject.hardware) for dimension in layout.rank_order}
    found = [
        *_all_reduce(subject.shape, plan.stages, across["tp"], decode, prompt),
        *_all_to_all("dispatch", subject.shape, plan.stages, across["ep"], decode, prompt),
        *_all_to_all("combine", subject.shape, plan.stages, across["ep"], decode, prompt),
        *_boundary(subject.shape, across["pp"], decode, prompt),
    ]
    return tuple(found)


def _all_reduce(
    shape: ModelShape, stages: Iterable[Stage], across: tuple[Crossing, ...], decode: float, prompt: float
) -> Iterator[Flow]:
    """Two a layer and one after the embedding; each sends 2(n-1)/n of its bytes, and 1/n of them to the next tier."""
    count = max(2 * stage.layers + stage.embedding for stage in stages)
    token_bytes: float = shape.hidden * _element(shape) * count
    for crossing in across:
        sent = 2 * (crossing.parties - 1) / crossing.parties * token_bytes
        yield Flow("tp all-reduce", "tp", crossing.tier, crossing.parties, decode * sent, prompt * sent)
        token_bytes /= crossing.parties


def _all_to_all(
    what: str,
    shape: ModelShape,
    stages: Iterable[Stage],
    across: tuple[Crossing, ...],
    decode: float,
    prompt: float,
) -> Iterator[Flow]:
    """A token's row once for each other party of a tier that holds one of its experts."""
    size, inside = math.prod(crossing.parties for crossing in across), 1
    for crossing in across:
        parties = crossing.parties
        token_bytes = max(
            sum(
                _row_bytes(shape, ffn) * distinct_targets(size / inside, ffn.top_k) * (parties - 1) / parties * count
                for ffn, count in _moe_layers(shape, stage)
            )
            for stage in stages
        )
        yield Flow(what, "ep", crossing.tier, parties, decode * token_bytes, prompt * token_bytes)
        inside *= parties


def _boundary(shape: ModelShape, across: tuple[Crossing, ...], decode: float, prompt: float) -> Iterator[Flow]:
    """Hidden states to the next stage, over the widest tier that the pipeline spans."""
    for crossing in across[-1:]:
        token_bytes = shape.hidden * _element(shape)
        yield Flow("stage boundary", "pp", crossing.tier, crossing.parties, decode * token_bytes, prompt * token_bytes)


def _moe_layers(shape: ModelShape, stage: Stage) -> Iterator[tuple[MoeFfn, int]]:
    kinds = layer_kinds(shape)
    for kind, count in kinds_in(shape, stage).items():
        ffn = kinds[kind].ffn
        if isinstance(ffn, MoeFfn):
            yield ffn, count


def _row_bytes(shape: ModelShape, ffn: MoeFfn) -> int:
    return (ffn.expert_hidden or shape.hidden) * _element(shape)


def _element(shape: ModelShape) -> int:
    return ELEMENT_BYTES[shape.formats.compute]
