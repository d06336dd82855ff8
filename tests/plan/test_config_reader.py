"""A config.json in, a model's shape out, or one sentence for each problem."""

import copy
import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from moe_plan.catalogue.models import load_model, model_names
from moe_plan.config import read_config
from moe_plan.config.families import FAMILIES, WRAPPERS
from moe_plan.config.infer import readable
from moe_plan.errors import ManifestError, Violation
from moe_plan.model import DenseFfn, ModelShape, MoeFfn
from moe_plan.parameters import total_params
from moe_plan.spec import WeightDtype

QWEN3 = {
    "model_type": "qwen3_moe",
    "hidden_size": 64,
    "head_dim": 16,
    "intermediate_size": 128,
    "moe_intermediate_size": 32,
    "num_attention_heads": 8,
    "num_key_value_heads": 2,
    "num_experts": 16,
    "num_experts_per_tok": 4,
    "num_hidden_layers": 3,
    "max_position_embeddings": 512,
    "vocab_size": 256,
}


def read(config: dict[str, Any], dtype: WeightDtype = WeightDtype.AUTO) -> ModelShape:
    return read_config(config, "a-model", dtype)


def published(name: str, dtype: WeightDtype = WeightDtype.AUTO) -> ModelShape:
    return read_config(load_model(name).config, name, dtype)


def problems(config: dict[str, Any]) -> dict[str, Violation]:
    with pytest.raises(ManifestError) as error:
        read(config)
    return {violation.field.removeprefix("spec.model.config."): violation for violation in error.value.violations}


def moe_of(shape: ModelShape) -> MoeFfn:
    ffn = shape.layers[-1].ffn
    assert isinstance(ffn, MoeFfn)
    return ffn


# What is read


def test_a_small_qwen3_has_the_parameters_of_its_tensors() -> None:
    attention = 64 * 8 * 16 * 2 + 64 * 2 * 16 * 2 + 2 * 16
    experts = 16 * 3 * 64 * 32 + 64 * 16
    assert total_params(read(QWEN3)) == 2 * 256 * 64 + 3 * (attention + experts + 2 * 64) + 64


@pytest.mark.parametrize("family", [*FAMILIES, *WRAPPERS])
def test_a_config_of_nothing_but_its_family_is_told_what_is_missing(family: str) -> None:
    text = {"model_type": WRAPPERS.get(family, family)}
    with pytest.raises(ManifestError) as caught:
        read_config({"model_type": family, "text_config": text} if family in WRAPPERS else text, "x", WeightDtype.AUTO)
    assert "MissingField" in {violation.code for violation in caught.value.violations}


def test_the_name_and_the_family_are_kept() -> None:
    shape = read(QWEN3)
    assert (shape.name, shape.family, shape.hidden, shape.vocab, shape.max_positions) == (
        "a-model",
        "qwen3_moe",
        64,
        256,
        512,
    )


def test_a_tied_head_has_no_weights_of_its_own() -> None:
    assert read({**QWEN3, "tie_word_embeddings": True}).head_params == 0
    assert read(QWEN3).head_params == read(QWEN3).embedding_params == 64 * 256


def test_dense_layers_of_qwen3_stand_where_the_config_says() -> None:
    kinds = [type(layer.ffn) for layer in read({**QWEN3, "mlp_only_layers": [1]}).layers]
    assert kinds == [MoeFfn, DenseFfn, MoeFfn]
    assert read({**QWEN3, "decoder_sparse_step": 2}).moe_layers == (1,)


def test_the_first_layers_of_deepseek_v3_are_dense() -> None:
    shape = published("deepseek-v3")
    assert shape.moe_layers == tuple(range(3, 61))
    dense = shape.layers[0].ffn
    assert isinstance(dense, DenseFfn)
    assert dense.width == 18432


def test_latent_attention_caches_one_latent_and_one_rotary_key() -> None:
    attention = published("deepseek-v3").layers[0].attention
    assert (attention.kind, attention.latent_dim, attention.qk_dim, attention.v_dim) == ("mla", 576, 192, 128)
    assert attention.kv_heads == attention.heads == 128


def test_sparse_attention_reads_what_its_indexer_selects() -> None:
    attention = published("deepseek-v3.2").layers[0].attention
    assert (attention.selected, attention.indexer_dim) == (2048, 128)
    assert published("glm-5").layers[0].attention.selected == 2048
    assert published("deepseek-v3").layers[0].attention.selected is None


