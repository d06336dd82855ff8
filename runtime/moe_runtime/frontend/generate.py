"""`generate`: greedy answers to a file of prompts, without HTTP."""

import asyncio
import json
import logging
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from moe_plan.plan import Plan
from moe_runtime.frontend.engine import Ask, Engine, Ranks
from moe_runtime.frontend.metrics import Metrics
from moe_runtime.frontend.schedule import Progress
from moe_runtime.frontend.tokenizer import end_tokens
from moe_runtime.step import Sampling

log = logging.getLogger(__name__)

PROGRESS_S = 2.0
"""Time between two words about how far it is."""


def generate(
    plan: Plan,
    checkpoint: Path,
    prompts: Sequence[tuple[int, ...]],
    max_tokens: int,
    ranks: Ranks,
    renew: Callable[[], Ranks],
) -> list[Progress]:
    """The last token of each prompt's answer, with its request. Raises RuntimeFailure.

    An answer ends after max_tokens or with a token that the checkpoint's configuration ends answers with, included.
    """
    ends = end_tokens(checkpoint, plan.model.config)
    asks = [Ask(prompt, max_tokens, Sampling(), ends) for prompt in prompts]
    return asyncio.run(_generate(plan, asks, ranks, renew))


def as_json(plan: Plan, answers: Sequence[Progress]) -> bytes:
    """The file of answers: tokens by prompt, why each ended, and of which model and layout they are."""
    degrees = plan.degrees
    content: dict[str, Any] = {
        "tokens": [answer.request.tokens for answer in answers],
        "finish_reasons": [answer.finish_reason for answer in answers],
        "model": plan.model.name,
        "layout": {**degrees.model_dump(), "rank_order": plan.rank_order, "redundant_experts": plan.experts.redundant},
        "dtype": plan.model.compute_dtype,
    }
    return json.dumps(content).encode("ascii") + b"\n"


async def _generate(plan: Plan, asks: Sequence[Ask], ranks: Ranks, renew: Callable[[], Ranks]) -> list[Progress]:
    engine = Engine(plan, ranks, renew, Metrics())
    running = asyncio.create_task(engine.run())
    collecting = asyncio.create_task(_collect(engine, asks))
    try:
        await asyncio.wait({running, collecting}, return_when=asyncio.FIRST_COMPLETED)
        return await collecting
    finally:
        for task in (running, collecting):
            task.cancel()
        await asyncio.gather(running, collecting, return_exceptions=True)


async def _collect(engine: Engine, asks: Sequence[Ask]) -> list[Progress]:
    answers = engine.submit(asks)
    last: dict[int, Progress] = {}
    made, told = 0, time.monotonic()
    async for progress in answers:
        last[progress.request.number] = progress
        made += 1
        if time.monotonic() - told > PROGRESS_S:
            told = time.monotonic()
            log.info("generated %d of at most %d tokens", made, sum(ask.max_tokens for ask in asks))
    return [last[request.number] for request in answers.requests]
