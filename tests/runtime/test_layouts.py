"""Whatever the layout, the tokens are those that transformers gives for the same checkpoint, in float32."""

from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import torch
from threads import ThreadedRanks, generate
from tiny_models import NEW_TOKENS, PROMPTS, VOCAB, TinyModel
from tiny_plans import tiny_plan

from moe_plan.plan import Plan
from moe_runtime.checkpoint import open_weights
from moe_runtime.step import Chunk, Sampling

LAYOUTS = {
    "one rank": {},
    "ep only": {"ep": 4},
    "tp only": {"tp": 2},
    "pp only": {"pp": 3},
    "tp larger than the KV heads": {"tp": 4},
    "ep, tp and pp": {"ep": 2, "tp": 2, "pp": 2},
    "another rank order": {"ep": 2, "tp": 2, "pp": 2, "rank_order": ("ep", "pp", "tp")},
    "tp outermost": {"ep": 2, "tp": 2, "pp": 2, "rank_order": ("tp", "ep", "pp")},
    "uneven stages": {"ep": 2, "pp": 2, "stage_layers": (1, 2)},
    "redundant experts": {"ep": 4, "redundant": 4},
    "more ep than experts": {"ep": 16, "redundant": 24},
    "experts dealt by load": {
        "ep": 2,
        "tp": 2,
        "redundant": 2,
        "exceptions": {1: (7, 3, 1, 0, 2, 5, 4, 6, 3, 7)},
    },
    "micro-batches": {"pp": 2, "ep": 2, "micro_batches": 2},
}


@pytest.fixture(params=["mixtral", "qwen3_moe"])
def tiny(request: pytest.FixtureRequest) -> TinyModel:
    return request.getfixturevalue(request.param)


@contextmanager
def ranks(plan: Plan, tiny: TinyModel, device: str = "cpu") -> Iterator[ThreadedRanks]:
    threaded = ThreadedRanks(plan, open_weights(plan, tiny.path), device)
    try:
        yield threaded
    finally:
        threaded.close()


@pytest.mark.parametrize("layout", LAYOUTS.values(), ids=LAYOUTS.keys())
def test_every_layout_gives_the_tokens_of_transformers(tiny: TinyModel, layout: dict) -> None:
    plan = tiny_plan(tiny.config, **layout)
    with ranks(plan, tiny) as threaded:
        assert generate(threaded.step, plan, PROMPTS, NEW_TOKENS) == tiny.greedy(PROMPTS)


def test_a_prompt_computed_in_chunks_gives_the_same_tokens(tiny: TinyModel) -> None:
    plan = tiny_plan(tiny.config, ep=2, tp=2, micro_batches=2)
    with ranks(plan, tiny) as threaded:
        assert generate(threaded.step, plan, PROMPTS, NEW_TOKENS, chunk_tokens=7) == tiny.greedy(PROMPTS)


def test_a_long_prompt_is_attended_to_in_pieces_and_gives_the_same_tokens(tiny: TinyModel) -> None:
    prompts = [[(7 * i) % VOCAB for i in range(430)], [(5 * i) % VOCAB for i in range(300)], [3, 4]]
    plan = tiny_plan(tiny.config, ep=1, tokens_per_shard=4096)
    with ranks(plan, tiny) as threaded:
        assert generate(threaded.step, plan, prompts, 2) == tiny.greedy(prompts, 2)


def test_logits_of_a_split_model_are_those_of_transformers(tiny: TinyModel) -> None:
    plan = tiny_plan(tiny.config, ep=2, tp=4, pp=2)
    prompt = tuple(PROMPTS[2])
    chunk = Chunk(0, prompt, 0, (4, 2, 9), Sampling())
    with ranks(plan, tiny) as threaded:
        (sampled,) = threaded.step([[[], [chunk]]])
        answering = next(executor for executor in threaded.executors if len(executor.logits))
    expected = tiny.logits(list(prompt))[-1]
    torch.testing.assert_close(answering.logits[0], expected, rtol=1e-4, atol=1e-4)
    assert sampled.logprob == pytest.approx(expected.log_softmax(-1)[sampled.token].item(), abs=1e-4)


def test_a_layout_does_not_change_synthetic_weights(tiny: TinyModel) -> None:
    tokens = []
    for layout in ({}, {"ep": 2, "tp": 4}, {"ep": 4, "pp": 2, "redundant": 4}):
        plan = tiny_plan(tiny.config, **layout)
        threaded = ThreadedRanks(plan, open_weights(plan, None))
        tokens.append(generate(threaded.step, plan, PROMPTS, NEW_TOKENS))
        threaded.close()
    assert tokens[0] == tokens[1] == tokens[2]


@pytest.mark.parametrize(
    ("dtype", "kv_dtype"), [("bfloat16", None), ("float32", "bfloat16"), ("float32", "float8"), ("float16", None)]
)
def test_reduced_precision_stays_close_to_float32(tiny: TinyModel, dtype: str, kv_dtype: str | None) -> None:
    plan = tiny_plan(tiny.config, tp=2, dtype=dtype, kv_dtype=kv_dtype)
    chunk = Chunk(0, tuple(PROMPTS[3]), 0, (0,), Sampling())
    with ranks(plan, tiny) as threaded:
        threaded.step([[[chunk]]])
        logits = threaded.executors[0].logits[0]
    expected = tiny.logits(PROMPTS[3])[-1]
    assert torch.nn.functional.cosine_similarity(logits, expected, dim=0) > 0.99


def test_tokens_are_spread_over_the_copies_of_an_expert(mixtral: TinyModel) -> None:
    plan = tiny_plan(mixtral.config, ep=4, redundant=24)
    chunks = [[Chunk(s, tuple(PROMPTS[2]), 0, (0, 1, 2), Sampling())] for s in range(4)]
    with ranks(plan, mixtral) as threaded:
        threaded.step([chunks])
        loads = [communicator.rows for communicator in threaded.communicators]
    assert min(loads) > 0.9 * max(loads), "each rank holds a copy of each expert, and so a fair share of the rows"


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("layout", [{}, {"ep": 2, "tp": 2, "pp": 2, "redundant": 2}], ids=["one rank", "all three"])
def test_a_gpu_gives_the_tokens_of_transformers(tiny: TinyModel, layout: dict) -> None:
    plan = tiny_plan(tiny.config, **layout)
    with ranks(plan, tiny, "cuda") as threaded:
        assert generate(threaded.step, plan, PROMPTS, NEW_TOKENS) == tiny.greedy(PROMPTS)