def test_layers_of_glm_may_share_an_indexer() -> None:
    config = {**load_model("glm-5").config, "indexer_types": ["full"] * 3 + ["shared"] * 75}
    layers = read(config).layers
    assert layers[2].attention.indexer_dim == 128
    assert layers[3].attention.indexer_dim == 0
    assert layers[3].attention.selected == 2048
    assert layers[3].attention.replicated_params < layers[2].attention.replicated_params


@pytest.mark.parametrize(
    ("name", "windows"),
    [
        ("gpt-oss-20b", [128, None] * 12),
        ("llama-4-scout", [8192, 8192, 8192, None] * 12),
        ("gemma-4-26b-a4b", [1024, 1024, 1024, 1024, 1024, None] * 5),
        ("mixtral-8x7b", [None] * 32),
    ],
)
def test_windows_follow_the_layer_pattern(name: str, windows: list[int | None]) -> None:
    assert [layer.attention.window for layer in published(name).layers] == windows


def test_gemma_4_has_wider_heads_in_its_full_layers() -> None:
    near, far = (published("gemma-4-26b-a4b").layers[i].attention for i in (0, 5))
    assert (near.qk_dim, near.kv_heads) == (256, 8)
    assert (far.qk_dim, far.kv_heads) == (512, 2)
    assert far.kv_params == 2 * 512 * 2816  # one projection for K and V


def test_every_other_layer_of_maverick_has_experts() -> None:
    assert published("llama-4-maverick").moe_layers == tuple(range(1, 48, 2))


@pytest.mark.parametrize(("name", "linear", "full"), [("qwen3.5-397b-a17b", 45, 15), ("kimi-k3", 69, 24)])
def test_hybrids_keep_a_state_in_linear_layers_and_a_cache_in_the_others(name: str, linear: int, full: int) -> None:
    attentions = [layer.attention for layer in published(name).layers]
    assert sum(a.kind == "linear" for a in attentions) == linear
    assert sum(a.state_elements > 0 for a in attentions) == linear
    assert sum(a.kind in ("gqa", "mla") for a in attentions) == full


def test_experts_of_kimi_k3_work_in_a_latent_width() -> None:
    ffn = moe_of(published("kimi-k3"))
    assert (ffn.expert_hidden, ffn.expert_params) == (3584, 3 * 3584 * 3072)


def test_deepseek_v4_compresses_its_cache_by_layer() -> None:
    layers = published("deepseek-v4-flash").layers
    assert [layer.attention.compression for layer in layers[:5]] == [1, 1, 4, 128, 4]
    assert [layer.attention.selected for layer in layers[:5]] == [None, None, 512, None, 512]


def test_multi_token_prediction_is_known_but_not_counted() -> None:
    shape = published("deepseek-v3")
    assert shape.uncounted_params == pytest.approx(11.6e9, rel=0.01)  # README_WEIGHTS.md: 11.5B of its own
    assert total_params(shape) == pytest.approx(671.03e9, rel=1e-4)


def test_shared_experts_count_with_their_gate() -> None:
    ffn = moe_of(published("qwen2-57b-a14b"))
    assert (ffn.shared_width, ffn.shared_params) == (20480, 3 * 3584 * 20480 + 3584)


# Storage


@pytest.mark.parametrize(
    ("name", "experts", "linear"),
    [
        ("deepseek-v3", ("float8", 128), ("float8", 128)),
        ("gpt-oss-120b", ("mxfp4", 32), ("bfloat16", 1)),
        ("kimi-k2.5", ("int4", 32), ("bfloat16", 1)),
        ("kimi-k3", ("mxfp4", 32), ("bfloat16", 1)),
        ("deepseek-v4-pro", ("mxfp4", 32), ("float8", 128)),
        ("seed-s4", ("float16", 1), ("float16", 1)),
    ],
)
def test_auto_stores_weights_as_published(name: str, experts: tuple[str, int], linear: tuple[str, int]) -> None:
    formats = published(name).formats
    assert (formats.experts.name, formats.experts.block) == experts
    assert (formats.linear.name, formats.linear.block) == linear
    assert formats.other.name == formats.compute


