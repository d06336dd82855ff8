"""Plans for tiny models, as small as tests need them."""

from typing import Any

from moe_plan.plan import (
    Degrees,
    ExpertMap,
    KvCache,
    Limits,
    Plan,
    PlannedHardware,
    PlannedModel,
    Prediction,
    Stage,
    TimeParts,
)

TINY_CONFIG: dict[str, Any] = {
    "model_type": "qwen3_moe",
    "vocab_size": 96,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "num_experts": 8,
    "num_experts_per_tok": 2,
    "moe_intermediate_size": 16,
    "intermediate_size": 16,
    "max_position_embeddings": 512,
    "rms_norm_eps": 1e-6,
    "rope_theta": 10000.0,
    "tie_word_embeddings": False,
}
"""A config.json of a model that computes in a blink."""

NO_TIME = TimeParts(
    compute=0, memory=0, tp_all_reduce=0, dispatch=0, combine=0, pp_send=0, pp_bubble=0, overhead=0, queueing=0, total=0
)


def tiny_plan(
    config: dict[str, Any],
    *,
    ep: int = 1,
    tp: int = 1,
    pp: int = 1,
    rank_order: tuple[str, ...] = ("pp", "ep", "tp"),
    redundant: int = 0,
    stage_layers: tuple[int, ...] | None = None,
    micro_batches: int = 1,
    exceptions: dict[int, tuple[int, ...]] | None = None,
    dtype: str = "float32",
    kv_dtype: str | None = None,
    max_batch_tokens: int = 128,
    max_model_length: int = 256,
    tokens_per_shard: int = 1024,
) -> Plan:
    """A plan of the given layout; stages are even unless `stage_layers` says otherwise."""
    layers = config["num_hidden_layers"]
    logical = config.get("num_local_experts") or config["num_experts"]
    return Plan(
        name="tiny",
        hash="0" * 64,
        model=PlannedModel(
            name="tiny",
            family=config["model_type"],
            config=config,
            source="random",
            revision="main",
            dtype=dtype,
            compute_dtype=dtype,
            kv_cache_dtype=kv_dtype or dtype,
            total_params=0,
            active_params=0,
        ),
        hardware=PlannedHardware(
            name="cpu", device="cpu", resource_name="cpu", gpus_per_node=8, memory_bytes=1e9, usable_bytes=1e9
        ),
        degrees=Degrees(ep=ep, tp=tp, pp=pp),
        rank_order=rank_order,
        replicas=1,
        micro_batches=micro_batches,
        slots=1,
        ranks_per_slot=ep * tp * pp,
        stages=_stages(stage_layers or _even(layers, pp)),
        experts=ExpertMap(
            logical=logical, redundant=redundant, per_rank=(logical + redundant) // ep, exceptions=exceptions or {}
        ),
        limits=Limits(max_model_length=max_model_length, max_batch_tokens=max_batch_tokens, capacity_factor=None),
        memory=(),
        kv_cache=KvCache(
            bytes_per_token=1, bytes_per_request=0, tokens_per_shard=tokens_per_shard, requests_per_shard=8
        ),
        prediction=Prediction(
            ttft=0,
            ttft_interval=(0, 0),
            ttft_parts=NO_TIME,
            tpot=0,
            tpot_interval=(0, 0),
            tpot_parts=NO_TIME,
            tokens_per_s=0,
            tokens_per_s_per_gpu=0,
            batch_per_shard=8,
        ),
        engine="moe",
        port=8000,
    )


def _even(layers: int, pp: int) -> tuple[int, ...]:
    return tuple(layers // pp + (stage < layers % pp) for stage in range(pp))


def _stages(layers: tuple[int, ...]) -> tuple[Stage, ...]:
    return tuple(
        Stage(
            pp=pp,
            first_layer=sum(layers[:pp]),
            layers=count,
            embedding=pp == 0,
            head=pp == len(layers) - 1,
        )
        for pp, count in enumerate(layers)
    )
