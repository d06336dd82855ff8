"""Which links carry what: bytes that the busiest rank sends over each tier of the network, in a step and for a prompt.

Volumes of the algorithms that `moe_plan.cost.collectives` times. An all-reduce counts 2(n-1)/n of its message, the
least there is. An all-to-all counts what the quicker of its two ways sends: directly, once to each chosen expert; or in
stages, once across a tier for each party there that holds one of a token's experts.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from moe_plan.cost.collectives import (
    Span,
    direct_all_to_all_s,
    distinct_targets,
    spans,
    staged_all_to_all_s,
)
from moe_plan.cost.constants import constants, engine
from moe_plan.cost.predict import profile_name
from moe_plan.kv import ELEMENT_BYTES
from moe_plan.layout import Dimension, Layout
from moe_plan.model import MoeFfn
from moe_plan.plan import Plan, Stage
from moe_plan.shares import kinds_in, layer_kinds
from moe_plan.subject import Subject


@dataclass(frozen=True, slots=True)
class Flow:
    """One kind of message over one tier."""

    what: str
    """tp all-reduce, dispatch, combine or stage boundary."""
    dimension: Dimension
    tier: Span
    """The link, and the parties of one group that talk over it."""
    decode_bytes: float
    """Sent by a rank in one decode step."""
    prompt_bytes: float
    """Sent by a rank while one prompt of the workload is computed."""

    @property
    def parties(self) -> int:
        """Ranks, nodes or domains that talk over the tier in one group."""
        return int(self.tier.fanout)

    @property
    def decode_s(self) -> float:
        """Least time on the link in a decode step: its bytes at full rate."""
        return self.decode_bytes / self.tier.bandwidth_bytes_per_s


@dataclass(frozen=True)
class Sender:
    """The busiest rank: what it sends a token depends on how many tokens it has."""

    subject: Subject
    stages: tuple[Stage, ...]
    profile: str
    tokens: tuple[float, float]
    """Of a decode step, and of one prompt."""
    over: dict[Dimension, tuple[Span, ...]] = field(default_factory=dict)

    @property
    def row_bytes(self) -> int:
        """One hidden state in the compute format."""
        shape = self.subject.shape
        return shape.hidden * ELEMENT_BYTES[shape.formats.compute]


def flows(subject: Subject, plan: Plan) -> tuple[Flow, ...]:
    """All that a rank sends; kinds of messages and tiers that a layout has not are left out."""
    layout = Layout(plan.degrees.ep, plan.degrees.tp, plan.degrees.pp, plan.rank_order)
    sender = Sender(
        subject,
        plan.stages,
        profile_name(plan.engine, subject.hardware),
        (float(plan.prediction.batch_per_shard), float(subject.spec.workload.input_tokens)),
        {dimension: spans(layout, dimension, subject.hardware) for dimension in layout.rank_order},
    )
    own = ELEMENT_BYTES[subject.shape.formats.compute]
    dispatched = min(own, ELEMENT_BYTES.get(engine(sender.profile).dispatch_format, own))
    return (
        *_all_reduce(sender),
        *_all_to_all("dispatch", sender, dispatched),
        *_all_to_all("combine", sender, own),
        *_boundary(sender),
    )


def _all_reduce(sender: Sender) -> Iterator[Flow]:
    """Two a layer and one after the embedding; each passes 1/n of its bytes on to the next tier."""
    count = max(2 * stage.layers + stage.embedding for stage in sender.stages)
    token_bytes = float(sender.row_bytes * count)
    decode, prompt = sender.tokens
    for span in sender.over["tp"]:
        parties = int(span.fanout)
        sent = 2 * (parties - 1) / parties * token_bytes
        yield Flow("tp all-reduce", "tp", span, decode * sent, prompt * sent)
        token_bytes /= parties


def _all_to_all(what: str, sender: Sender, element_bytes: int) -> Iterator[Flow]:
    """The rows of each MoE layer of the stage that has most of them."""
    decode, prompt = (_exchanged(sender, tokens, element_bytes) for tokens in sender.tokens)
    for span, in_decode, in_prompt in zip(sender.over["ep"], decode, prompt, strict=True):
        yield Flow(what, "ep", span, in_decode, in_prompt)


def _exchanged(sender: Sender, tokens: float, element_bytes: int) -> list[float]:
    """Bytes over each tier for so many tokens of a rank."""
    over, kinds = sender.over["ep"], layer_kinds(sender.subject.shape)
    each = [_layer_bytes(kind.ffn, sender, tokens, element_bytes) for kind in kinds]
    stages = [kinds_in(sender.subject.shape, stage) for stage in sender.stages]
    return [
        max(sum(each[kind][tier] * n for kind, n in stage.items()) for stage in stages) for tier in range(len(over))
    ]


def _layer_bytes(ffn: object, sender: Sender, tokens: float, element_bytes: int) -> list[float]:
    """Bytes over each tier for one layer, by the quicker way."""
    over = sender.over["ep"]
    if not isinstance(ffn, MoeFfn):
        return [0.0] * len(over)
    row_bytes = (ffn.expert_hidden or sender.subject.shape.hidden) * element_bytes
    ways = (
        (direct_all_to_all_s, _direct_copies(ffn.top_k, over)),
        (staged_all_to_all_s, _staged_copies(ffn.top_k, over)),
    )
    of = constants().collectives
    _, copies = min(ways, key=lambda way: float(way[0](tokens, row_bytes, ffn.top_k, over, of)))
    return [tokens * row_bytes * sent for sent in copies]


def _direct_copies(choices: int, over: Sequence[Span]) -> list[float]:
    """Of a token's rows, one for each chosen expert, those that end in another party of each tier."""
    fanouts = [int(span.fanout) for span in over]
    size = math.prod(fanouts)
    return [choices * (n - 1) * math.prod(fanouts[:tier]) / size for tier, n in enumerate(fanouts)]


def _staged_copies(choices: int, over: Sequence[Span]) -> list[float]:
    """Other parties of each tier that hold one of a token's experts."""
    fanouts = [int(span.fanout) for span in over]
    sizes = [math.prod(fanouts[tier:]) for tier in range(len(fanouts))]
    return [float(distinct_targets(size, choices)) * (n - 1) / n for size, n in zip(sizes, fanouts, strict=True)]


def _boundary(sender: Sender) -> Iterator[Flow]:
    """Hidden states to the next stage, over the widest tier that the pipeline spans."""
    decode, prompt = sender.tokens
    for span in sender.over["pp"][-1:]:
        yield Flow("stage boundary", "pp", span, decode * sender.row_bytes, prompt * sender.row_bytes)
