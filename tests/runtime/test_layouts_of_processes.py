"""The matrix of layouts once more, each rank a process, talking through shared memory."""

import numpy as np
import pytest
from threads import generate
from tiny_models import NEW_TOKENS, PROMPTS, TinyModel, make_tiny
from tiny_plans import tiny_plan

from moe_plan.plan import Plan
from moe_runtime.host.rank_host import RankHost
from moe_runtime.step import Chunk, Sampling, Step

READY_DEADLINE_S = 240
LAYOUTS = {
    "ep, tp and pp": {"ep": 2, "tp": 2, "pp": 2, "micro_batches": 2},
    "uneven stages, tp larger than the KV heads": {"tp": 4, "pp": 2, "stage_layers": (2, 1)},
    "redundant experts and another rank order": {
        "ep": 4,
        "tp": 2,
        "pp": 2,
        "redundant": 4,
        "rank_order": ("ep", "pp", "tp"),
        "micro_batches": 2,
    },
}


def tokens_of_processes(plan: Plan, tiny: TinyModel, prompts: list[list[int]], chunk_tokens: int) -> list[list[int]]:
    host = RankHost(plan, tiny.path, "cpu")
    try:
        host.wait_ready(READY_DEADLINE_S)
        steps = iter(range(10_000))

        def step(micro_batches: list) -> list:
            return host.run_step(Step(next(steps), tuple(tuple(map(tuple, shards)) for shards in micro_batches)))

        return generate(step, plan, prompts, NEW_TOKENS, chunk_tokens)
    finally:
        host.stop()


def test_processes_give_the_tokens_of_transformers(qwen3_moe: TinyModel) -> None:
    plan = tiny_plan(qwen3_moe.config, **LAYOUTS["ep, tp and pp"])
    assert tokens_of_processes(plan, qwen3_moe, PROMPTS, 7) == qwen3_moe.greedy(PROMPTS)


@pytest.mark.slow
@pytest.mark.parametrize("layout", LAYOUTS.values(), ids=LAYOUTS.keys())
def test_processes_of_every_layout_give_the_tokens_of_transformers(mixtral: TinyModel, layout: dict) -> None:
    plan = tiny_plan(mixtral.config, **layout)
    assert tokens_of_processes(plan, mixtral, PROMPTS, 1000) == mixtral.greedy(PROMPTS)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("family", "layout"),
    [
        ("mixtral", {"ep": 64, "tp": 2}),
        ("qwen3_moe", {"ep": 16, "tp": 4, "pp": 2, "redundant": 32, "micro_batches": 2}),
        ("mixtral", {"ep": 8, "tp": 4, "pp": 4, "micro_batches": 4, "rank_order": ("ep", "pp", "tp")}),
    ],
    ids=["EP64·TP2", "EP16·TP4·PP2, redundant experts", "EP8·TP4·PP4, another rank order"],
)
def test_128_ranks_give_the_tokens_of_transformers(
    tmp_path_factory: pytest.TempPathFactory, family: str, layout: dict
) -> None:
    experts = {"mixtral": "num_local_experts", "qwen3_moe": "num_experts"}[family]
    tiny = make_tiny(tmp_path_factory.mktemp("large"), family, num_hidden_layers=4, **{experts: 64})
    kinds = [[(31 * i + j) % 99 for j in range(1 + 5 * i)] for i in range(6)]
    prompts = [kinds[i % 6] for i in range(layout["ep"] + 6)]
    plan = tiny_plan(tiny.config, **layout)
    assert plan.degrees.world == 128
    assert tokens_of_processes(plan, tiny, prompts, 16) == tiny.greedy(prompts)


def test_logits_of_processes_are_those_of_transformers(mixtral: TinyModel) -> None:
    plan = tiny_plan(mixtral.config, ep=2, tp=2)
    host = RankHost(plan, mixtral.path, "cpu", keep="logits")
    try:
        host.wait_ready(READY_DEADLINE_S)
        chunks = tuple((Chunk(s, tuple(PROMPTS[s]), 0, (0,), Sampling()),) for s in range(2))
        drawn = host.run_step(Step(0, (chunks,)))
        logits = host.logits()
    finally:
        host.stop()
    for sampled, row in zip(drawn, logits, strict=True):
        expected = mixtral.logits(PROMPTS[sampled.request])[-1]
        np.testing.assert_allclose(row, expected.numpy(), rtol=1e-4, atol=1e-4)
        assert sampled.token == expected.argmax()
