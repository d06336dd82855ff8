"""Connections between the gateways of a replica's slots, and the frames on them. Nothing here ever blocks.

A frame is a header (length of the payload, kind, and three numbers that say where it belongs) and its payload, as raw
bytes. Little-endian, as are all the machines that the runtime supports (see futex.py).
"""

import selectors
import socket
import struct
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from enum import IntEnum
from typing import Final, Protocol

import numpy as np
from numpy.typing import NDArray

from moe_runtime.comm.segment import Extent
from moe_runtime.errors import ProtocolError, SlotLost

_HEADER: Final = struct.Struct("<QIIII")
_RECEIVE_BYTES: Final = 1 << 20
_MOST_PARTS: Final = 512
"""Buffers of one system call: half of Linux' IOV_MAX, limits.h."""


class Kind(IntEnum):
    """What a frame holds."""

    DISPATCH = 1
    """Experts chosen by a slot's tokens [T, K] int32, then hidden states of those that chose experts here."""
    COMBINE = 2
    """Outputs of experts, a row for each (token, k) pair."""
    MAIL = 3
    """Hidden states [T, H] from the previous stage."""


Where = tuple[int, int, int]
"""Stage, micro-batch and layer; of mail the coordinate that it is for: pp, ep, tp."""


@dataclass(frozen=True, slots=True)
class Frame:
    """A frame that came."""

    kind: Kind
    where: Where
    payload: memoryview


class Outbox(Protocol):
    """Where frames for other slots are put."""

    def post(self, slot: int, kind: Kind, where: Where, *parts: NDArray[np.generic]) -> None:
        """Send a frame and what waits before it; the parts are not to be changed any more."""

    def post_later(self, slot: int, kind: Kind, where: Where, *parts: NDArray[np.generic]) -> None:
        """Send a frame with the next that is posted or flushed: nobody there is in a hurry."""

    def flush(self) -> None:
        """Send all that waits."""


def most_payload_bytes(extent: Extent) -> int:
    """Bytes of the largest payload that a plan admits."""
    rows = extent.layout.ep * extent.max_tokens
    dispatched = rows * (4 * extent.top_k + extent.row_bytes)
    return max(dispatched, rows * extent.top_k * extent.layout.tp * extent.row_bytes)


class Link:
    """The connection to one other slot."""

    def __init__(self, connection: socket.socket, slot: int, most_bytes: int, selector: selectors.BaseSelector) -> None:
        connection.settimeout(0)
        self.slot = slot
        self._socket = connection
        self._most_bytes = most_bytes
        self._selector = selector
        self._leaving: deque[memoryview] = deque()
        self._arrived = bytearray()
        self._registered = selectors.EVENT_READ
        selector.register(connection, self._registered, self)

    def post(self, kind: Kind, where: Where, parts: tuple[NDArray[np.generic], ...]) -> None:
        """Queue a frame."""
        length = sum(part.nbytes for part in parts)
        self._leaving.append(memoryview(_HEADER.pack(length, kind, *where)))
        self._leaving.extend(part.data.cast("B") for part in parts if part.nbytes)

    def flush(self) -> None:
        """Send what the kernel takes, and have the selector tell when it takes more. Raises SlotLost."""
        try:
            while self._leaving:
                parts = [self._leaving[i] for i in range(min(_MOST_PARTS, len(self._leaving)))]
                self._drop(self._socket.sendmsg(parts))
        except BlockingIOError:
            pass
        except OSError as error:
            raise self._lost(error) from error
        wanted = selectors.EVENT_READ | (selectors.EVENT_WRITE if self._leaving else 0)
        if wanted != self._registered:
            self._selector.modify(self._socket, wanted, self)
            self._registered = wanted

    def _drop(self, sent: int) -> None:
        while sent:
            first = self._leaving.popleft()
            if len(first) > sent:
                self._leaving.appendleft(first[sent:])
                return
            sent -= len(first)

    def receive(self) -> Iterator[Frame]:
        """Frames that have come whole. Raises SlotLost when the other end is gone, ProtocolError for what is no frame."""
        try:
            came = self._socket.recv(_RECEIVE_BYTES)
        except BlockingIOError:
            return
        except OSError as error:
            raise self._lost(error) from error
        if not came:
            raise self._lost("it was closed")
        self._arrived += came
        yield from self._frames()

    def _frames(self) -> Iterator[Frame]:
        at = 0
        while len(self._arrived) - at >= _HEADER.size:
            length, kind, *where = _HEADER.unpack_from(self._arrived, at)
            if length > self._most_bytes or kind not in Kind._value2member_map_:
                raise ProtocolError(f"slot {self.slot} sent what is no frame: kind {kind}, {length} bytes")
            start = at + _HEADER.size
            if len(self._arrived) < start + length:
                break
            yield Frame(
                Kind(kind), (where[0], where[1], where[2]), memoryview(bytes(self._arrived[start : start + length]))
            )
            at = start + length
        del self._arrived[:at]

    def _lost(self, cause: object) -> SlotLost:
        return SlotLost(self.slot, f"lost the connection to slot {self.slot}: {cause}")
