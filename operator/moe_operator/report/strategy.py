"""strategy.json: the whole deployment strategy as one JSON object, with all that is needed to derive it again."""

import json
from dataclasses import asdict
from typing import Any

from moe_operator.report.material import Material
from moe_operator.report.traffic import Flow
from moe_plan.cost.constants import constants
from moe_plan.model import MoeFfn
from moe_plan.shares import layer_kinds

VERSION = "moe-operator.dev/strategy/v1"
_AS_PLANNED = {"name", "degrees", "rank_order", "replicas", "micro_batches", "slots", "ranks_per_slot", "engine"}
_RESULTS = {"stages", "experts", "limits", "memory", "kv_cache", "warnings"}


def strategy_json(material: Material) -> str:
    """The text of strategy.json."""
    return json.dumps(strategy(material), indent=1, ensure_ascii=False) + "\n"


def strategy(material: Material) -> dict[str, Any]:
    """The strategy: what is planned, the model and GPU it is planned for, where every rank stands, what follows."""
    plan = material.plan
    planned = plan.model_dump(mode="json", include=_AS_PLANNED)
    parallelism = material.subject.spec.parallelism
    return {
        "version": VERSION,
        "plan_hash": plan.hash,
        **planned,
        "world": plan.degrees.world,
        "allow_cross_node_tensor_parallel": parallelism.allow_cross_node_tensor_parallel,
        "workload": material.subject.spec.workload.model_dump(mode="json"),
        "model": _model(material),
        "hardware": _hardware(material),
        "constants": _constants(),
        "ranks": [_rank(material, rank) for rank in range(plan.degrees.world)],
        "groups": {dimension: material.groups(dimension) for dimension in ("tp", "ep", "pp")},
        **plan.model_dump(mode="json", include=_RESULTS),
        "prediction": plan.prediction.model_dump(mode="json") if material.serves else None,
        "load": {"busiest_share": material.busiest_share, "busiest_over_mean": material.skew},
        "traffic": [_flow(flow) for flow in material.flows],
    }


def _model(material: Material) -> dict[str, Any]:
    shape = material.subject.shape
    kinds = [asdict(layer) | {"has_experts": isinstance(layer.ffn, MoeFfn)} for layer in layer_kinds(shape)]
    whole = {
        "hidden": shape.hidden,
        "vocab": shape.vocab,
        "max_positions": shape.max_positions,
        "embedding_params": shape.embedding_params,
        "head_params": shape.head_params,
        "final_norm_params": shape.final_norm_params,
        "formats": asdict(shape.formats),
        "layers": material.subject.kinds,
        "layer_kinds": kinds,
    }
    return material.plan.model.model_dump(mode="json", exclude={"config"}) | {"shape": whole}


def _hardware(material: Material) -> dict[str, Any]:
    hardware = material.subject.hardware
    figures = {
        "memory_reserve": hardware.memory_reserve,
        "memory_bandwidth": hardware.memory_bandwidth_bytes_per_s,
        "flops": dict(hardware.flops),
        "links": [asdict(tier) for tier in hardware.links],
    }
    return material.plan.hardware.model_dump(mode="json") | figures


def _constants() -> dict[str, float]:
    """The constants that sizes of buffers and of training's state depend upon."""
    known = constants()
    names = ("arrival_skew", "hidden_copies", "gradient_bytes", "optimizer_bytes")
    return {name: getattr(known, name) for name in names}


def _rank(material: Material, rank: int) -> dict[str, Any]:
    here, each = material.coordinates[rank], material.plan.ranks_per_slot
    experts = material.held_experts[here.ep]
    return {"rank": rank, "slot": rank // each, "gpu": rank % each, **here._asdict(), "experts": experts}


def _flow(flow: Flow) -> dict[str, Any]:
    return {
        "what": flow.what,
        "dimension": flow.dimension,
        "tier": flow.tier.scope,
        "parties": flow.parties,
        "bytes_a_rank_and_decode_step": flow.decode_bytes,
        "bytes_a_rank_and_prompt": flow.prompt_bytes,
    }
