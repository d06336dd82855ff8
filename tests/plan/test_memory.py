from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from moe_plan import spec
from moe_plan.catalogue.hardware import resolve_hardware
from moe_plan.catalogue.models import load_model
from moe_plan.config import read_config
from moe_plan.experts import deal
from moe_plan.hardware import Hardware
from moe_plan.layout import Layout
from moe_plan.memory import RankParams, arriving_rows, kv_cache, rank_params, stage_memory
from moe_plan.model import Attention, DenseFfn, Formats, Layer, ModelShape, MoeFfn, NumberFormat
from moe_plan.plan import KvCache, Limits, StageMemory
from moe_plan.shares import busiest_load, layer_kinds, layer_share, split_width
from moe_plan.spec import WeightDtype, Workload
from moe_plan.stages import balance, make_stages

BF16 = NumberFormat("bfloat16", 2.0)
H200 = resolve_hardware(spec.Hardware(accelerator="h200-sxm"))


def model(name: str) -> ModelShape:
    return read_config(load_model(name).config, name, WeightDtype.AUTO)


def attention(**figures: Any) -> Attention:
    sizes: dict[str, Any] = {
        "kind": "gqa",
        "heads": 8,
        "kv_heads": 4,
        "qk_dim": 16,
        "v_dim": 16,
        "query_params": 2 * 64 * 128,
        "kv_params": 2 * 64 * 64,
        "replicated_params": 32,
    }
    return Attention(**(sizes | figures))


def moe() -> MoeFfn:
    return MoeFfn(8, 2, 48, 3, 3 * 64 * 48, 32, 3 * 64 * 32, 64 * 8)


def small(*layers: Layer, head_params: int = 6400) -> ModelShape:
    return ModelShape(
        "small", "test", 64, 100, 6400, head_params, 64, layers, 4096, Formats(BF16, BF16, BF16, "bfloat16")
    )


class Deal:
    """A model dealt over a layout, and its memory."""

    def __init__(
        self,
        shape: ModelShape,
        ep: int = 1,
        tp: int = 1,
        pp: int = 1,
        redundant: int = 0,
        hardware: Hardware = H200,
        limits: Limits | None = None,
        workload: Workload | None = None,
        cache: str = "bfloat16",
    ) -> None:
        self.shape, self.layout, self.cache = shape, Layout(ep, tp, pp), cache
        logical = max(layer.ffn.experts for layer in shape.layers if isinstance(layer.ffn, MoeFfn))
        self.experts = deal(logical, redundant, ep)
        self.stages = make_stages(balance([1] * len(shape.layers), pp))
        self.hardware, self.workload = hardware, workload or Workload()
        length = self.workload.input_tokens + self.workload.output_tokens
        self.limits = limits or Limits(max_model_length=length, max_batch_tokens=length, capacity_factor=None)

    @property
    def params(self) -> list[RankParams]:
        return [rank_params(self.shape, self.layout, self.experts, stage) for stage in self.stages]

    @property
    def memory(self) -> tuple[StageMemory, ...]:
        about = (self.hardware, self.limits, self.workload, self.cache)
        return tuple(stage_memory(self.shape, self.layout, self.experts, stage, *about) for stage in self.stages)

    @property
    def kv(self) -> KvCache:
        return kv_cache(self.shape, self.layout, self.stages, self.memory, self.limits, self.workload, self.cache)


def weights(memory: StageMemory) -> int:
    parts = ("attention", "experts", "shared_experts", "dense_ffn", "embedding", "head", "other_weights")
    return memory.redundant_experts + sum(memory.model_dump(include=set(parts)).values())


def total_params(shape: ModelShape) -> int:
    ends = shape.embedding_params + shape.head_params + shape.final_norm_params
    return ends + sum(_layer_params(layer) for layer in shape.layers)


def _layer_params(layer: Layer) -> int:
    held, ffn = layer.attention, layer.ffn
    params = held.query_params + held.kv_params + held.replicated_params + layer.norm_params
    if isinstance(ffn, DenseFfn):
        return params + ffn.params
    return params + ffn.experts * ffn.expert_params + ffn.shared_params + ffn.router_params


