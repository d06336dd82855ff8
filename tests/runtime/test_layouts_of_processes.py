"""The matrix of layouts once more, each rank a process, talking through shared memory."""

from collections.abc import Iterator
from contextlib import contextmanager
from itertools import count

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


@contextmanager
def processes(plan: Plan, tiny: TinyModel, keep: str = "tokens") -> Iterator[RankHost]:
    host = RankHost(plan, tiny.path, "cpu", keep)
    try:
        host.wait_ready(READY_DEADLINE_S)
        yield host
    finally:
        host.stop()


def tokens_of(host: RankHost, prompts: list[list[int]], chunk_tokens: int) -> list[list[int]]:
    numbers = count(1)

    def step(micro_batches: list) -> list:
        return host.run_step(Step(next(numbers), tuple(tuple(map(tuple, shards)) for shards in micro_batches)))

    return generate(step, host.plan, prompts, NEW_TOKENS, chunk_tokens)


def test_processes_give_the_tokens_and_logits_of_transformers(qwen3_moe: TinyModel) -> None:
    plan = tiny_plan(qwen3_moe.config, **LAYOUTS["ep, tp and pp"])
    chunks = tuple((Chunk(s, tuple(PROMPTS[s]), 0, (0,), Sampling()),) for s in range(2))
    with processes(plan, qwen3_moe, keep="logits") as host:
        drawn = host.run_step(Step(0, (chunks,)))
        for sampled, row in zip(drawn, host.logits(), strict=True):
            expected = qwen3_moe.logits(PROMPTS[sampled.request])[-1]
            np.testing.assert_allclose(row, expected.numpy(), rtol=1e-4, atol=1e-4)
            assert sampled.token == expected.argmax()
        assert tokens_of(host, PROMPTS, 7) == qwen3_moe.greedy(PROMPTS)


@pytest.mark.slow
@pytest.mark.parametrize("layout", LAYOUTS.values(), ids=LAYOUTS.keys())
def test_processes_of_every_layout_give_the_tokens_of_transformers(mixtral: TinyModel, layout: dict) -> None:
    plan = tiny_plan(mixtral.config, **layout)
    with processes(plan, mixtral) as host:
        assert tokens_of(host, PROMPTS, 1000) == mixtral.greedy(PROMPTS)


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
    with processes(plan, tiny) as host:
        assert tokens_of(host, prompts, 16) == tiny.greedy(prompts)
