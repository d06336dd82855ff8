"""The catalogue's models: known by name, and of the size that their publishers state."""

import copy
from pathlib import Path
from typing import Any

import pytest

from moe_plan.catalogue.models import Published, load_model, model_names
from moe_plan.catalogue.table import models_page
from moe_plan.config import read_config
from moe_plan.errors import ManifestError
from moe_plan.model import ModelShape
from moe_plan.parameters import active_params, attention_params, layer_params, total_params
from moe_plan.spec import WeightDtype

DOCS = Path(__file__).parents[2] / "docs"
DEPLOYED = tuple(
    """mixtral-8x7b mixtral-8x22b qwen2-57b-a14b qwen3-30b-a3b qwen3-235b-a22b deepseek-v2-lite deepseek-v3
deepseek-r1 deepseek-v3.2 deepseek-v4-flash deepseek-v4-pro kimi-k2 kimi-k2.5 kimi-k3 gpt-oss-20b gpt-oss-120b glm-4.5
glm-4.5-air glm-5 llama-4-scout llama-4-maverick olmoe-1b-7b qwen3.5-397b-a17b minimax-m2 minimax-m2.5 gemma-4-26b-a4b
seed-s1 seed-s2 seed-s3 seed-s4""".split()  # noqa: SIM905  thirty names, readable
)
REAL = [name for name in DEPLOYED if not name.startswith("seed-")]


def shape_of(name: str) -> ModelShape:
    return read_config(load_model(name).config, name, WeightDtype.AUTO)


def counted(shape: ModelShape, published: Published, layers: int) -> int:
    parts = {
        "layers": layers,
        "embedding": shape.embedding_params,
        "head": shape.head_params,
        "prediction": shape.uncounted_params,
    }
    return sum(parts[part] for part in published.counts) + published.beyond


def agrees(count: int, published: Published) -> bool:
    """Within 1 %, or printing as the published figure when rounded or cut off."""
    rounded = abs(count - published.params) <= published.half_digit
    cut_off = 0 <= count - published.params < 2 * published.half_digit
    return abs(count / published.params - 1) <= 0.01 or rounded or cut_off


def test_the_catalogue_holds_what_people_deploy() -> None:
    assert set(DEPLOYED) == set(model_names())


@pytest.mark.parametrize("name", REAL)
def test_total_parameters_agree_with_the_published_ones(name: str) -> None:
    shape, published = shape_of(name), load_model(name).published_total
    assert published is not None
    layers = total_params(shape) - shape.embedding_params - shape.head_params
    count = counted(shape, published, layers)
    assert agrees(count, published), f"{count:,} for {published.figure}"


@pytest.mark.parametrize("name", REAL)
def test_active_parameters_agree_with_the_published_ones(name: str) -> None:
    shape, published = shape_of(name), load_model(name).published_active
    assert published is not None
    layers = active_params(shape) - (shape.head_params or shape.embedding_params)
    count = counted(shape, published, layers)
    assert agrees(count, published), f"{count:,} for {published.figure}"


@pytest.mark.parametrize(
    ("name", "tensors"),
    [("mixtral-8x7b", 46_702_792_704), ("qwen3-235b-a22b", 235_093_634_560), ("deepseek-v3", 671_026_419_200)],
)
def test_total_parameters_are_those_of_the_checkpoints_tensors(name: str, tensors: int) -> None:
    assert total_params(shape_of(name)) == pytest.approx(tensors, rel=1e-5)


@pytest.mark.parametrize("name", REAL)
def test_every_model_says_where_its_figures_come_from(name: str) -> None:
    model = load_model(name)
    assert model.source.startswith("hf://")
    assert model.source.removeprefix("hf://").split("/")[0] in model.citation
    assert "figures:" in model.citation


def test_a_published_count_beyond_the_config_is_explained() -> None:
    for model in map(load_model, model_names()):
        if model.published_total is not None and model.published_total.beyond:
            assert model.note, model.name


@pytest.mark.parametrize(
    ("typed", "meant"),
    [("qwen3-235b-a22", "qwen3-235b-a22b"), ("Mixtral-8x22B", "mixtral-8x22b"), ("deepseekv3", "deepseek-v3")],
)
def test_a_misspelt_name_is_answered_with_the_nearest(typed: str, meant: str) -> None:
    with pytest.raises(ManifestError) as error:
        load_model(typed)
    (violation,) = error.value.violations
    assert (violation.field, violation.code) == ("spec.model.architecture", "UnknownModel")
    assert repr(typed) in violation.message
    assert violation.remedy == f"did you mean {meant}?"


@pytest.mark.parametrize("typed", ["", "../models/mixtral-8x7b", "__init__", "zzzzzzzzzz", "mixtral-8x7b.json"])
def test_a_name_that_is_no_model_is_refused(typed: str) -> None:
    with pytest.raises(ManifestError):
        load_model(typed)


@pytest.mark.parametrize(
    ("name", "experts", "hidden", "width", "storage"),
    [
        ("seed-s1", 64, 1024, 2048, "float8"),
        ("seed-s2", 16, 4096, 16384, "bfloat16"),
        ("seed-s3", 64, 1024, 2048, "bfloat16"),
        ("seed-s4", 64, 1024, 2048, "float16"),
    ],
)
def test_the_seeds_have_the_shape_of_their_documents(
    name: str, experts: int, hidden: int, width: int, storage: str
) -> None:
    shape = shape_of(name)
    assert len(shape.layers) == len(shape.moe_layers) == 16
    ffn = shape.layers[0].ffn
    assert (ffn.experts, shape.hidden, ffn.width) == (experts, hidden, width)  # type: ignore[union-attr]
    assert shape.formats.experts.name == storage


