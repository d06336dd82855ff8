"""The prediction of one plan: its layout and workload as a case, the forecast as part of the plan."""

from collections.abc import Sequence

from moe_plan.cost.collectives import spans
from moe_plan.cost.constants import constants, engine, interval
from moe_plan.cost.kernels import Experts, Setting
from moe_plan.cost.serving import Forecast, forecast
from moe_plan.cost.step import Case, StageClass
from moe_plan.hardware import Hardware
from moe_plan.kv import ELEMENT_BYTES, growing_bytes
from moe_plan.layout import Layout
from moe_plan.model import ModelShape
from moe_plan.plan import ExpertMap, KvCache, Prediction, Stage
from moe_plan.shares import busiest_load, kinds_in, layer_kinds
from moe_plan.spec import Workload


def predict(
    shape: ModelShape,
    layout: Layout,
    experts: ExpertMap,
    stages: Sequence[Stage],
    hardware: Hardware,
    workload: Workload,
    replicas: int,
    micro_batches: int,
    kv: KvCache,
    engine_name: str = "moe",
    step_tokens: int | None = None,
    skew: float | None = None,
) -> Prediction:
    """What a layout makes of a workload: concurrency dealt over replicas and shards, as far as the KV cache allows.

    In mode training the figures are those of serving all the same. With no replicas the times are one replica's and
    the rate is 0. `step_tokens` bounds the new tokens of a shard's step; the engine's own bound when not given. `skew` is
    by how much measured routing raises the busiest rank's load; power-law routing's when not given.
    """
    setting = make_setting(shape, hardware, engine_name, _cached_element_bytes(shape, layout, stages, kv), step_tokens)
    case = make_case(
        shape, layout, experts, stages, hardware, workload, replicas, micro_batches, kv.requests_per_shard, skew
    )
    found = forecast(setting, case)
    served = found.tokens_per_s if replicas else 0.0
    return _prediction(found, float(served), max(1, replicas) * layout.world)


def make_setting(
    shape: ModelShape, hardware: Hardware, engine_name: str, cache_bytes: int, step_tokens: int | None = None
) -> Setting:
    """What all layouts of a manifest have in common. `cache_bytes` is of one element of the KV cache."""
    profile = engine(profile_name(engine_name, hardware))
    return Setting(shape, hardware, profile, constants(), cache_bytes, step_tokens or profile.step_tokens)


def profile_name(engine_name: str, hardware: Hardware) -> str:
    """The bundled runtime's ranks on CPUs have a profile of their own."""
    return "moe-cpu" if engine_name == "moe" and hardware.device == "cpu" else engine_name


def make_case(
    shape: ModelShape,
    layout: Layout,
    experts: ExpertMap,
    stages: Sequence[Stage],
    hardware: Hardware,
    workload: Workload,
    replicas: int,
    micro_batches: int,
    kv_requests: int,
    skew: float | None = None,
) -> Case:
    """One layout and workload as a case of numbers."""
    return Case(
        tp=layout.tp,
        pp=layout.pp,
        shards=layout.ep,
        experts=make_experts(experts, layout, skew),
        tp_links=spans(layout, "tp", hardware),
        ep_links=spans(layout, "ep", hardware),
        pp_links=spans(layout, "pp", hardware),
        stages=stage_classes(shape, stages),
        replicas=max(1, replicas),
        micro_batches=micro_batches,
        concurrency=workload.concurrency,
        input_tokens=workload.input_tokens,
        output_tokens=workload.output_tokens,
        kv_requests=kv_requests,
    )


def make_experts(experts: ExpertMap, layout: Layout, skew: float | None = None) -> Experts:
    """How experts are dealt. `skew` is measured; a map made from loads that are not at hand is taken to leave none."""
    return Experts(
        logical=experts.logical,
        redundant=experts.redundant,
        per_rank=experts.per_rank,
        ep=layout.ep,
        tp=layout.tp,
        busiest=busiest_load(experts),
        imbalance=1.0 if skew is None and experts.exceptions else skew,
    )


def stage_classes(shape: ModelShape, stages: Sequence[Stage]) -> tuple[StageClass, ...]:
    """The distinct stages by what they hold, in order of appearance."""
    kinds = range(len(layer_kinds(shape)))
    found: dict[StageClass, None] = {}
    for stage in stages:
        held = kinds_in(shape, stage)
        found[StageClass(tuple(held.get(kind, 0) for kind in kinds), int(stage.embedding), int(stage.head))] = None
    return tuple(found)


def _prediction(found: Forecast, tokens_per_s: float, gpus: int) -> Prediction:
    ttft, tpot = float(found.ttft.total), float(found.tpot.total)
    (ttft_low, ttft_high), (tpot_low, tpot_high) = interval("ttft"), interval("tpot")
    return Prediction(
        ttft=ttft,
        ttft_interval=(ttft * ttft_low, ttft * ttft_high),
        ttft_parts=found.ttft.as_plan(),
        tpot=tpot,
        tpot_interval=(tpot * tpot_low, tpot * tpot_high),
        tpot_parts=found.tpot.as_plan(),
        tokens_per_s=tokens_per_s,
        tokens_per_s_per_gpu=tokens_per_s / gpus,
        batch_per_shard=int(found.batch),
    )


def _cached_element_bytes(shape: ModelShape, layout: Layout, stages: Sequence[Stage], kv: KvCache) -> int:
    """Bytes of one cached element, from what a token takes; the compute format's where no layer's cache grows."""
    kinds = layer_kinds(shape)
    elements = max(
        sum(
            growing_bytes(kinds[kind].attention, layout.tp, 1) * count for kind, count in kinds_in(shape, stage).items()
        )
        for stage in stages
    )
    return max(1, round(kv.bytes_per_token / elements)) if elements else ELEMENT_BYTES[shape.formats.compute]
