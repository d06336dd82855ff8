"""Whatever the layout, the tokens are those that transformers gives for the same checkpoint, in float32."""

from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from threads import ThreadedRanks, generate
from tiny_models import NEW_TOKENS, PROMPTS, TinyModel
from tiny_plans import tiny_plan

from moe_plan.plan import Plan
from moe_runtime.checkpoint import open_weights

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
def ranks(plan: Plan, tiny: TinyModel) -> Iterator[ThreadedRanks]:
    threaded = ThreadedRanks(plan, open_weights(plan, tiny.path))
    try:
        yield threaded
    finally:
        threaded.close()


@pytest.mark.parametrize("layout", LAYOUTS.values(), ids=LAYOUTS.keys())
def test_every_layout_gives_the_tokens_of_transformers(tiny: TinyModel, layout: dict) -> None:
    plan = tiny_plan(tiny.config, **layout)
    with ranks(plan, tiny) as threaded:
        assert generate(threaded.step, plan, PROMPTS, NEW_TOKENS) == tiny.greedy(PROMPTS)
