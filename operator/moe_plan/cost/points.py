"""Measured serving points: a row of lengths, concurrency and an engine's own degrees, as a case of the cost model.

Engines state their degrees otherwise than a manifest: attention is split over `tp` in each of `dp` shards, and the same
tp · dp ranks of a stage hold the experts as `ep` groups of `moe_tp`. This project's layouts are those with dp = ep.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import cache
from typing import Any

from moe_plan import spec
from moe_plan.catalogue.hardware import hardware_names, resolve_hardware
from moe_plan.catalogue.models import load_model, model_names
from moe_plan.config import read_config
from moe_plan.config.infer import infer_config
from moe_plan.config.quantization import COMPUTE_FORMATS, MXFP4, float8, int4
from moe_plan.cost.collectives import group_spans
from moe_plan.cost.kernels import Experts, Setting
from moe_plan.cost.predict import make_setting, stage_classes
from moe_plan.cost.step import Case
from moe_plan.errors import ManifestError, PlanError
from moe_plan.hardware import Hardware
from moe_plan.kv import ELEMENT_BYTES, fixed_bytes, growing_bytes
from moe_plan.model import Formats, ModelShape, NumberFormat
from moe_plan.shares import layer_share
from moe_plan.spec import WeightDtype
from moe_plan.stages import balance, layer_costs, make_stages

COUNTS = ("isl", "osl", "tp", "dp", "moe_tp", "ep", "pp")
"""Columns of whole numbers, at least 1."""

ENGINES = {
    "trtllm": "tensorrt-llm",
    "tensorrt-llm": "tensorrt-llm",
    "vllm": "vllm",
    "sglang": "sglang",
    "moe": "moe",
}
"""What `backend` may be, and the engine it names."""

MOST_TOKENS = 10**7
MOST_REQUESTS = 10**6
"""Bounds beyond which a length or a concurrency is a slip of the pen."""

_BY_BITS: dict[int, Callable[[], NumberFormat]] = {
    16: lambda: COMPUTE_FORMATS["bfloat16"],
    8: float8,
    4: lambda: MXFP4,
}
_FORMATS: dict[str, Callable[[], NumberFormat]] = {
    "bfloat16": _BY_BITS[16],
    "bf16": _BY_BITS[16],
    "float16": lambda: COMPUTE_FORMATS["float16"],
    "fp16": lambda: COMPUTE_FORMATS["float16"],
    "half": lambda: COMPUTE_FORMATS["float16"],
    "fp8": lambda: float8(1),
    "float8": float8,
    "fp8_block": float8,
    "fp8_static": lambda: float8(1),
    "int8_wo": _BY_BITS[8],
    "sq": _BY_BITS[8],
    "fp4": _BY_BITS[4],
    "nvfp4": _BY_BITS[4],
    "mxfp4": _BY_BITS[4],
    "w4a16_mxfp4": _BY_BITS[4],
    "w4a8_mxfp4_mxfp8": _BY_BITS[4],
    "w4afp8": int4,
    "int4": int4,
    "int4_wo": int4,
}
"""Names of number formats in measured points."""


@dataclass(frozen=True, slots=True)
class Point:
    """One measured deployment."""

    model: str
    """A Hugging Face repository."""
    system: str
    engine: str
    gemm_format: str
    moe_format: str
    isl: int
    osl: int
    tp: int
    dp: int
    moe_tp: int
    ep: int
    pp: int
    concurrency: float

    @property
    def gpus(self) -> int:
        """Ranks."""
        return self.tp * self.dp * self.pp


def parse_point(row: Mapping[str, str]) -> Point:
    """A row of a points file. Raises PlanError that names the column."""
    counts = {name: _count(row, name, MOST_TOKENS) for name in COUNTS}
    point = Point(
        model=_word(row, "model"),
        system=_word(row, "system"),
        engine=_engine(_word(row, "backend")),
        gemm_format=_format(row, "gemm_q"),
        moe_format=_format(row, "moe_q"),
        concurrency=_count(row, "concurrency", MOST_REQUESTS),
        **counts,
    )
    if point.tp * point.dp != point.moe_tp * point.ep:
        raise PlanError(
            f"tp {point.tp} · dp {point.dp} ranks compute attention, but moe_tp {point.moe_tp} · ep {point.ep} hold the "
            "experts; the two products must be equal"
        )
    return point


def _word(row: Mapping[str, str], name: str) -> str:
    value = (row.get(name) or "").strip()
    if not value:
        raise PlanError(f"{name} is empty")
    return value


def _count(row: Mapping[str, str], name: str, most: int) -> int:
    """A whole number of at least 1, which may be written with a decimal point."""
    text = _word(row, name)
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not value >= 1 or value != value // 1:
        raise PlanError(f"{name} must be a whole number of at least 1, not {text[:40]}")
    if value > most:
        raise PlanError(f"{name} is {text[:40]}; at most {most:,} are estimated")
    return int(value)


def _engine(backend: str) -> str:
    if backend.lower() not in ENGINES:
        raise PlanError(f"backend {backend[:40]!r} is not an engine with a profile; those are {', '.join(ENGINES)}")
    return ENGINES[backend.lower()]


def _format(row: Mapping[str, str], name: str) -> str:
    value = (row.get(name) or row.get("precision") or "").strip().lower()
    if value and value not in _FORMATS:
        raise PlanError(f"{name} {value[:40]!r} is not a number format; those are {', '.join(_FORMATS)}")
    return value


@cache
def find_hardware(system: str) -> Hardware:
    """A GPU by its name in a points file, such as h200_sxm. Raises PlanError when the catalogue has none like it."""
    wanted = system.lower().replace("_", "-")
    stem, _, form = wanted.partition("-")
    names = [name for name in hardware_names() if name == wanted] or [
        name for name in hardware_names() if name.partition("-")[0] == stem and form in ("", "sxm", "nvl", "nvl72")
    ]
    if not names:
        raise PlanError(f"system {system[:40]!r} is not in the catalogue; that has {', '.join(hardware_names())}")
    return resolve_hardware(spec.Hardware(accelerator=names[-1]))


@cache
def _by_repository() -> dict[str, str]:
    return {load_model(name).source.removeprefix("hf://").lower(): name for name in model_names()}


def catalogue_name(repository: str) -> str | None:
    """The catalogue's model of a repository: the same, or one whose name has all words of it (…-FP8, …-Instruct-2507)."""
    known, wanted = _by_repository(), repository.lower()
    if wanted in known:
        return known[wanted]
    words = set(wanted.rpartition("/")[2].split("-"))
    fitting = [source for source in known if set(source.rpartition("/")[2].split("-")) <= words]
    return known[max(fitting, key=len)] if fitting else None


