"""The model that ships for the quickstart is trained, whole, small, and the one that its manifest describes."""

import json
import math
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import yaml
from safetensors import safe_open
from tokenizers import Tokenizer
from torch import Tensor
from transformers import AutoModelForCausalLM, PreTrainedModel
from transformers.models.qwen3_moe.modeling_qwen3_moe import Qwen3MoeTopKRouter

from moe_plan.manifest import parse_deployment

ROOT = Path(__file__).parents[2]
EXAMPLE = ROOT / "examples" / "quickstart"
MODEL = EXAMPLE / "model"
TRAINING = ROOT / "tools" / "train_quickstart"

LAYERS, EXPERTS, TOP_K = 16, 64, 2
MAX_PERPLEXITY = 1.5
"""Of a passage it was trained on; weights that know nothing score the vocabulary's 2048."""
MAX_WEIGHT_BYTES = 20e6


def config() -> dict[str, object]:
    parsed: dict[str, object] = json.loads((MODEL / "config.json").read_text())
    return parsed


@pytest.fixture(scope="module")
def model() -> PreTrainedModel:
    torch.set_num_threads(1)
    return AutoModelForCausalLM.from_pretrained(MODEL, dtype=torch.float32)


@pytest.fixture(scope="module")
def passage() -> Tensor:
    """About 500 tokens from the middle of the text, [1, tokens]."""
    text = (TRAINING / "pride_and_prejudice_volume_1.txt").read_text()
    start = text.index("Chapter 10\n\n") + len("Chapter 10\n\n")
    tokenizer = Tokenizer.from_file(str(MODEL / "tokenizer.json"))
    return torch.tensor([tokenizer.encode(text[start : start + 1500]).ids])


@pytest.mark.slow
@torch.no_grad()
def test_it_has_learnt_the_text(model: PreTrainedModel, passage: Tensor) -> None:
    loss = float(model(passage, labels=passage).loss)
    assert math.exp(loss) < MAX_PERPLEXITY


@pytest.mark.slow
@torch.no_grad()
def test_it_goes_on_with_the_first_sentence_as_the_novel_does(model: PreTrainedModel) -> None:
    tokenizer = Tokenizer.from_file(str(MODEL / "tokenizer.json"))
    prompt = torch.tensor([tokenizer.encode("It is a truth universally acknowledged, that a single man").ids])
    answer = model.generate(prompt, attention_mask=torch.ones_like(prompt), max_new_tokens=8, do_sample=False)
    assert tokenizer.decode(answer[0, prompt.shape[1] :].tolist()).startswith(" in possession of a good fortune")


@pytest.mark.slow
@torch.no_grad()
def test_all_experts_of_all_layers_are_used(model: PreTrainedModel) -> None:
    text = (TRAINING / "pride_and_prejudice_volume_1.txt").read_text()
    ids = torch.tensor(Tokenizer.from_file(str(MODEL / "tokenizer.json")).encode(text[:60000]).ids)
    routes: list[Tensor] = []
    hooks = [
        module.register_forward_hook(lambda _module, _inputs, output: routes.append(output[2]))
        for module in model.modules()
        if isinstance(module, Qwen3MoeTopKRouter)
    ]
    model(ids[: len(ids) // 512 * 512].view(-1, 512))
    for hook in hooks:
        hook.remove()
    unused = {
        (layer, expert)
        for layer, chosen in enumerate(routes)
        for expert in set(range(EXPERTS)) - set(chosen.flatten().tolist())
    }
    assert len(routes) == LAYERS
    assert routes[0].shape[1] == TOP_K
    assert unused == set()


def test_it_has_the_shape_of_s1() -> None:
    shape = config()
    assert (shape["num_hidden_layers"], shape["num_experts"], shape["num_experts_per_tok"]) == (LAYERS, EXPERTS, TOP_K)


def test_its_weights_are_small_enough_for_a_repository() -> None:
    assert sum(file.stat().st_size for file in MODEL.iterdir()) < MAX_WEIGHT_BYTES


def test_its_tensors_bear_the_published_names() -> None:
    with safe_open(MODEL / "model.safetensors", framework="pt") as weights:
        names = set(weights.keys())
    experts = {
        f"model.layers.{layer}.mlp.experts.{expert}.{matrix}_proj.weight"
        for layer in range(LAYERS)
        for expert in range(EXPERTS)
        for matrix in ("gate", "up", "down")
    }
    assert experts <= names
    assert {f"model.layers.{layer}.mlp.gate.weight" for layer in range(LAYERS)} <= names


def test_its_tokenizer_restores_any_text() -> None:
    tokenizer = Tokenizer.from_file(str(MODEL / "tokenizer.json"))
    text = "My dear Mr. Bennet,\n\n“naïve” 東京 🙂"
    assert tokenizer.decode(tokenizer.encode(text).ids) == text
    assert tokenizer.get_vocab_size() == config()["vocab_size"]
    assert tokenizer.token_to_id("<|endoftext|>") == config()["eos_token_id"]


def test_the_manifest_describes_the_checkpoint_beside_it() -> None:
    spec = parse_deployment(yaml.safe_load((EXAMPLE / "moedeployment.yaml").read_text())).spec
    assert spec.model.config == config()
    assert (spec.parallelism.ep, spec.parallelism.tp, spec.parallelism.pp) == (64, 2, 1)


@pytest.mark.slow
def test_its_training_script_writes_a_checkpoint_that_transformers_agrees_with(tmp_path: Path) -> None:
    command = [sys.executable, str(TRAINING / "train.py"), "--out", str(tmp_path), "--steps", "1"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    assert "transformers' logits within" in done.stdout
    assert {file.name for file in tmp_path.iterdir()} == {file.name for file in MODEL.iterdir()} - {"README.md"}
