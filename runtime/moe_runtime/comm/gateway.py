"""The gateway of a slot: one process that speaks for its ranks to the gateways of the replica's other slots.

Communication has two tiers: shared memory among the ranks of a slot, and one TCP connection for each pair of slots.
Ranks ring a bell when they have left something for other slots; the gateway copies it out, and stores what comes from
there where the ranks look for it. It computes nothing.

    gateway = Gateway(segment, moe_layers, connections)     # in a process forked with the segment's ranks
    gateway.serve()                                         # until a connection is lost
"""

import os
import selectors
import socket
from collections.abc import Mapping, Sequence
from typing import NoReturn

import numpy as np
from numpy.typing import NDArray

from moe_plan.layout import Coordinate
from moe_runtime.comm.link import Frame, Kind, Link, Where, most_payload_bytes
from moe_runtime.comm.mail_bridge import Incoming, Outgoing
from moe_runtime.comm.segment import Segment
from moe_runtime.comm.stage_bridge import StageBridge
from moe_runtime.errors import ProtocolError


class Gateway:
    """One slot's gateway. It is its own Outbox."""

    def __init__(self, segment: Segment, moe_layers: Sequence[int], connections: Mapping[int, socket.socket]) -> None:
        """`moe_layers` of each stage; `connections` to each other slot's gateway."""
        assert segment.bell is not None
        slots, layout = segment.slots, segment.extent.layout
        self._bell = segment.bell
        self._selector = selectors.DefaultSelector()
        self._selector.register(self._bell, selectors.EVENT_READ)
        most = most_payload_bytes(segment.extent)
        self._links = {slot: Link(connection, slot, most, self._selector) for slot, connection in connections.items()}
        self._late: set[int] = set()
        self._stages = {
            pp: StageBridge(segment, pp, moe_layers[pp], self) for pp in range(layout.pp) if slots.others(pp)
        }
        self._outgoing: list[Outgoing] = []
        self._incoming: dict[Where, Incoming] = {}
        for owner in map(layout.coordinate, range(layout.world)):
            if owner.pp > 0:
                self._add_mailbox(segment, owner)

    def _add_mailbox(self, segment: Segment, owner: Coordinate) -> None:
        slots = segment.slots
        source, target = slots.of_shard[owner.pp - 1][owner.ep], slots.of_shard[owner.pp][owner.ep]
        if source == slots.here != target:
            self._outgoing.append(Outgoing(segment, owner, target, self))
        elif source != slots.here == target:
            self._incoming[owner] = Incoming(segment, owner)

    def serve(self) -> NoReturn:
        """Pass on whatever comes. Raises SlotLost, ProtocolError."""
        while True:
            self._advance()
            for key, events in self._selector.select():
                if key.data is None:
                    os.eventfd_read(self._bell)
                    continue
                link: Link = key.data
                if events & selectors.EVENT_WRITE:
                    link.flush()
                if events & selectors.EVENT_READ:
                    for frame in link.receive():
                        self._deliver(link.slot, frame)

    def _advance(self) -> None:
        for stage in self._stages.values():
            stage.advance()
        for outgoing in self._outgoing:
            outgoing.advance()
        for incoming in self._incoming.values():
            incoming.advance()

    def _deliver(self, source: int, frame: Frame) -> None:
        target: Incoming | None = self._incoming.get(frame.where)
        if frame.kind is Kind.MAIL and target is not None:
            target.deliver(frame)
        elif frame.kind is not Kind.MAIL and frame.where[0] in self._stages:
            self._stages[frame.where[0]].deliver(source, frame)
        else:
            raise ProtocolError(f"slot {source} sent {frame.kind.name} for {frame.where}, which is not here")

    def post(self, slot: int, kind: Kind, where: Where, *parts: NDArray[np.generic]) -> None:
        """See Outbox."""
        self._links[slot].post(kind, where, parts)
        self._links[slot].flush()
        self._late.discard(slot)

    def post_later(self, slot: int, kind: Kind, where: Where, *parts: NDArray[np.generic]) -> None:
        """See Outbox."""
        self._links[slot].post(kind, where, parts)
        self._late.add(slot)

    def flush(self) -> None:
        """See Outbox."""
        for slot in self._late:
            self._links[slot].flush()
        self._late.clear()
