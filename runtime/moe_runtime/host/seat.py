"""What the ranks of a slot and their gateway inherit, and how any of them lives in a process forked for it."""

import os
import signal
import socket
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from typing import NoReturn

import torch

from moe_plan.plan import Plan
from moe_runtime.checkpoint import Weights
from moe_runtime.comm.futex import die_with_parent
from moe_runtime.comm.segment import Segment
from moe_runtime.comm.slots import Slots
from moe_runtime.errors import CommunicationTimeout, ProtocolError, RuntimeFailure, SlotLost
from moe_runtime.host.channel import Channel
from moe_runtime.host.messages import Device, Keep
from moe_runtime.models.spec import MoeSpec


@dataclass(frozen=True, slots=True)
class Seat:
    """What the members of a slot have in common. Made before they are forked."""

    plan: Plan
    weights: Weights
    channel: Channel
    slots: Slots
    segment: Segment | None
    """Memory that ranks share; None where they talk through process groups."""
    listener: socket.socket | None
    """Where other slots' gateways connect, or the store at which process groups meet."""
    device: Device
    keep: Keep
    parent: int

    @property
    def has_gateway(self) -> bool:
        """Whether ranks share memory with some ranks of the replica and not with others."""
        return self.segment is not None and self.slots.count > 1


def live(seat: Seat, member: int, work: Callable[[], NoReturn]) -> NoReturn:
    """Do a member's work in the process forked for it; when it fails, leave words about it and end."""
    try:
        _settle(seat)
        work()
    except RuntimeFailure as failure:
        seat.channel.leave_last_words(member, {"sentence": str(failure), "kind": _kind(failure)})
    except BaseException as error:  # noqa: BLE001  # the parent tells it on
        seat.channel.leave_last_words(
            member, {"sentence": f"{type(error).__name__}: {error}", "traceback": traceback.format_exc()}
        )
    finally:
        os._exit(1)  # what the parent had open is not this process's to flush or close


def moe_layers_of(seat: Seat, pp: int) -> list[int]:
    """Positions within a stage of its MoE layers."""
    stage = seat.plan.stages[pp]
    layers = seat.weights.spec.layers[stage.first_layer : stage.first_layer + stage.layers]
    return [position for position, layer in enumerate(layers) if isinstance(layer.ffn, MoeSpec)]


def _settle(seat: Seat) -> None:
    die_with_parent(seat.parent)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole terminal; the frontend decides
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_SETMASK, ())
    torch.set_num_threads(1)


def _kind(failure: RuntimeFailure) -> str:
    """How a failure is reported whatever the ranks' state: see messages.Report; empty where the state decides."""
    if isinstance(failure, SlotLost):
        return "cut"
    return "lost" if isinstance(failure, CommunicationTimeout | ProtocolError) else ""
