"""What all layouts of one manifest share: the resolved model, hardware and limits, and what of the model must split."""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

from moe_plan.errors import ManifestError, Violation
from moe_plan.hardware import Hardware
from moe_plan.model import DenseFfn, Layer, ModelShape, MoeFfn, NumberFormat
from moe_plan.plan import Limits
from moe_plan.shares import kind_of_each, layer_kinds
from moe_plan.spec import ConfigMapKey, MoEDeployment, Spec

if TYPE_CHECKING:
    from moe_plan.dealer import Dealer
    from moe_plan.loads import ExpertLoads

DEFAULT_BATCH_TOKENS = 8192
"""Most tokens of a shard's step where the manifest does not say, as serving engines prefill in chunks."""


LOADS_FIELD = "spec.parallelism.expertLoadsFrom"
"""Field that is told to be wrong where measured loads are."""


@dataclass(frozen=True, slots=True)
class Width:
    """A width that tensor parallelism splits."""

    name: str
    """What has it: 'expert FFN', 'shared expert FFN' or 'dense FFN'."""
    width: int
    block: int
    """Neighbours that cannot be parted, since they share a quantisation scale."""
    format: str

    @property
    def blocks(self) -> int:
        """Blocks that are dealt."""
        return math.ceil(self.width / self.block)


@dataclass(frozen=True)
class Subject:
    """A manifest with its names resolved and its defaults filled in."""

    deployment: MoEDeployment
    shape: ModelShape
    config: dict[str, Any]
    """Hugging Face config.json of the model."""
    source: str
    hardware: Hardware
    limits: Limits
    kv_cache_dtype: str
    inferred_family: str | None = None
    """The family as which a model of an unknown one was read; None where its own is known."""
    dealer: "Dealer | None" = None
    """Deals experts by measured loads, where there are any."""

    @property
    def spec(self) -> Spec:
        """The spec as written."""
        return self.deployment.spec

    @cached_property
    def experts(self) -> int:
        """Logical experts of a MoE layer."""
        return max(ffn.experts for ffn in _moe_ffns(self.shape))

    @cached_property
    def heads(self) -> tuple[int, ...]:
        """Distinct counts of query heads."""
        return tuple(sorted({kind.attention.heads for kind in layer_kinds(self.shape)}))

    @cached_property
    def kv_heads(self) -> tuple[int, ...]:
        """Distinct counts of KV heads where K and V are cached by head."""
        return tuple(
            sorted({a.kv_heads for a in (kind.attention for kind in layer_kinds(self.shape)) if a.kind == "gqa"})
        )

    @cached_property
    def widths(self) -> tuple[Width, ...]:
        """Distinct FFN widths."""
        return tuple(dict.fromkeys(width for layer in layer_kinds(self.shape) for width in _widths(layer, self.shape)))

    @cached_property
    def kinds(self) -> tuple[int, ...]:
        """For each layer, the index of its kind in `layer_kinds`."""
        return kind_of_each(self.shape)


def resolve(deployment: MoEDeployment, config: dict[str, Any] | None, loads: "ExpertLoads | None" = None) -> Subject:
    """Look up what the manifest names. `config` is what spec.model.configFrom refers to, `loads` are measured ones.

    Raises ManifestError with every name that is unknown and all that is wrong with the model's config and the loads.
    """
    # Only what a manifest needs is imported: a plan must be quick to start.
    from moe_plan.catalogue.hardware import resolve_hardware  # noqa: PLC0415

    violations: list[Violation] = []
    model = hardware = None
    try:
        model = _resolve_model(deployment, config)
    except ManifestError as error:
        violations += error.violations
    try:
        hardware = resolve_hardware(deployment.spec.hardware)
    except ManifestError as error:
        violations += error.violations
    violations += _loads_rules(deployment, loads, None if model is None else model[0])
    if model is None or hardware is None or violations:
        raise ManifestError(tuple(violations))
    shape, resolved, source, inferred = model
    spec = deployment.spec
    kv_cache_dtype = shape.formats.compute if spec.model.kv_cache_dtype == "auto" else spec.model.kv_cache_dtype
    dealer = _make_dealer(loads)
    return Subject(deployment, shape, resolved, source, hardware, limits(spec), kv_cache_dtype, inferred, dealer)


