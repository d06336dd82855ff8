"""What a serving engine can express: layouts that it would run otherwise than planned, or not at all, are refused.

Every engine splits a model in its own way and numbers its ranks in its own order. A plan is placed and its memory
proved by ours, so an engine is given only layouts that mean the same to both.
"""

import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from moe_plan.errors import Violation
from moe_plan.layout import Dimension, Layout
from moe_plan.subject import Subject

FIELD = "spec.runtime.engine"


@dataclass(frozen=True, slots=True)
class Expressible:
    """What of a layout an engine can express; the fields are explained in engines.toml."""

    title: str
    version: str
    ranks: tuple[Dimension, ...]
    splits_experts: bool
    redundant_experts: bool
    spans: bool
    nodes: str
    sources: tuple[str, ...]


def engine_rules(subject: Subject, layout: Layout, redundant: int) -> Iterator[Violation]:
    """What of a layout the manifest's engine cannot express."""
    engine = engines().get(subject.spec.runtime.engine)
    if engine is not None:
        yield from _expert_rules(engine, layout, redundant)
        yield from _order_rules(engine, layout)
        yield from _node_rules(engine, layout, subject.hardware.gpus_per_node)


def expressible(subject: Subject, layout: Layout, redundant: int) -> bool:
    """Whether the manifest's engine can express a layout."""
    return not any(engine_rules(subject, layout, redundant))


@cache
def engines() -> Mapping[str, Expressible]:
    """Engines whose layouts are bounded, by the name that a manifest calls them."""
    data = tomllib.loads(Path(__file__).with_name("engines.toml").read_text())
    return {name: Expressible(**entry) for name, entry in data.items()}


def _expert_rules(engine: Expressible, layout: Layout, redundant: int) -> Iterator[Violation]:
    if not engine.splits_experts and layout.ep > 1 and layout.tp > 1:
        yield Violation(
            FIELD,
            "EngineCannotSplitExperts",
            f"{engine.title} either deals whole experts over ep ranks or splits them over tp ranks, so it cannot hold "
            f"ep {layout.ep:,} · tp {layout.tp:,}",
            "set tp or ep to 1, or engine to moe or sglang",
        )
    if not engine.redundant_experts and redundant:
        message = f"{engine.title} is not given redundant experts by this operator, but {redundant:,} are asked for"
        yield Violation(FIELD, "EngineWithoutRedundantExperts", message, "set redundantExperts to 0, or another engine")


def _order_rules(engine: Expressible, layout: Layout) -> Iterator[Violation]:
    """Only dimensions with more than one coordinate have a place in the order."""
    if _order(layout, engine.ranks) != _order(layout, layout.rank_order):
        yield Violation(
            FIELD,
            "EngineRankOrder",
            f"{engine.title} numbers ranks by {_names(engine.ranks)}, outermost first, not by {_names(layout.rank_order)}",
            f"set rankOrder to [{', '.join(engine.ranks)}], or engine to moe",
        )


def _node_rules(engine: Expressible, layout: Layout, per_node: int) -> Iterator[Violation]:
    if engine.nodes and layout.world > per_node:
        message = f"{engine.title} runs a replica within one node, since {engine.nodes}"
        remedy = f"choose degrees of at most {per_node} GPUs a replica, or engine moe, sglang or vllm"
        yield Violation(FIELD, "EngineNeedsOneNode", message, remedy)
        return
    outermost = engine.ranks[0]
    part = layout.world // layout.degree(outermost)
    per_slot = min(layout.world, per_node)
    if per_slot % part and not (engine.spans and part % per_slot == 0) and part != layout.world:
        held = "must lie in one node" if not engine.spans else "must fill whole nodes or lie in one"
        message = f"in {engine.title} the {part:,} ranks of one {outermost} coordinate {held} of {per_node} GPUs"
        yield Violation(FIELD, "EnginePartsNodes", message, "choose other degrees, or engine moe")


def _order(layout: Layout, order: tuple[Dimension, ...]) -> list[Dimension]:
    return [name for name in order if layout.degree(name) > 1]


def _names(order: tuple[Dimension, ...]) -> str:
    return ", ".join(order)
