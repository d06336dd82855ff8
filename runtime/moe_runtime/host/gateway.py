"""The life of a slot's gateway: learn where the other slots are, connect, pass on what ranks say."""

import logging
from typing import NoReturn

from moe_runtime.comm.gateway import Gateway
from moe_runtime.comm.peers import meet
from moe_runtime.host.rank import PEERS_DEADLINE_S
from moe_runtime.host.seat import Seat, live, moe_layers_of

log = logging.getLogger(__name__)


def run_gateway(seat: Seat) -> NoReturn:
    """Be the gateway, in a process forked for it. Never returns."""
    live(seat, len(seat.slots.ranks), lambda: _serve(seat))


def _serve(seat: Seat) -> NoReturn:
    assert seat.segment is not None
    assert seat.listener is not None
    peers = seat.channel.await_peers(PEERS_DEADLINE_S)
    connections = meet(peers, seat.slots.here, seat.listener)
    layers = [len(moe_layers_of(seat, stage.pp)) for stage in seat.plan.stages]
    gateway = Gateway(seat.segment, layers, connections)
    log.debug("connected to %d other slots", len(connections))
    seat.channel.say_ready()
    gateway.serve()