@pytest.mark.parametrize("dtype", [WeightDtype.FLOAT8, WeightDtype.MXFP4, WeightDtype.INT4])
def test_a_quantised_dtype_applies_to_the_linear_layers_alone(dtype: WeightDtype) -> None:
    formats = published("qwen3-30b-a3b", dtype).formats
    assert formats.experts.name == formats.linear.name == dtype.value
    assert formats.other.name == formats.compute == "bfloat16"


@pytest.mark.parametrize("dtype", [WeightDtype.FLOAT32, WeightDtype.BFLOAT16, WeightDtype.FLOAT16])
def test_a_plain_dtype_undoes_quantisation_everywhere(dtype: WeightDtype) -> None:
    formats = published("deepseek-v3", dtype).formats
    assert {formats.experts.name, formats.linear.name, formats.other.name, formats.compute} == {dtype.value}


@pytest.mark.parametrize(
    ("dtype", "size"),
    [("float32", 4.0), ("bfloat16", 2.0), ("float8", 1 + 4 / 128**2), ("mxfp4", 0.53125), ("int4", 0.515625)],
)
def test_a_parameter_costs_its_bits_and_its_share_of_the_scale(dtype: str, size: float) -> None:
    assert published("qwen3-30b-a3b", WeightDtype(dtype)).formats.experts.bytes_per_param == size


def test_float8_without_blocks_has_one_scale_a_tensor() -> None:
    formats = read({**QWEN3, "quantization_config": {"quant_method": "fp8"}}).formats
    assert (formats.experts.name, formats.experts.block, formats.experts.bytes_per_param) == ("float8", 1, 1.0)


def test_norms_of_attention_left_in_bfloat16_do_not_unquantise_attention() -> None:
    spared = ["lm_head", "model.layers.0.self_attn.q_a_layernorm", "model.layers.0.self_attn.indexers_proj"]
    quantized = {"quant_method": "fp8", "weight_block_size": [128, 128], "modules_to_not_convert": spared}
    assert read({**QWEN3, "quantization_config": quantized}).formats.linear.name == "float8"


def test_an_unknown_quantisation_asks_for_a_dtype_and_a_dtype_settles_it() -> None:
    config = {**QWEN3, "quantization_config": {"quant_method": "novel"}}
    violation = problems(config)["quantization_config.quant_method"]
    assert violation.code == "UnknownQuantization"
    assert "spec.model.dtype" in violation.remedy
    assert read(config, WeightDtype.BFLOAT16).formats.experts.name == "bfloat16"


# What is refused


def test_a_dense_model_is_said_to_be_dense() -> None:
    violation = problems({"model_type": "llama", "hidden_size": 4096})["model_type"]
    assert violation.code == "NotMoE"
    assert "'llama'" in violation.message
    assert "dense" in violation.message


def test_a_family_configured_without_experts_is_said_to_be_dense() -> None:
    config = copy.deepcopy(load_model("gemma-4-26b-a4b").config)
    config["text_config"]["enable_moe_block"] = False
    assert problems(config)["model_type"].code == "NotMoE"
    assert problems({**QWEN3, "mlp_only_layers": [0, 1, 2]})["model_type"].code == "NotMoE"


def test_an_unknown_family_is_answered_with_the_nearest() -> None:
    violation = problems({**QWEN3, "model_type": "qwen3_mo"})["model_type"]
    assert (violation.code, violation.remedy) == ("UnknownFamily", "did you mean qwen3_moe?")


@pytest.mark.parametrize("model_type", [None, 7, ["qwen3_moe"], {}, True])
def test_a_model_type_that_is_no_name_is_refused(model_type: Any) -> None:
    assert "model_type" in problems({**QWEN3, "model_type": model_type})


@pytest.mark.parametrize("key", sorted(set(QWEN3) - {"model_type", "head_dim", "intermediate_size"}))
def test_a_missing_field_is_named(key: str) -> None:
    config = {name: value for name, value in QWEN3.items() if name != key}
    if key == "num_key_value_heads":
        assert read(config).layers[0].attention.kv_heads == 8  # as many as heads
    else:
        assert problems(config)[key].code == "MissingField"


@pytest.mark.parametrize(
    ("value", "code"),
    [
        ("16", "WrongType"),
        (16.0, "WrongType"),
        (True, "WrongType"),
        ([16], "WrongType"),
        (0, "OutOfRange"),
        (-1, "OutOfRange"),
        (2**31, "OutOfRange"),
        pytest.param(10**5000, "OutOfRange", id="thousands of digits"),
        (float("nan"), "WrongType"),
    ],
)
def test_a_wrong_number_is_named_with_what_was_given(value: Any, code: str) -> None:
    violation = problems({**QWEN3, "num_experts": value})["num_experts"]
    assert violation.code == code
    assert "must be" in violation.message
    assert len(violation.message) < 100