def test_mixtral_weighs_93_gigabytes_in_bfloat16() -> None:
    (memory,) = Deal(model("mixtral-8x7b")).memory
    assert weights(memory) == pytest.approx(93.4e9, rel=1e-3)


@pytest.mark.parametrize(("ep", "pp"), [(8, 1), (2, 4), (1, 32), (4, 3)])
def test_experts_over_all_ranks_are_those_of_the_model_and_the_rest_is_on_each_shard(ep: int, pp: int) -> None:
    shape = model("mixtral-8x7b")
    routed = sum(layer.ffn.experts * layer.ffn.expert_params for layer in shape.layers)
    dealt = Deal(shape, ep=ep, pp=pp).params
    assert sum(stage.experts for stage in dealt) * ep == routed
    assert sum(stage.total - stage.experts for stage in dealt) == total_params(shape) - routed


@pytest.mark.parametrize("tp", [1, 2, 4, 8])
def test_tp_ranks_hold_the_model_once_but_for_norms_and_routers(tp: int) -> None:
    shape = model("mixtral-8x7b")
    (whole,), (dealt,) = Deal(shape).params, Deal(shape, tp=tp).params
    assert dealt.other == whole.other
    assert (dealt.total - dealt.other) * tp == whole.total - whole.other


def test_kv_heads_are_replicated_once_tp_exceeds_them() -> None:
    layer = Layer(attention(), moe(), 128)
    share = {tp: layer_share(layer, small(layer).formats, tp).attention for tp in (1, 4, 8)}
    queries, keys, replicated = 2 * 64 * 128, 2 * 64 * 64, 32
    assert share == {
        1: queries + keys + replicated,
        4: queries // 4 + keys // 4 + replicated,
        8: queries // 8 + keys // 4 + replicated,
    }


def test_mxfp4_blocks_are_dealt_whole_so_tp8_holds_12_of_90_a_rank() -> None:
    shape = model("gpt-oss-120b")
    layer = layer_kinds(shape)[0]
    assert (layer.ffn.width, shape.formats.experts.block) == (2880, 32)
    assert split_width(layer.ffn.width, 8, 32) == 12 * 32
    whole, dealt = (layer_share(layer, shape.formats, tp).expert for tp in (1, 8))
    assert whole == layer.ffn.expert_params
    assert 8 * dealt / whole == pytest.approx(96 / 90, rel=1e-6)


def test_a_vocabulary_that_tp_does_not_divide_is_padded() -> None:
    layer = Layer(attention(), moe(), 128)
    (dealt,) = Deal(small(layer), tp=8).params
    assert dealt.embedding == dealt.head == 13 * 64  # 100 rows over 8 ranks


def test_a_head_that_shares_the_embedding_is_held_again_only_on_another_stage() -> None:
    layer = Layer(attention(), moe(), 128)
    shape = small(layer, layer, head_params=0)
    assert [stage.head for stage in Deal(shape).params] == [0]
    assert [stage.embedding for stage in Deal(shape, pp=2).params] == [6400, 0]
    assert [stage.head for stage in Deal(shape, pp=2).params] == [0, 6400]


def test_the_ends_of_a_quantised_model_keep_their_own_format() -> None:
    shape = model("deepseek-v3")
    (memory,) = Deal(shape, ep=64).memory
    assert memory.embedding == memory.head == 129_280 * 7168 * 2
    assert memory.experts == pytest.approx(58 * 4 * 3 * 7168 * 2048, rel=1e-3)


def test_redundant_experts_are_counted_apart_and_weigh_as_much_as_any() -> None:
    shape = model("seed-s2")
    (memory,) = Deal(shape, ep=64, tp=2, redundant=48).memory
    expert = layer_share(shape.layers[0], shape.formats, 2).expert
    assert memory.experts + memory.redundant_experts == pytest.approx(16 * expert * 2, rel=1e-9)
    assert memory.redundant_experts == pytest.approx(3 * memory.experts, rel=1e-6)


@pytest.mark.parametrize("tp", [1, 2, 8])
def test_mla_caches_70272_bytes_a_token_of_deepseek_v3_on_each_tp_rank(tp: int) -> None:
    assert Deal(model("deepseek-v3"), ep=32, tp=tp).kv.bytes_per_token == (512 + 64) * 2 * 61 == 70_272