def read_shape(point: Point, config: dict[str, Any] | None) -> tuple[ModelShape, str]:
    """The model of a point, its weights stored as the point says, and what was inferred to read it; empty if nothing.

    `config` is its config.json; None to look it up in the catalogue. Raises PlanError when that has none, and
    ManifestError or PlanError when the config cannot be read.
    """
    if config is None:
        name = catalogue_name(point.model)
        if name is None:
            raise PlanError(f"model {point.model[:80]!r} is not in the catalogue, and no config.json is given for it")
        config = load_model(name).config
    inferred = infer_config(config)
    said = ""
    if inferred is not None:
        said = (
            f"{point.model}: its family {config.get('model_type')!r} is not read; estimated as if it were {inferred[1]}"
        )
        config = inferred[0]
    try:
        shape = read_config(config, point.model, WeightDtype.AUTO)
    except ManifestError as error:
        if not (point.moe_format and all(violation.code == "UnknownQuantization" for violation in error.violations)):
            raise
        shape = read_config(_unquantised(config), point.model, WeightDtype.AUTO)
    return replace(shape, formats=_formats(shape.formats, point)), said


def _unquantised(config: Mapping[str, Any]) -> dict[str, Any]:
    """A config without its quantisation, for a point that says by itself how weights are stored."""
    plain = {key: value for key, value in config.items() if key != "quantization_config"}
    if isinstance(plain.get("text_config"), Mapping):
        plain["text_config"] = _unquantised(plain["text_config"])
    return plain