def test_an_absurd_number_of_layers_is_refused_before_it_costs_memory() -> None:
    assert problems({**QWEN3, "num_hidden_layers": 10**9})["num_hidden_layers"].code == "OutOfRange"


def test_all_problems_are_told_at_once_and_each_once_without_what_only_follows_from_them() -> None:
    found = problems({**QWEN3, "num_experts": None, "hidden_size": "64", "vocab_size": -1, "tie_word_embeddings": 1})
    assert set(found) == {"num_experts", "hidden_size", "vocab_size", "tie_word_embeddings"}


def test_a_problem_in_the_text_model_is_named_by_its_path() -> None:
    config = copy.deepcopy(load_model("llama-4-scout").config)
    del config["text_config"]["num_local_experts"]
    assert set(problems(config)) == {"text_config.num_local_experts"}


def test_more_experts_a_token_than_experts_is_refused() -> None:
    assert "16 experts" in problems({**QWEN3, "num_experts_per_tok": 17})["num_experts_per_tok"].message


def test_kv_heads_that_do_not_divide_the_heads_are_refused() -> None:
    assert problems({**QWEN3, "num_key_value_heads": 3})["num_key_value_heads"].code == "HeadsNotDivisible"


def test_a_pattern_shorter_than_the_model_is_refused() -> None:
    config = {**load_model("gpt-oss-20b").config, "layer_types": ["full_attention"] * 3}
    violation = problems(config)["layer_types"]
    assert (violation.code, violation.message) == ("WrongLength", "has 3 entries where the model has 24 layers")


def test_a_kind_of_layer_that_is_unknown_is_refused() -> None:
    config = {**load_model("gpt-oss-20b").config, "layer_types": ["novel"] * 24}
    assert "'novel'" in problems(config)["layer_types"].message


# Whatever is written into a config, the answer is a shape or sentences

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=6,
)
NUMBERS = st.integers(-2, 200) | st.sampled_from([2**31 - 1, 2**63])


def refusals(config: Any, dtype: WeightDtype) -> tuple[Violation, ...]:
    try:
        shape = read(config, dtype)
    except ManifestError as error:
        return error.violations
    assert shape.moe_layers
    assert total_params(shape) > 0
    return ()


def answer(config: Any, dtype: WeightDtype) -> None:
    violations = refusals(config, dtype)
    assert len(set(violations)) == len(violations)
    for violation in violations:
        assert violation.field.startswith("spec.model.config")
        assert violation.code
        assert violation.message


@st.composite
def garbled(draw: st.DrawFn) -> dict[str, Any]:
    """A catalogue config with some fields, nested ones included, dropped or replaced."""
    config = json.loads(json.dumps(load_model(draw(st.sampled_from(model_names()))).config))
    sections = [config, *(value for value in config.values() if isinstance(value, dict))]
    sections += [value for section in sections[1:] for value in section.values() if isinstance(value, dict)]
    for _ in range(draw(st.integers(1, 4))):
        section = draw(st.sampled_from(sections))
        if section:
            key = draw(st.sampled_from(sorted(section)))
            if draw(st.booleans()):
                section[key] = draw(NUMBERS | JSON)
            else:
                section.pop(key)
    return config


@settings(max_examples=400, deadline=None)
@given(garbled(), st.sampled_from(WeightDtype))
def test_a_garbled_config_is_answered_with_a_shape_or_sentences(config: dict[str, Any], dtype: WeightDtype) -> None:
    answer(config, dtype)


@settings(max_examples=100, deadline=None)
@given(st.dictionaries(st.sampled_from(["model_type", "text_config", "num_experts", "hidden_size", "x"]), JSON))
def test_any_object_is_answered_with_a_shape_or_sentences(config: dict[str, Any]) -> None:
    answer(config, WeightDtype.AUTO)


@pytest.mark.parametrize("model_type", [None, 7, ["qwen3_moe"], {}, True, "llama"])
def test_a_config_that_names_no_unknown_family_of_experts_is_left_as_it_is(model_type: Any) -> None:
    config = {"model_type": model_type, "hidden_size": 64}
    assert readable(config) == (config, None)
