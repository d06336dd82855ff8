"""Mail between stages that are in different slots: taken out of the mailbox here, put into the one there.

The place here is free as soon as its content is copied; there, mail waits until the rank has emptied a place.
"""

from collections import deque
from typing import Final

import numpy as np

from moe_plan.layout import Coordinate
from moe_runtime.comm.futex import LINE, Word
from moe_runtime.comm.link import Frame, Kind, Outbox
from moe_runtime.comm.segment import MAILBOX_SLOTS, Segment
from moe_runtime.errors import ProtocolError

_WORD: Final = 0xFFFFFFFF


class _Box:
    """A mailbox as the gateway sees it: bytes."""

    def __init__(self, segment: Segment, owner: Coordinate) -> None:
        extent, area = segment.extent, segment.shard(owner)
        words = area.mailboxes + 2 * LINE * owner.tp
        shape = (extent.layout.tp, MAILBOX_SLOTS)
        self.sent, self.taken = Word(segment.memory, words), Word(segment.memory, words + LINE)
        self.rows = segment.array(area.mail_rows, np.int64, *shape)[owner.tp]
        self.places = segment.array(area.mail, np.uint8, *shape, extent.max_tokens, extent.row_bytes)[owner.tp]
        self.count = 0


class Outgoing:
    """The mailbox of a rank in another slot, filled here."""

    def __init__(self, segment: Segment, owner: Coordinate, slot: int, outbox: Outbox) -> None:
        self._box, self._owner, self._slot, self._outbox = _Box(segment, owner), owner, slot, outbox

    def advance(self) -> None:
        """Send what was put."""
        box = self._box
        while box.sent.reached((box.count + 1) & _WORD):
            place = box.count % MAILBOX_SLOTS
            content = box.places[place, : box.rows[place]].copy()
            self._outbox.post(self._slot, Kind.MAIL, self._owner, content)
            box.count = (box.count + 1) & _WORD
            box.taken.add_and_wake()


class Incoming:
    """The mailbox of a rank here, filled in another slot."""

    def __init__(self, segment: Segment, owner: Coordinate) -> None:
        self._box, self._owner = _Box(segment, owner), owner
        self._waiting: deque[Frame] = deque()

    def deliver(self, frame: Frame) -> None:
        """Mail for this rank."""
        _, most, width = self._box.places.shape
        rows, odd = divmod(len(frame.payload), width)
        if odd or not 0 < rows <= most:
            raise ProtocolError(f"mail for {self._owner} has {len(frame.payload)} bytes")
        self._waiting.append(frame)

    def advance(self) -> None:
        """Put into the mailbox what has room."""
        box = self._box
        while self._waiting and box.taken.reached((box.count + 1 - MAILBOX_SLOTS) & _WORD):
            content = np.frombuffer(self._waiting.popleft().payload, np.uint8).reshape(-1, box.places.shape[-1])
            box.places[box.count % MAILBOX_SLOTS, : len(content)] = content
            box.count = (box.count + 1) & _WORD
            box.sent.add_and_wake()
