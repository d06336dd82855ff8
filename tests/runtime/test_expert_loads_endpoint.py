"""From measurement to plan and back: a skewed model is rehearsed, its loads are saved, and a plan made by them runs it."""

import subprocess
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from endpoint import MOE, Endpoint
from safetensors.torch import load_file, save_file
from threads import ThreadedRanks, generate
from tiny_models import NEW_TOKENS, PROMPTS, TinyModel, make_tiny
from tiny_plans import tiny_plan
from transformers import MixtralForCausalLM

from moe_plan.experts import copies_of
from moe_plan.loads import parse_loads
from moe_plan.plan import Plan
from moe_runtime.checkpoint import open_weights
from moe_runtime.step import Chunk, Sampling

LAYERS, EXPERTS, TOP_K = 3, 8, 2


@pytest.fixture(scope="module")
def skewed(tmp_path_factory: pytest.TempPathFactory) -> TinyModel:
    """A Mixtral whose routers prefer experts 0, 1 and 2: their rows are longer, so that they win more often."""
    folder = tmp_path_factory.mktemp("skewed")
    make_tiny(folder, "mixtral")
    file = folder / "model.safetensors"
    weights = load_file(file)
    for name, router in weights.items():
        if name.endswith("block_sparse_moe.gate.weight"):
            weights[name] = router * torch.tensor([6.0, 5, 4, *[1] * (EXPERTS - 3)])[:, None]
    save_file(weights, file, {"format": "pt"})
    return TinyModel(folder, MixtralForCausalLM.from_pretrained(folder).eval())


def write_manifest(folder: Path, config: dict[str, Any]) -> Path:
    """A deployment of a checkpoint's model on 4 ep ranks with 4 copies of experts."""
    document = {
        "apiVersion": "moe-operator.dev/v1alpha1",
        "kind": "MoEDeployment",
        "metadata": {"name": "tiny"},
        "spec": {
            "model": {"config": config, "source": "random", "dtype": "float32"},
            "hardware": {"accelerator": "cpu", "gpusPerNode": 4},
            "parallelism": {"ep": 4, "redundantExperts": 4},
            "workload": {"inputTokens": 64, "outputTokens": 32, "concurrency": 8},
        },
    }
    path = folder / "moedeployment.yaml"
    path.write_text(yaml.safe_dump(document))
    return path


@torch.no_grad()
def routed_by_transformers(skewed: TinyModel) -> list[tuple[int, ...]]:
    """Tokens of each expert, layer by layer, of the prompts and all but the last token of their greedy answers."""
    counts = torch.zeros((LAYERS, EXPERTS), dtype=torch.int64)
    for prompt, answer in zip(PROMPTS, skewed.greedy(PROMPTS), strict=True):
        routed = skewed.model(torch.tensor([[*prompt, *answer[:-1]]]), output_router_logits=True).router_logits
        for layer, scores in enumerate(routed):
            counts[layer] += scores.topk(TOP_K).indices.flatten().bincount(minlength=EXPERTS)
    return [tuple(of_layer) for of_layer in counts.tolist()]


def moe(*arguments: str | Path) -> str:
    done = subprocess.run([*MOE, *map(str, arguments)], capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def served_tokens(plan: Plan, skewed: TinyModel, folder: Path, loads: Path | None = None) -> list[list[int]]:
    """The greedy tokens that an endpoint answers, after which its loads are saved."""
    with Endpoint(folder, plan, skewed.path) as endpoint, endpoint.client() as client:
        answers = []
        for prompt in PROMPTS:
            body = {"prompt": prompt, "max_tokens": NEW_TOKENS, "temperature": 0, "return_token_ids": True}
            answers.append(client.post("/v1/completions", json=body).json()["choices"][0]["token_ids"])
        if loads is not None:
            said = moe("loads", "--url", str(client.base_url), "-o", loads)
            assert "3 MoE layers" in said
    return answers


@pytest.mark.slow
def test_a_plan_by_measured_loads_is_more_even_and_gives_the_same_tokens(skewed: TinyModel, tmp_path: Path) -> None:
    manifest, loads = write_manifest(tmp_path, skewed.config), tmp_path / "loads.json"
    before = Plan.model_validate_json(moe("plan", "-f", manifest, "-o", "json"))
    assert served_tokens(before, skewed, tmp_path, loads) == skewed.greedy(PROMPTS)

    trace = parse_loads(loads.read_text(), "loads.json")
    assert trace.model == "tiny"
    # the last token of each answer is not computed on
    assert trace.tokens == sum(map(len, PROMPTS)) + len(PROMPTS) * (NEW_TOKENS - 1)
    assert trace.layers == dict(enumerate(routed_by_transformers(skewed)))

    after = Plan.model_validate_json(moe("plan", "-f", manifest, "--expert-loads", loads, "-o", "json"))
    assert after.expert_loads is not None
    assert after.expert_loads.imbalance < 0.9 * after.expert_loads.imbalance_without
    assert served_tokens(after, skewed, tmp_path) == skewed.greedy(PROMPTS)

    table = moe("plan", "-f", manifest, "--expert-loads", loads)
    assert f"{after.expert_loads.imbalance:.2f} times the mean" in table
    assert "redundantExperts" in table


def test_tokens_of_an_expert_are_dealt_evenly_over_uneven_numbers_of_copies(skewed: TinyModel) -> None:
    """Three copies of one expert and two of another: turning through a table of three would favour the first of two."""
    physical = (0, 1, 2, 0, 1, 3, 0, 4, 5, 6, 7, 2)
    plan = tiny_plan(skewed.config, ep=4, redundant=4, exceptions=dict.fromkeys(range(LAYERS), physical))
    prompt = tuple(token % 90 for token in range(120))
    chunks = [[Chunk(shard, prompt, 0, tuple(range(8)), Sampling())] for shard in range(4)]
    threaded = ThreadedRanks(plan, open_weights(plan, skewed.path))
    try:
        counted: list[list[int]] = [[0] * 3 for _ in range(4)]
        for ep, communicator in enumerate(threaded.communicators):
            count_arrivals(communicator, counted[ep])
        threaded.step([chunks])
        assert generate(threaded.step, plan, PROMPTS, NEW_TOKENS) == skewed.greedy(PROMPTS)
    finally:
        threaded.close()
    by_physical = [rows for of_rank in counted for rows in of_rank]
    for copies in copies_of(plan.experts, 0)[:3]:
        rows = [by_physical[copy] for copy in copies]
        assert max(rows) <= 1.25 * min(rows), rows


def count_arrivals(communicator: Any, counts: list[int]) -> None:
    """Add up the rows that come to each expert of a rank."""
    dispatch = communicator.dispatch

    def counting(hidden: torch.Tensor, experts: torch.Tensor) -> Any:
        arrived = dispatch(hidden, experts)
        for expert, rows in enumerate(arrived.counts):
            counts[expert] += rows
        return arrived

    communicator.dispatch = counting