def limits(spec: Spec) -> Limits:
    """What the runtime admits, with the defaults that the workload gives."""
    length = spec.serving.max_model_length or spec.workload.input_tokens + spec.workload.output_tokens
    batch = spec.serving.max_batch_tokens or min(DEFAULT_BATCH_TOKENS, length)
    return Limits(max_model_length=length, max_batch_tokens=batch, capacity_factor=spec.serving.capacity_factor)


def _resolve_model(
    deployment: MoEDeployment, config: dict[str, Any] | None
) -> tuple[ModelShape, dict[str, Any], str, str | None]:
    """The model's shape, config.json, source, and the family as which it was read if its own is unknown."""
    from moe_plan.config import read_config  # noqa: PLC0415  # as above
    from moe_plan.config.infer import readable  # noqa: PLC0415  # as above

    model = deployment.spec.model
    name, source = deployment.metadata.name, "random"
    if model.architecture is not None:
        from moe_plan.catalogue.models import load_model  # noqa: PLC0415  # as above

        entry = load_model(model.architecture)
        name, source, config = entry.name, entry.source, entry.config
    elif model.config is not None:
        config = model.config
    if config is None:
        raise ManifestError((_config_missing(deployment),))
    read, inferred = readable(config)
    return read_config(read, name, model.dtype), config, model.source or source, inferred


def _config_missing(deployment: MoEDeployment) -> Violation:
    source = deployment.spec.model.config_from
    assert source is not None
    reference = source.config_map_key_ref
    return Violation(
        "spec.model.configFrom",
        "ConfigNotGiven",
        f"the config.json of ConfigMap {reference.name}, key {reference.key}, is not at hand",
        "on the command line give it with --config FILE",
    )


def _loads_rules(
    deployment: MoEDeployment, loads: "ExpertLoads | None", shape: ModelShape | None
) -> Iterator[Violation]:
    """The loads that the manifest names are at hand, and suit the model and the engine."""
    source, engine = deployment.spec.parallelism.expert_loads_from, deployment.spec.runtime.engine
    if loads is None:
        if source is not None:
            yield _loads_missing(source.config_map_key_ref)
        return
    from moe_plan.loads import loads_rules  # noqa: PLC0415  # as above

    if engine != "moe":
        message = f"the engine {engine} deals experts itself and is not given a map of them"
        yield Violation(LOADS_FIELD, "EngineDealsExperts", message, "plan without the loads, or set engine to moe")
    elif shape is not None:
        yield from loads_rules(loads, shape, LOADS_FIELD)


def _loads_missing(reference: ConfigMapKey) -> Violation:
    return Violation(
        LOADS_FIELD,
        "ExpertLoadsNotGiven",
        f"the expert loads of ConfigMap {reference.name}, key {reference.key}, are not at hand",
        "on the command line give them with --expert-loads FILE",
    )


def _make_dealer(loads: "ExpertLoads | None") -> "Dealer | None":
    if loads is None:
        return None
    from moe_plan.dealer import Dealer  # noqa: PLC0415  # numpy, which a plan without loads does without

    return Dealer(loads)


def _moe_ffns(shape: ModelShape) -> tuple[MoeFfn, ...]:
    return tuple(layer.ffn for layer in layer_kinds(shape) if isinstance(layer.ffn, MoeFfn))


def _widths(layer: Layer, shape: ModelShape) -> tuple[Width, ...]:
    experts, linear = shape.formats.experts, shape.formats.linear
    if isinstance(layer.ffn, DenseFfn):
        return (_width("dense FFN", layer.ffn.width, linear),)
    routed = _width("expert FFN", layer.ffn.width, experts)
    return (
        (routed, _width("shared expert FFN", layer.ffn.shared_width, linear)) if layer.ffn.shared_width else (routed,)
    )


def _width(name: str, width: int, number_format: NumberFormat) -> Width:
    return Width(name, width, number_format.block, number_format.name)
