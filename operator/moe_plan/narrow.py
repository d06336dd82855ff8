"""The rehearsal of a plan: the same ranks, stages, layers, experts and top-k on CPU ranks, with narrow widths.

What a layout can get wrong (which rank holds which layer and expert, who talks to whom) does not depend on widths, so
these are divided by a stated factor until 128 ranks fit on one machine.
"""

import math
from collections.abc import Iterator, Mapping
from typing import Any, TypeVar

from moe_plan.plan import Plan
from moe_plan.spec import Hardware, Model, MoEDeployment, Parallelism, Runtime, Section, Serving, WeightDtype, Workload

S = TypeVar("S", bound=Section)

HIDDEN = 64
"""Hidden width that the default factor comes near to."""

MAX_MODEL_LENGTH = 1024
MAX_BATCH_TOKENS = 256
"""Limits of a rehearsal, small enough for a CPU."""

_SMALLEST = {"vocab_size": 256, "hidden_size": 32}
_EIGHTH = 8
"""Widths stay multiples of 8, and none is less: rotary halves and quarters then stay whole."""

_WIDTHS = (
    "hidden_size",
    "vocab_size",
    "intermediate_size",
    "intermediate_size_mlp",
    "moe_intermediate_size",
    "shared_expert_intermediate_size",
    "routed_expert_hidden_size",
    "vocab_size_per_layer_input",
    "head_dim",
    "global_head_dim",
    "linear_key_head_dim",
    "linear_value_head_dim",
    "q_lora_rank",
    "kv_lora_rank",
    "o_lora_rank",
    "qk_nope_head_dim",
    "qk_rope_head_dim",
    "rotary_dim",
    "v_head_dim",
    "index_head_dim",
)
"""Fields of a Hugging Face config.json that are widths."""

_SPLIT = {name for name in _WIDTHS if name.endswith(("intermediate_size", "intermediate_size_mlp", "vocab_size"))}
"""Widths that tp splits, so that they stay multiples of it."""

_TOKEN_IDS = ("bos_token_id", "eos_token_id", "pad_token_id")
_LEFT_OUT = ("quantization_config", "vision_config", "audio_config")


def choose_factor(plan: Plan) -> int:
    """The factor that brings a plan's hidden width near to 64."""
    hidden = next(_values(plan.model.config, "hidden_size"), HIDDEN)
    return max(1, round(hidden / HIDDEN))


def rehearse(deployment: MoEDeployment, plan: Plan, factor: int) -> MoEDeployment:
    """The manifest of a plan's rehearsal with random weights, its widths divided by `factor`.

    `make_plan(rehearse(deployment, plan, factor), stage_layers=…, experts=…)` with the stages and experts of `plan`
    gives the same ranks the same layers and experts. Raises ValueError when the factor is less than 1.
    """
    config = narrow_config(plan.model.config, factor, plan.degrees.tp)
    length = min(plan.limits.max_model_length, MAX_MODEL_LENGTH)
    return _on_cpu(deployment, plan, config, length, min(plan.limits.max_batch_tokens, MAX_BATCH_TOKENS, length))


def rehearse_checkpoint(deployment: MoEDeployment, plan: Plan, config: Any) -> MoEDeployment:
    """The manifest of a plan's rehearsal with a checkpoint of another width, whose config.json is `config`.

    The planner refuses it where the plan's degrees do not suit that checkpoint.
    """
    held = config if isinstance(config, dict) else {}
    positions = min(_values(held, "max_position_embeddings"), default=plan.limits.max_model_length)
    length = min(plan.limits.max_model_length, positions)
    return _on_cpu(deployment, plan, held, length, min(plan.limits.max_batch_tokens, length))


