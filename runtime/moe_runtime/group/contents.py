"""Binary bodies of messages: steps, answers, counters. Little-endian 64-bit numbers, checked on arrival."""

from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from moe_plan.layout import Layout
from moe_plan.plan import Plan
from moe_runtime.comm.slots import Slots
from moe_runtime.errors import ProtocolError
from moe_runtime.group.connection import SMALL_BYTES
from moe_runtime.host.channel import ANSWER, Extent
from moe_runtime.host.figures import COLUMNS
from moe_runtime.host.wire import WORD_BYTES, Words
from moe_runtime.step import Sampled

COUNT: Final = np.dtype(np.int64)


@dataclass(frozen=True, slots=True)
class Counters:
    """What the ranks of a slot have counted since their start."""

    expert_rows: NDArray[np.int64]
    """`[ranks, layer of the stage, local expert]`."""
    figures: NDArray[np.int64]
    """As host/figures.py has it, `[ranks, columns]`."""

    @classmethod
    def none(cls, extent: Extent) -> "Counters":
        """What they have counted at their start."""
        rows = np.zeros((extent.ranks, extent.layers, extent.experts_per_rank), np.int64)
        return cls(rows, np.zeros((extent.ranks, COLUMNS), np.int64))

    @classmethod
    def from_body(cls, body: bytes, extent: Extent) -> "Counters":
        """The body of FINISHED. Raises ProtocolError."""
        zero = cls.none(extent)
        found = _numbers(body, COUNT)
        split = zero.expert_rows.size
        if len(found) != split + zero.figures.size:
            raise ProtocolError(f"FINISHED has {len(found)} counters, not {split + zero.figures.size}")
        return cls(found[:split].reshape(zero.expert_rows.shape), found[split:].reshape(zero.figures.shape))


def slot_extent(plan: Plan, slot: int) -> Extent:
    """Sizes of one slot's messages."""
    slots = slots_of(plan, slot)
    return Extent.of(plan, slots, len(slots.ranks))


def slots_of(plan: Plan, slot: int) -> Slots:
    """A plan's slots, seen from one."""
    degrees = plan.degrees
    return Slots(Layout(degrees.ep, degrees.tp, degrees.pp, plan.rank_order), plan.ranks_per_slot, slot)


def most_message_bytes(extent: Extent) -> int:
    """Bytes of the largest message about a slot's ranks."""
    counters = extent.ranks * (extent.layers * extent.experts_per_rank + COLUMNS) * COUNT.itemsize
    answers = extent.ep * extent.max_tokens * ANSWER.itemsize
    return max(SMALL_BYTES, (extent.step_words + 1) * WORD_BYTES, counters, answers)


def step_body(words: Words, answers: int) -> tuple[bytes, Words]:
    """Parts of STEP."""
    return answers.to_bytes(WORD_BYTES, "little"), words


def read_step(body: bytes) -> tuple[Words, int]:
    """An encoded step, and how many shards answer here. Raises ProtocolError."""
    if len(body) < 2 * WORD_BYTES or len(body) % WORD_BYTES:
        raise ProtocolError(f"STEP has {len(body)} bytes")
    return memoryview(body)[WORD_BYTES:].cast("q"), int.from_bytes(body[:WORD_BYTES], "little")


def answers_body(sampled: list[Sampled]) -> bytes:
    """Body of ANSWERS."""
    return np.array([(one.request, one.token, one.logprob) for one in sampled], ANSWER).tobytes()


def read_answers(body: bytes) -> list[Sampled]:
    """Inverse of answers_body. Raises ProtocolError."""
    return [Sampled(*answer) for answer in _numbers(body, ANSWER).tolist()]


def _numbers(body: bytes, kind: np.dtype[Any]) -> NDArray[Any]:
    if len(body) % kind.itemsize:
        raise ProtocolError(f"a message has {len(body)} bytes, not a multiple of {kind.itemsize}")
    return np.frombuffer(body, kind)