@pytest.mark.parametrize(("tp", "heads"), [(1, 4), (2, 2), (4, 1), (8, 1)])
def test_qwen3_235b_caches_its_kv_heads_split_over_tp_and_never_less_than_one(tp: int, heads: int) -> None:
    assert Deal(model("qwen3-235b-a22b"), ep=8, tp=tp).kv.bytes_per_token == 2 * heads * 128 * 2 * 94


def test_a_float8_cache_takes_half_the_bytes() -> None:
    shape = model("qwen3-235b-a22b")
    assert 2 * Deal(shape, ep=8, cache="float8").kv.bytes_per_token == Deal(shape, ep=8).kv.bytes_per_token


def test_layers_with_a_sliding_window_stop_growing_at_its_width() -> None:
    plain, sliding = Layer(attention(), moe(), 128), Layer(attention(window=100), moe(), 128)
    entry = 4 * (16 + 16) * 2
    kv = Deal(small(plain, sliding)).kv
    assert (kv.bytes_per_token, kv.bytes_per_request) == (entry, 100 * entry)
    short = Deal(small(plain, sliding), workload=Workload(inputTokens=30, outputTokens=20)).kv
    assert short.bytes_per_request == 50 * entry


def test_compressed_attention_caches_one_entry_for_several_tokens_beside_its_window() -> None:
    layer = Layer(attention(compression=4, window=64, indexer_dim=8), moe(), 128)
    entry = 4 * (16 + 16) * 2
    kv = Deal(small(layer)).kv
    assert (kv.bytes_per_token, kv.bytes_per_request) == (entry // 4 + 8 * 2, 64 * entry)


def test_linear_attention_keeps_a_float32_state_split_over_tp() -> None:
    layer = Layer(attention(kind="linear", state_elements=1024), moe(), 128)
    kv = Deal(small(layer), tp=4).kv
    assert (kv.bytes_per_token, kv.bytes_per_request) == (0, 256 * 4)
    assert kv.tokens_per_shard == kv.requests_per_shard * 2048


def test_the_kv_cache_takes_what_the_other_parts_leave() -> None:
    dealt = Deal(model("qwen3-235b-a22b"), ep=32)
    (memory,) = dealt.memory
    assert memory.total == int(H200.usable_bytes)
    assert dealt.kv.tokens_per_shard == memory.kv_cache // dealt.kv.bytes_per_token
    assert dealt.kv.requests_per_shard == memory.kv_cache // (2048 * dealt.kv.bytes_per_token)


def test_a_model_that_does_not_fit_shows_by_how_much_one_request_misses() -> None:
    dealt = Deal(model("qwen3-235b-a22b"), ep=2)
    (memory,) = dealt.memory
    assert memory.kv_cache == 2048 * 2 * 4 * 128 * 2 * 94
    assert memory.total > H200.usable_bytes
    assert dealt.kv.requests_per_shard == 1


def test_the_stage_with_the_least_room_bounds_the_requests() -> None:
    layer = Layer(attention(), moe(), 128)
    dealt = Deal(small(*[layer] * 3), pp=2)
    uneven = tuple(max(1, stage.kv_cache // divisor) for stage, divisor in zip(dealt.memory, (1, 1000), strict=True))
    memory = tuple(
        stage.model_copy(update={"kv_cache": size}) for stage, size in zip(dealt.memory, uneven, strict=True)
    )
    kv = kv_cache(dealt.shape, dealt.layout, dealt.stages, memory, dealt.limits, dealt.workload, "bfloat16")
    a_layer = 4 * 32 * 2
    assert kv.bytes_per_token == 2 * a_layer
    last = dealt.stages[1].layers
    assert kv.requests_per_shard == uneven[1] // (2048 * last * a_layer)


def test_training_counts_gradients_and_optimizer_and_no_kv_cache() -> None:
    shape = model("seed-s4")
    dealt = Deal(shape, ep=8, tp=4, pp=4, workload=Workload(mode="training"))
    for memory, params in zip(dealt.memory, dealt.params, strict=True):
        assert memory.gradients == pytest.approx(2 * params.total, abs=1)
        assert memory.optimizer == pytest.approx(12 * params.total, abs=1)
        assert memory.kv_cache == 0
    serving = Deal(shape, ep=8, tp=4, pp=4).memory[0]
    assert (serving.gradients, serving.optimizer) == (0, 0)
    assert dealt.memory[0].activations > serving.activations


def test_buffers_grow_with_the_batch_and_shrink_with_the_capacity_factor() -> None:
    shape = model("deepseek-v3")

    def buffers(tokens: int, factor: float | None) -> int:
        limits = Limits(max_model_length=4096, max_batch_tokens=tokens, capacity_factor=factor)
        (memory,) = Deal(shape, ep=64, limits=limits).memory
        return memory.communication

    assert buffers(4096, None) == pytest.approx(2 * buffers(2048, None), rel=1e-3)
    assert buffers(4096, 1.2) == pytest.approx(4096 * 8 * 1.2 * 7168 * 2 * 2, rel=1e-3)
    assert buffers(4096, 1.2) < buffers(4096, None)


def test_a_single_rank_has_no_communication_buffers() -> None:
    assert Deal(model("olmoe-1b-7b")).memory[0].communication == 0


@given(
    ep=st.sampled_from([1, 2, 4, 8]),
    tokens=st.integers(1, 10_000),
    factor=st.none() | st.floats(0.1, 100),
    redundant=st.sampled_from([0, 8]),
)
def test_no_more_rows_arrive_at_a_rank_than_exist(ep: int, tokens: int, factor: float | None, redundant: int) -> None:
    experts = deal(8, redundant if ep > 1 else 0, ep)
    limits = Limits(max_model_length=tokens, max_batch_tokens=tokens, capacity_factor=factor)
    rows = arriving_rows(moe(), ep, experts.per_rank, busiest_load(experts), limits)
    assert 0 < rows <= tokens * ep * 2


sizes = st.sampled_from([1, 2, 4, 8])


@given(
    ep=sizes, tp=sizes, pp=st.integers(1, 5), window=st.sampled_from([None, 32]), head_params=st.sampled_from([0, 6400])
)
def test_ranks_together_hold_the_model_and_only_what_is_replicated_more_than_once(
    ep: int, tp: int, pp: int, window: int | None, head_params: int
) -> None:
    layers = (
        Layer(attention(window=window), DenseFfn(96, 3, 3 * 64 * 96), 128),
        *[Layer(attention(), moe(), 128)] * 4,
    )
    shape = small(*layers, head_params=head_params)
    dealt = Deal(shape, ep=ep, tp=tp, pp=pp).params
    assert sum(stage.experts for stage in dealt) * ep * tp == 4 * 8 * 3 * 64 * 48
    copies = sum(stage.total for stage in dealt) * ep * tp
    assert copies >= total_params(shape)
    assert dealt[0].redundant_experts == 0
    if ep == tp == 1:
        extra = 6400 if not head_params and pp > 1 else 0
        assert copies == total_params(shape) + extra


@given(tp=sizes, ep=sizes)
def test_more_ranks_never_hold_more_each(tp: int, ep: int) -> None:
    shape = small(*[Layer(attention(), moe(), 128)] * 3)
    here = Deal(shape, ep=ep, tp=tp).params[0].total
    assert Deal(shape, ep=min(8, 2 * ep), tp=tp).params[0].total <= here
    assert Deal(shape, ep=ep, tp=min(8, 2 * tp)).params[0].total <= here


@given(st.integers(1, 10**6), st.integers(1, 64), st.sampled_from([1, 16, 32, 128]))
def test_shards_of_a_width_cover_it_in_whole_blocks(width: int, tp: int, block: int) -> None:
    each = split_width(width, tp, block)
    assert each % block == 0
    assert width <= each * tp < width + (block * tp if block > 1 else tp)


@given(st.floats(1e6, 1e12))
def test_parts_add_up_whatever_the_memory(memory_bytes: float) -> None:
    shape = small(*[Layer(attention(), moe(), 128)] * 2)
    (memory,) = Deal(shape, hardware=replace(H200, memory_bytes=memory_bytes)).memory
    parts = memory.model_dump(exclude={"pp", "total"})
    assert sum(parts.values()) == memory.total
    assert min(parts.values()) >= 0