def narrow_config(config: Mapping[str, Any], factor: int, tp: int) -> dict[str, Any]:
    """A Hugging Face config.json with its widths divided by `factor`; those that tp splits stay multiples of it.

    Head widths are stated where they were an even share of the hidden width, since that share need not stay even.
    Raises ValueError when the factor is less than 1.
    """
    if factor < 1:
        raise ValueError(f"widths are divided by 1 or more, not by {factor}")
    narrowed = dict(_narrowed(config, factor, tp))
    if _derives_head_dim(config):
        narrowed["head_dim"] = _width("head_dim", config["hidden_size"] // config["num_attention_heads"], factor, tp)
    if "qk_head_dim" in narrowed:
        narrowed["qk_head_dim"] = sum(narrowed.get(name, 0) for name in ("qk_nope_head_dim", "qk_rope_head_dim"))
    vocab = next(_values(narrowed, "vocab_size"), None)
    return {name: value for name, value in narrowed.items() if name not in _TOKEN_IDS or not _beyond(value, vocab)}


def _narrowed(config: Mapping[str, Any], factor: int, tp: int) -> Iterator[tuple[str, Any]]:
    for name, value in config.items():
        if name in _LEFT_OUT:
            continue
        if name in _WIDTHS and isinstance(value, int) and value > 0:
            yield name, _width(name, value, factor, tp)
        elif name == "text_config" and isinstance(value, Mapping):
            yield name, narrow_config(value, factor, tp)
        elif isinstance(value, Mapping):
            yield name, dict(_narrowed(value, factor, tp))
        else:
            yield name, value


def _width(name: str, value: int, factor: int, tp: int) -> int:
    """A width over the factor, as a multiple of 8 (and of tp where it is split); never wider than it was."""
    unit = math.lcm(_EIGHTH, tp) if name in _SPLIT else _EIGHTH
    smallest = math.ceil(_SMALLEST.get(name, unit) / unit) * unit
    return min(value, max(smallest, round(value / factor / unit) * unit))


def _derives_head_dim(config: Mapping[str, Any]) -> bool:
    heads, hidden = config.get("num_attention_heads"), config.get("hidden_size")
    given = isinstance(config.get("head_dim"), int) or "kv_lora_rank" in config
    return not given and isinstance(heads, int) and isinstance(hidden, int)


def _beyond(token_ids: Any, vocab: int | None) -> bool:
    listed = token_ids if isinstance(token_ids, list) else [token_ids]
    return vocab is not None and any(isinstance(token_id, int) and token_id >= vocab for token_id in listed)


def _values(config: Mapping[str, Any], name: str) -> Iterator[int]:
    """Values of a field in a config or in the configs within it."""
    if isinstance(config.get(name), int):
        yield config[name]
    for section, inner in config.items():
        if section not in _LEFT_OUT and isinstance(inner, Mapping):
            yield from _values(inner, name)


def _on_cpu(deployment: MoEDeployment, plan: Plan, config: dict[str, Any], length: int, batch: int) -> MoEDeployment:
    """The plan's layout with another model, on CPU ranks in nodes of the same size."""
    return deployment.model_copy(
        update={
            "spec": deployment.spec.model_copy(
                update={
                    "model": Model(config=config, source="random", dtype=WeightDtype.FLOAT32),
                    "hardware": _named(Hardware, accelerator="cpu", gpus_per_node=plan.hardware.gpus_per_node),
                    "parallelism": _as_planned(deployment.spec.parallelism, plan),
                    "workload": _shortened(deployment.spec.workload, length),
                    "replicas": 1,
                    "runtime": Runtime(),
                    "serving": _named(
                        Serving,
                        port=deployment.spec.serving.port,
                        max_model_length=length,
                        max_batch_tokens=batch,
                        capacity_factor=deployment.spec.serving.capacity_factor,
                    ),
                }
            )
        }
    )


def _as_planned(parallelism: Parallelism, plan: Plan) -> Parallelism:
    degrees = plan.degrees
    decided = {"ep": degrees.ep, "tp": degrees.tp, "pp": degrees.pp, "micro_batches": plan.micro_batches}
    return parallelism.model_copy(
        update={**decided, "gpus": None, "expert_loads_from": None, "redundant_experts": plan.experts.redundant}
    )


def _shortened(workload: Workload, length: int) -> Workload:
    """The workload without targets, its requests cut to a length; what is cut short is the prompt."""
    output = max(1, min(workload.output_tokens, length // 2))
    prompt = max(1, min(workload.input_tokens, length - output))
    return _named(Workload, input_tokens=prompt, output_tokens=output, concurrency=workload.concurrency)


def _named(section: type[S], **values: Any) -> S:
    """A section of the spec, by the names that its fields have here."""
    return section.model_validate(values, by_name=True, by_alias=False)