def _formats(published: Formats, point: Point) -> Formats:
    """The point's formats, unless the config's own experts have the same bits: then the config knows better."""
    experts = _FORMATS[point.moe_format]() if point.moe_format else published.experts
    if round(experts.bytes_per_param * 2) == round(published.experts.bytes_per_param * 2):
        return published
    linear = _FORMATS[point.gemm_format]() if point.gemm_format else published.linear
    return replace(published, experts=experts, linear=linear)


def point_setting(point: Point, shape: ModelShape, hardware: Hardware) -> Setting:
    """What points of the same model, GPU and engine have in common; the KV cache is in the compute format."""
    return make_setting(shape, hardware, point.engine, ELEMENT_BYTES[shape.formats.compute])


def point_case(point: Point, shape: ModelShape, hardware: Hardware) -> Case:
    """The case of a point. Raises PlanError when its degrees do not suit the model or the memory."""
    experts = _experts(point, shape)
    stages = make_stages(balance(_layer_bytes(shape, point, experts), _checked_pp(point, shape)))
    return Case(
        tp=point.tp,
        pp=point.pp,
        shards=point.dp,
        experts=experts,
        tp_links=group_spans(point.gpus, 1, point.tp, hardware),
        ep_links=group_spans(point.gpus, point.moe_tp, point.ep, hardware),
        pp_links=group_spans(point.gpus, point.tp * point.dp, point.pp, hardware),
        stages=stage_classes(shape, stages),
        replicas=1,
        micro_batches=1,
        concurrency=int(point.concurrency),
        input_tokens=point.isl,
        output_tokens=point.osl,
        kv_requests=_kv_requests(point, shape, hardware),
    )


def _experts(point: Point, shape: ModelShape) -> Experts:
    logical = max(getattr(layer.ffn, "experts", 0) for layer in shape.layers)
    if point.ep > logical:
        raise PlanError(f"ep {point.ep} exceeds the {logical} experts of {point.model}")
    per_rank = -(-logical // point.ep)
    return Experts(
        logical=logical, redundant=0, per_rank=per_rank, ep=point.ep, tp=point.moe_tp, busiest=per_rank / logical
    )


def _checked_pp(point: Point, shape: ModelShape) -> int:
    if point.pp > len(shape.layers):
        raise PlanError(f"pp {point.pp} exceeds the {len(shape.layers)} layers of {point.model}")
    return point.pp


def _layer_bytes(shape: ModelShape, point: Point, experts: Experts) -> list[int]:
    by_kind = dict(zip(dict.fromkeys(shape.layers), layer_costs(shape, point.tp, experts.per_rank), strict=True))
    return [math.ceil(by_kind[layer]) for layer in shape.layers]


def _kv_requests(point: Point, shape: ModelShape, hardware: Hardware) -> int:
    """Requests that the KV cache of a shard holds beside the weights, at least 1: the engine ran, so it held one."""
    formats, length = shape.formats, point.isl + point.osl
    weights = 2 * shape.embedding_params * formats.other.bytes_per_param / point.tp / point.pp
    need = 0.0
    for layer in shape.layers:
        share = layer_share(layer, formats, point.tp, point.moe_tp)
        experts = getattr(layer.ffn, "experts", 0) / point.ep
        weights += share.expert * experts * formats.experts.bytes_per_param / point.pp
        weights += (
            (share.attention + share.shared_experts + share.dense_ffn) * formats.linear.bytes_per_param / point.pp
        )
        element = ELEMENT_BYTES[formats.compute]
        need += growing_bytes(layer.attention, point.tp, element) * length / point.pp
        need += fixed_bytes(layer.attention, point.tp, element, length) / point.pp
    return max(1, int((hardware.usable_bytes - weights) // max(1.0, need)))
