"""How the ranks of a plan talk: decided alike by every process of a replica, before any of them has torch."""

from dataclasses import dataclass
from typing import Literal

from moe_plan.layout import Layout
from moe_plan.plan import Plan
from moe_runtime.comm.slots import Slots
from moe_runtime.host.messages import Device


@dataclass(frozen=True, slots=True)
class Tier:
    """A slot of a replica, and by what its ranks talk."""

    slots: Slots
    kind: Literal["memory", "gateway", "groups"]
    """Shared memory alone; shared memory in the slot and a gateway to others; or process groups of torch.distributed."""

    @classmethod
    def of(cls, plan: Plan, slot: int | None, device: Device) -> "Tier":
        """The tier of a slot's ranks; of all ranks together where `slot` is None.

        GPUs talk through NCCL. gloo is left for the one layout that a gateway does not serve, tp across slots.
        """
        layout = Layout(plan.degrees.ep, plan.degrees.tp, plan.degrees.pp, plan.rank_order)
        slots = Slots.one(layout) if slot is None else Slots(layout, plan.ranks_per_slot, slot)
        if device != "cpu" or slots.parts_tensor_groups:
            return cls(slots, "groups")
        return cls(slots, "gateway" if slots.count > 1 else "memory")

    @property
    def members(self) -> int:
        """Processes of the slot: its ranks, and the gateway where there is one."""
        return len(self.slots.ranks) + (self.kind == "gateway")
