"""What a config.json may ask for within a family, each computed as transformers computes it."""

from pathlib import Path
from typing import Any

import pytest
import torch
from threads import ThreadedRanks, generate
from tiny_models import NEW_TOKENS, PROMPTS, TinyModel, make_tiny
from tiny_plans import tiny_plan
from transformers import LlamaConfig
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

from moe_plan.bundled import unexecuted_family, unloaded_dtype
from moe_plan.catalogue.models import load_model, model_names
from moe_plan.spec import WeightDtype
from moe_runtime.checkpoint import open_weights
from moe_runtime.errors import UnsupportedModel
from moe_runtime.formats import COMPUTE
from moe_runtime.models import FAMILIES, parse_config
from moe_runtime.models.rope import frequencies

QWEN3_MOE: dict[str, dict[str, Any]] = {
    "weights that do not add up to one": {"norm_topk_prob": False},
    "biases in attention": {"attention_bias": True},
    "dense layers among the others": {"mlp_only_layers": [1]},
    "every other layer dense": {"decoder_sparse_step": 2},
    "only dense layers in the second stage": {"mlp_only_layers": [2]},
    "a sliding window": {"use_sliding_window": True, "sliding_window": 8},
    "a window that is switched off": {"use_sliding_window": False, "sliding_window": 8},
    "a shared embedding and head": {"tie_word_embeddings": True},
    "one KV head": {"num_key_value_heads": 1},
    "as many KV heads as heads": {"num_key_value_heads": 8},
    "four experts a token": {"num_experts_per_tok": 4},
    "heads wider than the hidden states": {"head_dim": 16},
    "YaRN": {
        "rope_parameters": {
            "rope_type": "yarn",
            "rope_theta": 100.0,
            "factor": 4.0,
            "original_max_position_embeddings": 16,
        }
    },
}
MIXTRAL: dict[str, dict[str, Any]] = {
    "a sliding window": {"sliding_window": 5},
    "a shared embedding and head": {"tie_word_embeddings": True},
    "one expert a token": {"num_experts_per_tok": 1},
    "linear RoPE scaling": {"rope_parameters": {"rope_type": "linear", "rope_theta": 10.0, "factor": 3.0}},
}
CASES = [("qwen3_moe", *case) for case in QWEN3_MOE.items()] + [("mixtral", *case) for case in MIXTRAL.items()]


@pytest.mark.parametrize(("family", "_what", "config"), CASES, ids=[f"{family}: {what}" for family, what, _ in CASES])
def test_a_family_option_gives_the_tokens_of_transformers(
    tmp_path: Path, family: str, _what: str, config: dict[str, Any]
) -> None:
    tiny = make_tiny(tmp_path, family, **config)
    plan = tiny_plan(tiny.config, ep=2, tp=2, pp=2)
    ranks = ThreadedRanks(plan, open_weights(plan, tmp_path))
    try:
        assert generate(ranks.step, plan, PROMPTS, NEW_TOKENS) == tiny.greedy(PROMPTS)
    finally:
        ranks.close()


YARN = {"rope_type": "yarn", "rope_theta": 10_000.0, "factor": 4.0, "original_max_position_embeddings": 2048}
SCALINGS: list[dict[str, Any]] = [
    {"rope_type": "linear", "rope_theta": 10_000.0, "factor": 2.5},
    {
        "rope_type": "llama3",
        "rope_theta": 500_000.0,
        "factor": 8.0,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 1024,
    },
    YARN,
    {**YARN, "beta_fast": 16, "beta_slow": 2},
    {**YARN, "attention_factor": 0.7},
    {**YARN, "mscale": 0.7, "mscale_all_dim": 1.3},
    {**YARN, "truncate": False},
]


@pytest.mark.parametrize("parameters", SCALINGS, ids=str)
def test_rope_scaling_has_the_frequencies_of_transformers(parameters: dict[str, Any]) -> None:
    shape = {"hidden_size": 512, "num_attention_heads": 8, "max_position_embeddings": 8192}
    theirs, their_factor = ROPE_INIT_FUNCTIONS[parameters["rope_type"]](
        LlamaConfig(**shape, rope_parameters=dict(parameters)), torch.device("cpu")
    )
    config = {
        "model_type": "mixtral",
        "num_hidden_layers": 1,
        "num_key_value_heads": 8,
        "vocab_size": 8,
        "num_experts_per_tok": 1,
        "intermediate_size": 8,
        "num_local_experts": 2,
        **shape,
    }
    new_style = parse_config({**config, "rope_parameters": parameters}).angles()
    older = {name: value for name, value in parameters.items() if name != "rope_theta"}
    old_style = parse_config({**config, "rope_theta": parameters["rope_theta"], "rope_scaling": older}).angles()
    assert new_style == old_style
    ours, our_factor = frequencies(new_style)
    torch.testing.assert_close(ours, theirs)
    assert our_factor == pytest.approx(their_factor)


@pytest.mark.parametrize(
    ("field", "change"), [("model.dtype", {"dtype": "float8"}), ("model.kv_cache_dtype", {"kv_dtype": "int4"})]
)
def test_number_formats_that_the_runtime_lacks_are_refused_before_ranks_start(
    mixtral: TinyModel, field: str, change: dict[str, str]
) -> None:
    with pytest.raises(UnsupportedModel, match=rf"^plan: {field}: \w+ is not executed by this runtime \(float32, "):
        open_weights(tiny_plan(mixtral.config, **change), None)


EXECUTED = [name for name in model_names() if load_model(name).config["model_type"] in FAMILIES]


@pytest.mark.parametrize("name", EXECUTED)
def test_the_catalogue_s_models_of_these_families_are_executed(name: str) -> None:
    spec = parse_config(load_model(name).config).spec()
    assert len(spec.layers) == load_model(name).config["num_hidden_layers"]


def test_the_planner_knows_which_families_and_formats_the_runtime_executes() -> None:
    for name in model_names():
        config = load_model(name).config
        assert (unexecuted_family(config) is None) == (config.get("model_type") in FAMILIES)
    assert {dtype for dtype in WeightDtype if unloaded_dtype(dtype) is None} == set(COMPUTE)
