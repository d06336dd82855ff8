"""Which pod of a replica this is, as its environment says: LeaderWorkerSet's, torchrun's and the operator's variables."""

import socket
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from moe_plan.plan import Plan
from moe_runtime.errors import RuntimeFailure

SECRET: Final = "MOE_JOIN_SECRET"  # noqa: S105  # the variable's name
"""What those must know who take part in the replica; empty where that is left to the network."""


class GroupError(RuntimeFailure):
    """The environment does not suit the plan, or the group cannot be joined."""


@dataclass(frozen=True, slots=True)
class Membership:
    """A pod's place in its replica."""

    slot: int
    leader: str
    """Name or address of slot 0."""
    port: int
    """Where slot 0 awaits the agents."""
    attempt: int
    """Which start of the replica this is; those of another do not mix with it."""
    agent_port: int
    """Of /agent/live and /agent/ready, in slots but the first."""
    address: str | None
    """Where the other slots reach this one; None to find out."""
    secret: str = field(default="", repr=False)

    @classmethod
    def of(cls, environment: Mapping[str, str], plan: Plan) -> "Membership | None":
        """The place that an environment gives; None for a replica that is one pod, or none. Raises GroupError."""
        slots = _number(environment, "LWS_GROUP_SIZE", 1)
        if slots == 1:
            return None
        if slots != plan.slots:
            raise GroupError(f"LWS_GROUP_SIZE is {slots}, and the plan has {plan.slots} slots; give both the same plan")
        slot = _number(environment, "LWS_WORKER_INDEX", None)
        if slot >= slots:
            raise GroupError(f"LWS_WORKER_INDEX is {slot}, and the plan's slots are 0 to {slots - 1}")
        leader = environment.get("MASTER_ADDR") or environment.get("LWS_LEADER_ADDRESS")
        if not leader:
            raise GroupError("neither MASTER_ADDR nor LWS_LEADER_ADDRESS says where slot 0 is")
        return cls(
            slot=slot,
            leader=leader,
            port=_number(environment, "MASTER_PORT", 29500),
            attempt=_number(environment, "MOE_ATTEMPT", 0),
            agent_port=_number(environment, "MOE_AGENT_PORT", 29600),
            address=environment.get("POD_IP") or None,
            secret=environment.get(SECRET, ""),
        )

    def leader_address(self) -> str:
        """Where other slots reach slot 0, asked in slot 0. Raises GroupError when its name is not known."""
        if self.address is not None:
            return self.address
        try:
            return str(socket.getaddrinfo(self.leader, self.port, type=socket.SOCK_STREAM)[0][4][0])
        except socket.gaierror as error:
            raise NameUnknown(f"MASTER_ADDR: {self.leader} has no address: {why_unresolved(error)}") from error
        except OSError as error:
            raise GroupError(f"MASTER_ADDR: {self.leader} has no address: {error.strerror}") from error


class FrontendSilent(GroupError):  # noqa: N818  # its word is what the operator knows
    """No frontend took the slot in for too long."""

    word = "FrontendSilent"


class NameUnknown(GroupError):  # noqa: N818  # likewise
    """The frontend's name cannot be resolved."""

    word = "NameUnknown"


def why_unresolved(error: socket.gaierror) -> str:
    """What DNS says of a name, in words."""
    if error.errno == socket.EAI_AGAIN:
        return f"DNS does not answer ({error.strerror})"
    return f"DNS does not know that name ({error.strerror})"


def _number(environment: Mapping[str, str], name: str, default: int | None) -> int:
    text = environment.get(name) or ("" if default is None else str(default))
    if not text.isdecimal() or len(text) > 9:
        raise GroupError(f"{name} must be a number, not {text!r}")
    return int(text)


def listed(slots: Sequence[int]) -> str:
    """Slots in words."""
    return f"slot{'s' if len(slots) > 1 else ''} {', '.join(map(str, slots))}"
