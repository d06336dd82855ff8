"""What the tests of the cost model are made of: hardware, models of any shape, loads, and a prediction of them."""

from dataclasses import replace
from typing import Any

from hypothesis import strategies as st

from moe_plan import spec
from moe_plan.catalogue.hardware import resolve_hardware
from moe_plan.catalogue.models import load_model
from moe_plan.config import read_config
from moe_plan.cost import predict
from moe_plan.cost.constants import constants
from moe_plan.experts import deal
from moe_plan.hardware import Hardware
from moe_plan.layout import Layout
from moe_plan.memory import kv_cache, stage_memory
from moe_plan.model import Attention, DenseFfn, Formats, Layer, ModelShape, MoeFfn, NumberFormat
from moe_plan.plan import Limits, Prediction
from moe_plan.spec import WeightDtype, Workload
from moe_plan.stages import balance, make_stages

BF16 = NumberFormat("bfloat16", 2.0)
PARTS = ("compute", "memory", "tp_all_reduce", "dispatch", "combine", "pp_send", "pp_bubble", "overhead", "queueing")
KERNELS, COLLECTIVES, ROUTING = constants().kernels, constants().collectives, constants().routing


def hardware(name: str = "h200-sxm", **fields: Any) -> Hardware:
    return resolve_hardware(spec.Hardware(accelerator=name, **fields))


def model(name: str) -> ModelShape:
    return read_config(load_model(name).config, name, WeightDtype.AUTO)


def workload(inputs: int = 1024, outputs: int = 1024, concurrency: int = 128) -> Workload:
    return Workload(inputTokens=inputs, outputTokens=outputs, concurrency=concurrency)


def predicted(
    shape: ModelShape,
    ep: int = 1,
    tp: int = 1,
    pp: int = 1,
    of: Hardware | None = None,
    load: Workload | None = None,
    replicas: int = 1,
    micro_batches: int = 1,
    redundant: int = 0,
    cache: str = "bfloat16",
    runtime: str = "moe",
) -> Prediction:
    layout, of, load = Layout(ep, tp, pp), of or hardware(), load or workload()
    experts = deal(max(layer.ffn.experts for layer in shape.layers if isinstance(layer.ffn, MoeFfn)), redundant, ep)
    stages = make_stages(balance([1] * len(shape.layers), pp))
    length = load.input_tokens + load.output_tokens
    limits = Limits(max_model_length=length, max_batch_tokens=min(8192, length), capacity_factor=None)
    memory = tuple(stage_memory(shape, layout, experts, stage, of, limits, load, cache) for stage in stages)
    kv = kv_cache(shape, layout, stages, memory, limits, load, cache)
    return predict(shape, layout, experts, stages, of, load, replicas, micro_batches, kv, runtime)


def faster(of: Hardware, memory: float = 1.0, flops: float = 1.0, links: float = 1.0, latency: float = 1.0) -> Hardware:
    return replace(
        of,
        memory_bandwidth_bytes_per_s=of.memory_bandwidth_bytes_per_s * memory,
        flops=tuple((name, rate * flops) for name, rate in of.flops),
        links=tuple(
            replace(
                tier,
                bandwidth_bytes_per_s=tier.bandwidth_bytes_per_s * links,
                latency_s=tier.latency_s / latency,
            )
            for tier in of.links
        ),
    )


def gqa(hidden: int, heads: int, kv_heads: int, head_dim: int, window: int | None = None) -> Attention:
    query, kv = 2 * hidden * heads * head_dim, 2 * hidden * kv_heads * head_dim
    return Attention("gqa", heads, kv_heads, head_dim, head_dim, query, kv, 0, window=window)


def latent(hidden: int, heads: int) -> Attention:
    params = hidden * heads * 128
    return Attention("mla", heads, heads, 192, 128, params, 0, hidden * 576, latent_dim=576)


def linear(hidden: int, heads: int) -> Attention:
    params = hidden * heads * 128
    return Attention("linear", heads, heads, 128, 128, params, params, 0, state_elements=heads * 128 * 128)


HIDDEN = 1024
attentions = st.sampled_from(
    [gqa(HIDDEN, 16, 8, 128), gqa(HIDDEN, 16, 8, 128, window=128), latent(HIDDEN, 16), linear(HIDDEN, 16)]
)
ffns = st.builds(
    lambda top_k, width, shared: MoeFfn(
        16, top_k, width, 3, 3 * HIDDEN * width, shared, 3 * HIDDEN * shared, HIDDEN * 16
    ),
    st.integers(1, 8),
    st.sampled_from([512, 4096]),
    st.sampled_from([0, 512]),
)
DENSE = DenseFfn(4096, 3, 3 * HIDDEN * 4096)
MOE = MoeFfn(16, 2, 512, 3, 3 * HIDDEN * 512, 512, 3 * HIDDEN * 512, HIDDEN * 16)


def any_shape(*layers: Layer) -> ModelShape:
    ends = 32000 * HIDDEN
    formats = Formats(BF16, BF16, BF16, "bfloat16")
    return ModelShape("any", "test", HIDDEN, 32000, ends, ends, HIDDEN, layers, 1 << 20, formats)


shapes = st.builds(
    lambda attention, ffn, count: any_shape(
        Layer(attention, DENSE, 2 * HIDDEN), *[Layer(attention, ffn, 2 * HIDDEN)] * count
    ),
    attentions,
    ffns,
    st.integers(4, 12),
)
loads = st.builds(workload, st.integers(1, 4096), st.integers(1, 4096), st.integers(1, 2000))
degrees = st.fixed_dictionaries(
    {
        "ep": st.sampled_from([1, 2, 8, 16]),
        "tp": st.sampled_from([1, 2, 8]),
        "pp": st.sampled_from([1, 2, 5]),
        "micro_batches": st.sampled_from([1, 2, 8]),
        "replicas": st.integers(1, 3),
    }
)
machines = st.sampled_from(["h200-sxm", "gb200-nvl72", "mi300x", "a100-sxm-40gb", "cpu"])


def active_params(shape: ModelShape) -> int:
    """Parameters that multiply each token, embedding and head apart."""
    total = 0
    for layer in shape.layers:
        held, ffn = layer.attention, layer.ffn
        total += held.query_params + held.kv_params + held.replicated_params
        total += ffn.params if isinstance(ffn, DenseFfn) else ffn.top_k * ffn.expert_params + ffn.shared_params
    return total