def test_a_layers_classes_add_up_to_the_layer() -> None:
    for name in REAL:
        for layer in shape_of(name).layers:
            params = layer_params(layer)
            parts = (params.experts, params.shared, params.dense, params.router, params.other)
            assert params.total == attention_params(layer.attention) + sum(parts)
            assert params.active <= params.total


def test_the_models_page_is_what_the_catalogue_gives() -> None:
    """Rewrite it with `python -m moe_plan.catalogue.table > docs/models.md`."""
    assert (DOCS / "models.md").read_text() == models_page()


# The same configs, instantiated by transformers without memory: the classes that read the published checkpoints.

CUT = 6
"""Layers kept of each model: enough for a dense, a sparse, a sliding, a full, a linear and a hashed one."""

TRANSFORMERS_NAMES = {"kimi_k2": "deepseek_v3"}


def cut(config: dict[str, Any], layers: int) -> dict[str, Any]:
    short = copy.deepcopy(config)
    for section in (short, short.get("text_config", {})):
        section.pop("quantization_config", None)
        if "num_hidden_layers" in section:
            section["num_hidden_layers"] = layers
        for key in ("layer_types", "compress_ratios"):
            if section.get(key):
                section[key] = section[key][:layers]
    return short


def transformers_params(config: dict[str, Any]) -> int:
    """Parameters of the text model, and what its checkpoint holds beside them as buffers."""
    import torch  # noqa: PLC0415  seconds that the fast tests do not need
    from transformers import AutoConfig, AutoModelForCausalLM  # noqa: PLC0415

    fields = dict(config)
    model_type = fields.pop("model_type")
    with torch.device("meta"):
        model_config = AutoConfig.for_model(TRANSFORMERS_NAMES.get(model_type, model_type), **fields)
        model = AutoModelForCausalLM.from_config(model_config)
    text = [p for name, p in model.named_parameters() if "vision" not in name]
    stored = [b for name, b in model.named_buffers() if name.endswith(("e_score_correction_bias", "layer_scalar"))]
    return sum(tensor.numel() for tensor in text + stored)


@pytest.mark.slow
@pytest.mark.parametrize("name", [n for n in DEPLOYED if n not in ("kimi-k2.5", "kimi-k3")])
def test_parameters_are_those_of_the_transformers_class(name: str) -> None:
    config = cut(load_model(name).config, CUT)
    assert total_params(read_config(config, name, WeightDtype.AUTO)) == transformers_params(config)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["deepseek-v2-lite", "gpt-oss-20b", "mixtral-8x7b", "olmoe-1b-7b", "qwen3-30b-a3b"])
def test_parameters_of_the_whole_model_are_those_of_the_transformers_class(name: str) -> None:
    config = load_model(name).config
    bare = {key: value for key, value in config.items() if key != "quantization_config"}
    assert total_params(shape_of(name)) == transformers_params(bare)


@pytest.mark.slow
def test_parameters_of_kimi_linear_are_those_of_the_transformers_class() -> None:
    linear = {"full_attn_layers": [4, 6], "kda_layers": [1, 2, 3, 5], "num_heads": 32, "head_dim": 128}
    config = {
        "model_type": "kimi_linear",
        "vocab_size": 163840,
        "hidden_size": 2304,
        "intermediate_size": 9216,
        "moe_intermediate_size": 1024,
        "num_hidden_layers": 6,
        "num_attention_heads": 32,
        "num_key_value_heads": 32,
        "num_experts": 16,
        "num_experts_per_token": 8,
        "num_shared_experts": 1,
        "first_k_dense_replace": 1,
        "kv_lora_rank": 512,
        "q_lora_rank": None,
        "qk_nope_head_dim": 128,
        "qk_rope_head_dim": 64,
        "v_head_dim": 128,
        "max_position_embeddings": 4096,
        "linear_attn_config": {**linear, "short_conv_kernel_size": 4},
    }
    assert total_params(read_config(config, "kimi-linear", WeightDtype.AUTO)) == transformers_params(config)


def test_parameters_of_kimi_k3_are_those_of_its_checkpoint() -> None:
    """Tensors of the checkpoint, by how many layers have them; experts unpacked, the padding of A_log left out."""
    hidden, wide, inner, width = 7168, 96 * 128, 3584, 3072
    each_layer = 6 * hidden + 2 * hidden * wide  # norms and residual attention; output gate and projection
    delta = 3 * (wide * hidden + wide * 4) + 128 * hidden + wide * 128 + wide + 96 * hidden + 96 + 128
    latent = 576 * hidden + 512 + 24576 * 512 + 1536 * hidden + 1536 + 18432 * 1536
    experts = 896 * (3 * inner * width) + 896 * hidden + 896 + 2 * hidden * inner + inner + 3 * 6144 * hidden
    dense = 3 * 33792 * hidden
    ends = 2 * 163840 * hidden + 3 * hidden
    expected = 93 * each_layer + 69 * delta + 24 * latent + 92 * experts + dense + ends
    assert total_params(shape_of("kimi-k3")) == expected
