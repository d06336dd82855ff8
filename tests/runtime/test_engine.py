"""The engine when its ranks fail again and again: ranks that fail at will stand in for real ones."""

import asyncio
import threading
from collections.abc import Callable, Coroutine, Mapping, Sequence
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from tiny_plans import tiny_plan

from moe_runtime.errors import RankLost, RanksFailed, RuntimeFailure, SlotGone
from moe_runtime.frontend import engine as engine_module
from moe_runtime.frontend.engine import Ask, Engine, LostTooOften, Stopping
from moe_runtime.frontend.metrics import Metrics
from moe_runtime.step import Sampled, Sampling, Step

CONFIG = {"model_type": "qwen3_moe", "vocab_size": 99, "num_hidden_layers": 2, "num_experts": 8}
ASK = Ask((1, 2, 3), 5, Sampling())


class FragileRanks:
    """Answers position after position; is lost at the steps it is told."""

    def __init__(self, start: RuntimeFailure | None = None, lost_at: int | None = None) -> None:
        self._start = start
        self._lost_at = lost_at
        self._steps = 0
        self.stopped = threading.Event()
        self.lost_while_idle = False
        self.leaving: Sequence[int] = ()
        self.watched, self.released = threading.Event(), threading.Event()

    def wait_ready(self, deadline_s: float) -> None:
        assert deadline_s > 0
        if self._start:
            raise self._start

    def run_step(self, step: Step) -> list[Sampled]:
        self._steps += 1
        if self._steps == self._lost_at:
            raise RankLost(3, "was killed by SIGKILL")
        chunks = [chunk for batch in step.micro_batches for shard in batch for chunk in shard]
        return [Sampled(chunk.request, chunk.start + len(chunk.tokens), 0.0) for chunk in chunks if chunk.sampling]

    def stop(self) -> None:
        self.stopped.set()

    def check(self) -> None:
        if self.lost_while_idle:
            raise RankLost(3, "was killed by SIGKILL")

    def on_loss(self, call: Callable[[], None]) -> None:
        self.tell = call
        self.watched.set()

    def missing_slots(self) -> Sequence[int]:
        return ()

    def leaving_slots(self) -> Sequence[int]:
        return self.leaving

    def slow_slots(self) -> Mapping[int, float]:
        return {}

    def release(self, slots: Sequence[int]) -> None:
        assert slots == self.leaving
        self.released.set()

    def expert_tokens(self) -> NDArray[np.int64]:
        return np.zeros((2, 8), np.int64)

    def stage_times_s(self) -> NDArray[np.float64]:
        return np.zeros((1, 2))

    def memory_bytes(self) -> NDArray[np.int64]:
        return np.zeros(16, np.int64)

    def paces(self) -> Mapping[int, float]:
        return {}


class Stuck(FragileRanks):
    """Computes a step until stopped."""

    def run_step(self, step: Step) -> list[Sampled]:  # noqa: ARG002  # never computed
        assert self.stopped.wait(60)
        raise RankLost(None, "the ranks were stopped")


@pytest.fixture(autouse=True)
def no_backoff(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine_module, "BACKOFF_S", 0.0)


def drive(
    first: FragileRanks,
    renew: Callable[[], FragileRanks],
    story: Callable[[Engine, asyncio.Task[None]], Coroutine[Any, Any, None]],
) -> None:
    """Run an engine and the story of its client on one event loop."""

    async def run() -> None:
        engine = Engine(tiny_plan(CONFIG), first, renew, Metrics())
        running = asyncio.create_task(engine.run())
        await asyncio.wait({running, asyncio.create_task(engine.became_ready.wait())}, return_when="FIRST_COMPLETED")
        try:
            await asyncio.wait_for(story(engine, running), 60)
        finally:
            running.cancel()
            await asyncio.gather(running, return_exceptions=True)

    asyncio.run(run())


async def tokens_of(engine: Engine) -> list[int]:
    return [progress.token async for progress in engine.submit([ASK])]


