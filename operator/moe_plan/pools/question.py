"""What is asked of two pools, with every candidate for their workers."""

from collections.abc import Sequence
from dataclasses import dataclass
from math import inf

from moe_plan.cost.pools import Demand, admission_s
from moe_plan.errors import ManifestError, Violation
from moe_plan.hardware import LinkTier
from moe_plan.pools.workers import PoolRows, Workers, decode_workers, holding_prompts, pool_rows, prefill_workers
from moe_plan.search.space import Field, space
from moe_plan.search.sweep import make_setting_of
from moe_plan.subject import Subject


@dataclass(frozen=True, slots=True)
class Question:
    """What is asked of two pools, and the candidates for the workers of either, whatever their times."""

    subject: Subject
    max_gpus: int
    link: LinkTier
    prefill_rows: PoolRows
    decode_rows: PoolRows
    prefill: Workers
    decode: Workers


def ask(subject: Subject, link: LinkTier, most: int, keep: Sequence[Field]) -> Question:
    """Every layout that fits in either pool, with every batch. Raises ManifestError where no layout holds the model."""
    whole = space(subject, most, keep)
    to_prefill, to_decode = pool_rows(holding_prompts(subject), whole), pool_rows(subject, whole)
    if not len(to_decode.rows[0]):
        raise ManifestError((_none_fits(subject, most),))
    prefill, decode = prefill_workers(to_prefill, link), decode_workers(to_decode, link)
    return Question(subject, most, link, to_prefill, to_decode, prefill, decode)


def demand_of(subject: Subject, concurrency: float) -> Demand:
    """The targets, with up to so many requests at once."""
    workload, setting = subject.spec.workload, make_setting_of(subject)
    ttft = inf if workload.ttft is None else workload.ttft
    return Demand(workload.output_tokens, admission_s(setting), ttft, concurrency, setting.constants)


def _none_fits(subject: Subject, most: int) -> Violation:
    hardware = subject.hardware
    message = (
        f"no layout of up to {most:,} {hardware.name} GPUs, {hardware.gpus_per_node} a node, both splits "
        f"{subject.shape.name} evenly and holds it"
    )
    remedy = "give more GPUs with --gpus, or choose GPUs with more memory or a narrower dtype"
    return Violation("spec.parallelism", "NoLayoutFits", message, remedy)
