"""Hidden states on their way to a rank from the same shard and tp rank of the previous stage, in shared memory.

Where the two ranks are in different slots, each slot has such a mailbox: the gateway of the one empties it, that of
the other fills it.
"""

from typing import Final

import numpy as np
from torch import Tensor

from moe_plan.layout import Coordinate
from moe_runtime.comm.futex import LINE, Word
from moe_runtime.comm.segment import MAILBOX_SLOTS, Segment

DEADLINE_S = 300.0
"""Longest wait for another rank. The slowest rank computes meanwhile, so this is far above any step's time."""
_WORD: Final = 0xFFFFFFFF


class Mailbox:
    """A few places for hidden states, used in turn: one process puts, one takes."""

    def __init__(self, segment: Segment, owner: Coordinate) -> None:
        """The mailbox of the rank `owner`, of any stage but the first."""
        extent, slots = segment.extent, segment.slots
        area = segment.shard(owner)
        words = area.mailboxes + 2 * LINE * owner.tp
        self._ring = segment.ring
        self._parted = slots.of_shard[owner.pp][owner.ep] != slots.of_shard[owner.pp - 1][owner.ep]
        self._sent = Word(segment.memory, words)
        self._taken = Word(segment.memory, words + LINE)
        self._rows = segment.array(area.mail_rows, np.int64, extent.layout.tp, MAILBOX_SLOTS)[owner.tp]
        mail = segment.tensor(
            area.mail, extent.dtype, extent.layout.tp, MAILBOX_SLOTS, extent.max_tokens, extent.hidden
        )
        self._slots = mail[owner.tp]
        self._count = 0

    def put(self, x: Tensor) -> None:
        """Wait for a place and store [T, H], T > 0."""
        self._taken.wait((self._count + 1 - MAILBOX_SLOTS) & _WORD, "send", DEADLINE_S)
        place = self._count % MAILBOX_SLOTS
        self._slots[place, : len(x)].copy_(x)
        self._rows[place] = len(x)
        self._count = (self._count + 1) & _WORD
        self._sent.add_and_wake()
        if self._parted:
            self._ring()

    def take(self, tokens: int) -> Tensor:
        """Wait for the next [tokens, H], and free its place."""
        slot = self._slots[self._count % MAILBOX_SLOTS, :tokens]
        if tokens == 0:
            return slot
        self._count = (self._count + 1) & _WORD
        self._sent.wait(self._count, "receive", DEADLINE_S)
        x = slot.clone()
        self._taken.add_and_wake()
        if self._parted:
            self._ring()
        return x