def test_a_few_losses_are_not_noticed() -> None:
    made: list[FragileRanks] = []

    def renew() -> FragileRanks:
        made.append(FragileRanks(lost_at=2 if len(made) < 2 else None))
        return made[-1]

    async def story(engine: Engine, _running: asyncio.Task[None]) -> None:
        assert await tokens_of(engine) == [3, 4, 5, 6, 7]
        assert engine.status.state == "ready"

    drive(FragileRanks(lost_at=2), renew, story)
    assert len(made) == 3
    assert all(ranks.stopped.is_set() for ranks in made)


def test_ranks_lost_too_often_end_every_request_with_the_cause() -> None:
    async def story(engine: Engine, running: asyncio.Task[None]) -> None:
        with pytest.raises(LostTooOften, match="lost 6 times within 10 minutes; the last: rank 3 was killed"):
            await tokens_of(engine)
        with pytest.raises(LostTooOften):
            await running
        assert engine.status.state == "failed"
        assert "rank 3 was killed by SIGKILL" in engine.status.detail
        with pytest.raises(LostTooOften):
            engine.submit([ASK])

    drive(FragileRanks(lost_at=1), lambda: FragileRanks(lost_at=1), story)


@pytest.mark.parametrize("failure", [RanksFailed("no such tensor"), RankLost(0, "was killed by SIGKILL")])
def test_a_start_that_fails_is_not_tried_again(failure: RuntimeFailure) -> None:
    def renew() -> FragileRanks:
        pytest.fail("the ranks were started again")

    async def story(engine: Engine, running: asyncio.Task[None]) -> None:
        with pytest.raises(type(failure)):
            await running
        assert engine.status.state == "failed"
        assert not engine.became_ready.is_set()

    drive(FragileRanks(failure), renew, story)


def test_ranks_lost_while_they_start_again_are_started_once_more() -> None:
    starts = [FragileRanks(RankLost(1, "was killed by SIGKILL")), FragileRanks()]

    async def story(engine: Engine, _running: asyncio.Task[None]) -> None:
        assert await tokens_of(engine) == [3, 4, 5, 6, 7]

    drive(FragileRanks(lost_at=3), lambda: starts.pop(0), story)


def test_stopping_ends_what_does_not_finish_in_time() -> None:
    async def story(engine: Engine, running: asyncio.Task[None]) -> None:
        answer = asyncio.create_task(tokens_of(engine))
        await asyncio.sleep(0)
        await engine.drain(0.01)
        engine.abandon()
        with pytest.raises(Stopping):
            await answer
        with pytest.raises(Stopping):
            engine.submit([ASK])
        assert engine.status.state == "stopping"
        running.cancel()
        await asyncio.wait({running})

    ranks = Stuck()
    drive(ranks, Stuck, story)
    assert ranks.stopped.is_set()


def test_ranks_lost_while_nobody_asks_are_started_again() -> None:
    first, second = FragileRanks(), FragileRanks()

    async def story(engine: Engine, _running: asyncio.Task[None]) -> None:
        first.lost_while_idle = True
        await asyncio.to_thread(first.tell)
        assert await asyncio.to_thread(second.watched.wait, 60)
        assert await tokens_of(engine) == [3, 4, 5, 6, 7]

    drive(first, lambda: second, story)
    assert first.stopped.is_set()


def test_a_slot_that_leaves_is_let_go_when_what_runs_is_finished() -> None:
    first, second = FragileRanks(), FragileRanks()

    async def story(engine: Engine, _running: asyncio.Task[None]) -> None:
        running = aiter(engine.submit([ASK]))
        await anext(running)
        first.leaving = (3,)
        first.tell()
        assert engine.status.state == "recovering"
        assert "3 are about to end" in engine.status.detail
        later = asyncio.create_task(tokens_of(engine))
        assert [progress.token async for progress in running] == [4, 5, 6, 7]
        assert await asyncio.to_thread(first.released.wait, 60)
        assert not later.done()
        first.lost_while_idle = True
        first.tell()
        assert await later == [3, 4, 5, 6, 7]

    drive(first, lambda: second, story)


def test_a_slot_that_does_not_come_is_waited_for_again() -> None:
    async def story(engine: Engine, _running: asyncio.Task[None]) -> None:
        await engine.became_ready.wait()
        assert await tokens_of(engine) == [3, 4, 5, 6, 7]

    drive(FragileRanks(SlotGone("slot 3 did not come")), FragileRanks, story)
