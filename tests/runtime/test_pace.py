"""The frontend names the slot that holds the others up: by the time its ranks take for the same work."""

from collections.abc import Callable

import numpy as np
import pytest
from numpy.typing import NDArray
from pods import in_slots
from tiny_plans import tiny_plan

from moe_runtime.group.pace import WINDOW_S, Pace
from moe_runtime.host.figures import COLUMNS, COMMUNICATION_NS, EXPERTS_NS, STEP_NS
from moe_runtime.step import Chunk, Sampling, Step

CONFIG = {"model_type": "qwen3_moe", "vocab_size": 99, "num_hidden_layers": 2, "num_experts": 8}
EP, TP, SLOTS = 8, 1, 4
RANDOM = np.random.default_rng(7)
MILLISECOND = 1e6

Slowness = Callable[[int, int], float]
"""By step and slot: how many times as long as usual."""


def as_usual(_step: int, _slot: int) -> float:
    return 1.0


class Watched:
    """A replica whose ranks take a millisecond for a token, and whatever in collectives and experts."""

    def __init__(self, pp: int = 1) -> None:
        self.now = 0.0
        plan = in_slots(tiny_plan(CONFIG, ep=EP // pp, tp=TP, pp=pp), SLOTS)
        self.pace = Pace(plan, lambda: self.now)
        self.ep = EP // pp
        self.world = EP * TP
        self.per_slot = plan.ranks_per_slot
        self.figures = np.zeros((self.world, COLUMNS), np.int64)
        self.steps = 0

    def run(self, steps: int, slowness: Slowness = as_usual, tokens: Callable[[int], int] = lambda _: 1) -> None:
        """So many steps of 50 ms; `tokens` of each shard."""
        for _ in range(steps):
            per_shard = [tokens(shard) for shard in range(self.ep)]
            chunks = tuple(
                (Chunk(shard, (1,) * count, 0, (0,), Sampling()),) if count else ()
                for shard, count in enumerate(per_shard)
            )
            self.pace.begin(Step(self.steps, (chunks,)), self.figures)
            self.figures = self.figures + self._taken(per_shard, slowness)
            self.now += 0.05
            self.steps += 1

    def _taken(self, tokens: list[int], slowness: Slowness) -> NDArray[np.int64]:
        own = [
            MILLISECOND
            * tokens[rank % self.ep]
            * slowness(self.steps, rank // self.per_slot)
            * RANDOM.uniform(0.8, 1.2)
            for rank in range(self.world)
        ]
        other = RANDOM.exponential(20 * MILLISECOND, (self.world, 2))
        taken = np.zeros((self.world, COLUMNS), np.int64)
        taken[:, STEP_NS] = own + other.sum(1)
        taken[:, (COMMUNICATION_NS, EXPERTS_NS)] = other
        return taken


def slow_only(slot: int, times: float) -> Slowness:
    return lambda _, here: times if here == slot else 1.0


def test_no_slot_is_named_while_all_are_alike() -> None:
    watched = Watched()
    watched.run(100)
    assert watched.pace.slow() == {}
    assert sorted(watched.pace.paces()) == [0, 1, 2, 3]
    assert all(pace == pytest.approx(1, abs=0.2) for pace in watched.pace.paces().values())


@pytest.mark.parametrize("slot", range(SLOTS))
def test_a_slot_that_takes_twice_as_long_is_named(slot: int) -> None:
    watched = Watched()
    watched.run(100, slow_only(slot, 2.0))
    assert watched.pace.slow() == {slot: pytest.approx(2, rel=0.1)}


def test_a_slot_stopped_now_and_then_is_named_by_its_mean() -> None:
    watched = Watched()
    watched.run(600, lambda step, slot: 21.0 if slot == 2 and step % 10 == 0 else 1.0)
    assert list(watched.pace.slow()) == [2]


def test_a_hiccup_names_nobody() -> None:
    watched = Watched()
    watched.run(200, lambda step, slot: 300.0 if (step, slot) == (50, 1) else 1.0)
    assert watched.pace.slow() == {}


def test_a_slot_with_more_to_do_is_not_called_slow() -> None:
    watched = Watched()
    watched.run(200, tokens=lambda shard: 64 if shard in (2, 3) else int(RANDOM.integers(1, 3)))
    assert watched.pace.slow() == {}
    assert 1 not in watched.pace.paces()  # nobody else has work like it


def test_a_slow_slot_is_named_whatever_its_shards_have_to_do() -> None:
    watched = Watched()
    watched.run(400, slow_only(3, 2.5), tokens=lambda _: int(RANDOM.choice([0, 1, 1, 40])))
    assert list(watched.pace.slow()) == [3]


def test_stages_are_not_held_against_each_other() -> None:
    watched = Watched(pp=2)
    watched.run(200, lambda _, slot: 5.0 if slot >= 2 else 1.0)  # the second stage has more layers
    assert watched.pace.slow() == {}
    watched.run(700, lambda _, slot: (5.0 if slot >= 2 else 1.0) * (3.0 if slot == 1 else 1.0))
    assert list(watched.pace.slow()) == [1]


def test_one_slot_alone_has_no_pace() -> None:
    watched = Watched()
    watched.run(200, slow_only(0, 9.0), tokens=lambda shard: int(shard < 2))
    assert watched.pace.paces() == {}


def test_a_slot_that_has_recovered_is_no_longer_named() -> None:
    watched = Watched()
    watched.run(200, slow_only(1, 3.0))
    assert list(watched.pace.slow()) == [1]
    watched.run(int(WINDOW_S / 0.05) + 1)
    assert watched.pace.slow() == {}


def test_a_slot_near_the_limit_does_not_come_and_go() -> None:
    watched = Watched()
    watched.run(700, slow_only(1, 1.45))
    assert watched.pace.slow() == {}
    watched.run(700, slow_only(1, 2.0))
    assert list(watched.pace.slow()) == [1]
    watched.run(700, slow_only(1, 1.45))
    assert list(watched.pace.slow()) == [1]


def test_nothing_is_known_of_an_idle_replica() -> None:
    watched = Watched()
    watched.run(200, slow_only(1, 3.0))
    watched.now += WINDOW_S + 1
    assert watched.pace.paces() == {}
