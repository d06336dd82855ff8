"""From a plan to what an engine is started with: arguments, environment and files of a pod. Pure."""

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal, TypeVar

from moe_operator.engines.engine import Conditional, Engine, Fact
from moe_plan.plan import Plan
from moe_plan.spec import Spec

OPTIONS_FILE = "engine.yaml"
CONFIG_FILE = "config.json"
MOUNT = "/etc/moe"
"""Where pods find the files."""
PAGE = 64
"""Tokens of the largest page of a KV cache, of which a chunk of prefill must be a multiple: 64 for MLA,
https://github.com/sgl-project/sglang/blob/v0.5.23/docs/advanced_features/attention_backend.md"""


C = TypeVar("C", bound=Conditional)


@dataclass(frozen=True, slots=True)
class Place:
    """The pod that is started."""

    role: Literal["frontend", "worker"]
    slot: str
    """Its number in the replica."""
    first_shard: str
    """The first ep coordinate of its ranks where ep is outermost."""
    leader: str
    """Host name of the frontend's pod."""
    checkpoint: str | None
    """Directory of the checkpoint; None for random weights."""
    master_port: int
    agent_port: int


def arguments(engine: Engine, plan: Plan, spec: Spec, place: Place) -> list[str]:
    """Arguments of the engine's command in one pod, before those of spec.runtime.args."""
    values = _values(engine, plan, spec, place)
    held = _holding(engine.argument, facts(engine, plan, spec, place.role))
    return [flag.format_map(values) for argument in held for flag in argument.flags]


def environment(engine: Engine, plan: Plan, spec: Spec, place: Place) -> dict[str, str]:
    """Environment variables of the engine in one pod, before those of spec.runtime.env."""
    values = _values(engine, plan, spec, place)
    held = _holding(engine.environment, facts(engine, plan, spec, place.role))
    return {variable.name: variable.value.format_map(values) for variable in held}


def files(engine: Engine, plan: Plan, spec: Spec) -> dict[str, str]:
    """Texts that the pods find below MOUNT beside the plan, by name."""
    held = facts(engine, plan, spec, "frontend")
    found = {}
    if engine.option:
        found[OPTIONS_FILE] = json.dumps(_options(engine, plan, spec, held), indent=2, sort_keys=True)
    if "random" in held and engine.random_weights == "config":
        found[CONFIG_FILE] = json.dumps(plan.model.config, indent=2, sort_keys=True)
    return found


def facts(engine: Engine, plan: Plan, spec: Spec, role: Literal["frontend", "worker"]) -> frozenset[Fact]:
    """What is so of the pods of a role."""
    degrees = plan.degrees
    known: dict[Fact, bool] = {
        "frontend": role == "frontend",
        "worker": role == "worker",
        "several_slots": plan.slots > 1,
        "sharded": degrees.ep > 1,
        "unsharded": degrees.ep == 1,
        "staged": degrees.pp > 1,
        "redundant": plan.experts.redundant > 0,
        "stored": plan.model.source != "random",
        "random": plan.model.source == "random",
        "typed": spec.model.dtype in ("float32", "bfloat16", "float16"),
        "quantized": quantization(engine, plan, spec) is not None,
        "float8_cache": plan.model.kv_cache_dtype == "float8",
        "keyed": spec.serving.api_key_secret_ref is not None,
    }
    return frozenset(fact for fact, so in known.items() if so)


def quantization(engine: Engine, plan: Plan, spec: Spec) -> str | None:
    """The engine's name of the format into which it turns the weights; None where they are kept as published."""
    published = "quantization_config" in plan.model.config
    return None if published else engine.quantization.get(spec.model.dtype)


def _values(engine: Engine, plan: Plan, spec: Spec, place: Place) -> Mapping[str, object]:
    degrees, limits = plan.degrees, plan.limits
    batch = limits.max_batch_tokens
    return {
        "name": plan.name,
        "port": plan.port,
        "ep": degrees.ep,
        "tp": degrees.tp,
        "pp": degrees.pp,
        "stage_ranks": degrees.ep * degrees.tp,
        "stage_layers": ",".join(str(stage.layers) for stage in plan.stages),
        "slots": plan.slots,
        "ranks_per_slot": plan.ranks_per_slot,
        "shards_per_slot": shards_per_slot(plan),
        "redundant": plan.experts.redundant,
        "context": limits.max_model_length,
        "batch": batch,
        "stage_batch": (batch - batch % PAGE or batch) * degrees.ep,
        "memory_share": f"{plan.hardware.usable_bytes / plan.hardware.memory_bytes:.3f}",
        "dtype": plan.model.compute_dtype,
        "quantization": quantization(engine, plan, spec),
        "slot": place.slot,
        "first_shard": place.first_shard,
        "leader": place.leader,
        "master_port": place.master_port,
        "agent_port": place.agent_port,
        "checkpoint": place.checkpoint or MOUNT,
    }


def shards_per_slot(plan: Plan) -> int:
    """ep coordinates whose ranks a slot holds where ep is outermost; at least 1."""
    return max(1, plan.ranks_per_slot // (plan.degrees.tp * plan.degrees.pp))


def _holding(parts: Iterable[C], held: frozenset[Fact]) -> Iterator[C]:
    return (part for part in parts if held.issuperset(part.when))


def _options(engine: Engine, plan: Plan, spec: Spec, held: frozenset[Fact]) -> dict[str, Any]:
    place = Place("frontend", "0", "0", "", None, 0, 0)
    values = {**_values(engine, plan, spec, place), "stage_layers": [stage.layers for stage in plan.stages]}
    found: dict[str, Any] = {}
    for option in _holding(engine.option, held):
        *above, last = option.path
        inner = found
        for name in above:
            inner = inner.setdefault(name, {})
        inner[last] = _option_value(option.value, values)
    return found


def _option_value(value: object, values: Mapping[str, object]) -> object:
    """A value of the plan as it is, where the option is nothing but that."""
    if isinstance(value, str) and value.startswith("{") and value.endswith("}"):
        return values[value[1:-1]]
    return value
