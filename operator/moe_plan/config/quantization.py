"""How a config.json says its weights are stored, and what a dtype chosen in the manifest makes of that.

Each format's cost is its bits and its share of the block's scale. float8 blocks of 128 × 128 carry one float32
(DeepSeek-V3, arXiv:2412.19437, section 3.3); mxfp4 blocks of 32 one 8-bit exponent (OCP Microscaling Formats v1.0);
int4 groups one 16-bit scale (compressed-tensors, pack-quantized).
"""

import re
from dataclasses import replace

from moe_plan.config.fields import Fields
from moe_plan.model import Formats, NumberFormat
from moe_plan.spec import WeightDtype

COMPUTE_FORMATS = {name: NumberFormat(name, size) for name, size in (("float32", 4), ("bfloat16", 2), ("float16", 2))}
FLOAT8_BLOCK = 128
MXFP4 = NumberFormat("mxfp4", (4 + 8 / 32) / 8, 32)
INT4_GROUP = 128

_WHOLE_ATTENTION = re.compile(r"attn[.*\\w]*$|attention[.*\\w]*$")
"""An entry of modules_to_not_convert that spares the attention of every layer, not one of its norms."""


def float8(block: int = FLOAT8_BLOCK) -> NumberFormat:
    """8-bit floats with a scale for each block × block weights; block 1 is one scale for a tensor."""
    return NumberFormat("float8", 1 + (4 / block**2 if block > 1 else 0), block)


def int4(group: int = INT4_GROUP) -> NumberFormat:
    """4-bit integers with a scale for each group of weights."""
    return NumberFormat("int4", 0.5 + 2 / group, group)


def read_formats(fields: Fields, quantized: Fields, dtype: WeightDtype) -> Formats:
    """Storage of the model's weights. `fields` is the section that holds dtype, `quantized` quantization_config.

    A dtype from the manifest replaces the published storage: of everything, or for float8, mxfp4 and int4 of the
    experts and the other linear layers, while embedding, head, norms and routers stay in the config's dtype.
    """
    key = "dtype" if fields.has("dtype") else "torch_dtype"
    compute = COMPUTE_FORMATS[fields.word(key, COMPUTE_FORMATS, "bfloat16")]
    if dtype is WeightDtype.AUTO:
        return _published(quantized, compute)
    if dtype.value in COMPUTE_FORMATS:
        return _plain(COMPUTE_FORMATS[dtype.value])
    chosen = {WeightDtype.FLOAT8: float8(), WeightDtype.MXFP4: MXFP4, WeightDtype.INT4: int4()}[dtype]
    return replace(_plain(compute), experts=chosen, linear=chosen)


def _plain(compute: NumberFormat) -> Formats:
    return Formats(experts=compute, linear=compute, other=compute, compute=compute.name)


def _published(fields: Fields, compute: NumberFormat) -> Formats:
    quantization = fields.section("quantization_config")
    plain = _plain(compute)
    if quantization is None:
        return plain
    stored = _stored(quantization)
    if stored is None:
        return plain
    experts = MXFP4 if fields.word("expert_dtype", ("fp4", "fp8"), "fp8") == "fp4" else stored
    linear = compute if _spares_attention(quantization) else stored
    return replace(plain, experts=experts, linear=linear)


def _stored(quantization: Fields) -> NumberFormat | None:
    method = quantization.values.get("quant_method")
    if method == "fp8":
        blocks = quantization.counts("weight_block_size", length=2)
        return float8(max(1, blocks[0])) if blocks else float8(1)
    if method == "mxfp4":
        return MXFP4
    if method in ("awq", "gptq") and quantization.values.get("bits", quantization.values.get("w_bit")) == 4:
        return int4(quantization.count_or(INT4_GROUP, "group_size", "q_group_size"))
    if method == "compressed-tensors":
        return _compressed(quantization)
    _unknown(quantization, "quant_method", f"{method!r}"[:60])
    return None


def _compressed(quantization: Fields) -> NumberFormat | None:
    """The first group of a compressed-tensors config (https://github.com/vllm-project/compressed-tensors)."""
    groups = quantization.section("config_groups")
    group = groups.section(next(iter(groups.values))) if groups is not None and groups.values else None
    weights = group.section("weights") if group is not None else None
    if weights is None:
        _unknown(quantization, "config_groups", "without weights")
        return None
    kind, bits = weights.values.get("type"), weights.count("num_bits")
    if (kind, bits) == ("float", 8):
        return float8(1)
    if (kind, bits) == ("float", 4) and weights.count_or(0, "group_size") == MXFP4.block:
        return MXFP4
    if (kind, bits) == ("int", 4):
        return int4(weights.count_or(INT4_GROUP, "group_size"))
    _unknown(weights, "num_bits", f"{bits} of type {kind!r}"[:60])
    return None


def _unknown(fields: Fields, key: str, found: str) -> None:
    remedy = "state the weights' format in spec.model.dtype"
    fields.note(key, "UnknownQuantization", f"is {found}, a quantisation that the planner does not know", remedy)


def _spares_attention(quantization: Fields) -> bool:
    """Whether only the experts are quantised: attention is listed as spared, or the method never touches it."""
    spared = [*_texts(quantization, "modules_to_not_convert"), *_texts(quantization, "ignore")]
    return quantization.values.get("quant_method") == "mxfp4" or any(_WHOLE_ATTENTION.search(name) for name in spared)


def _texts(fields: Fields, key: str) -> list[str]:
    value = fields.values.get(key)
    return [entry for entry in value if isinstance(entry, str)] if isinstance(value, list) else []
