"""The memory that the ranks of one host share: what lies where, for one replica, and its mapping.

The memory is anonymous: it is inherited by fork, has no name, and is gone with the last process that maps it. It is
reserved for the largest step that the plan admits and takes up only the pages that were ever written. Each slot of a
replica has such a memory, laid out for the whole replica: its gateway stores what comes from other slots where a rank
would have (see gateway.py).
"""

import os
from dataclasses import dataclass
from mmap import MAP_ANONYMOUS, MAP_SHARED, mmap
from typing import Final

import numpy as np
import torch

from moe_plan.layout import Coordinate, Layout
from moe_plan.plan import Plan
from moe_runtime.comm.futex import LINE, MOST_ARRIVALS, Barrier
from moe_runtime.comm.slots import Slots

PIECE_BYTES = 1 << 20
"""Largest part of a tensor that the tp ranks exchange at once."""
MAILBOX_SLOTS = 2
"""Micro-batches that may wait in front of a stage."""

_MAP_NORESERVE: Final = 0x4000
_PAGE: Final = 4096
DTYPES: Final = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
"""Compute dtypes by their names in the plan."""


@dataclass(frozen=True, slots=True)
class Extent:
    """All that decides the sizes of the shared memory."""

    layout: Layout
    hidden: int
    top_k: int
    experts_per_rank: int
    layers: int
    """Most MoE layers of a stage."""
    max_tokens: int
    """Most tokens of one shard in a micro-batch."""
    dtype: torch.dtype

    @classmethod
    def of(cls, plan: Plan) -> "Extent":
        """What a plan needs."""
        degrees = plan.degrees
        return cls(
            layout=Layout(degrees.ep, degrees.tp, degrees.pp, plan.rank_order),
            hidden=plan.model.config["hidden_size"],
            top_k=plan.model.config["num_experts_per_tok"],
            experts_per_rank=plan.experts.per_rank,
            layers=max(stage.layers for stage in plan.stages),
            max_tokens=plan.limits.max_batch_tokens,
            dtype=DTYPES[plan.model.compute_dtype],
        )

    @property
    def row_bytes(self) -> int:
        """Bytes of one token's hidden state."""
        return self.hidden * self.dtype.itemsize


@dataclass(frozen=True, slots=True)
class StageArea:
    """Offsets of what the ranks of one stage share. Where the stage has ranks in other slots, the gateway arrives last."""

    arrivals: int
    """Barrier of all ranks of the stage at the start of a micro-batch."""
    dispatched: int
    """Word: arrivals of the ranks of busy shards at dispatch, ever growing."""
    combined: int
    """Two words, taking turns by layer: arrivals of the expert ranks that had rows."""
    tokens: int
    """[ep] int64: tokens of each shard in the micro-batch, for the gateway."""
    flags: int
    """[layers, ep] uint32: the micro-batch in which an ep coordinate last had rows in a layer."""
    experts: int
    """[ep·max_tokens, top_k] int32: physical experts of the micro-batch's tokens, shard after shard."""
    hidden: int
    """[ep·max_tokens, hidden]: their hidden states."""
    outputs: int
    """[ep·max_tokens, top_k, tp, hidden]: what their experts made of them."""


@dataclass(frozen=True, slots=True)
class ShardArea:
    """Offsets of what the tp ranks of one shard of a stage share."""

    barrier: int
    pieces: int
    """[2, tp, PIECE_BYTES]: parts of tensors, taking turns."""
    mailboxes: int
    """[tp] of a word of hidden states sent and one of hidden states taken."""
    mail_rows: int
    """[tp, MAILBOX_SLOTS] int64: tokens of each, for the gateway."""
    mail: int
    """[tp, MAILBOX_SLOTS, max_tokens, hidden]: hidden states from the previous stage."""


class Plot:
    """Lays areas out one behind the other."""

    def __init__(self) -> None:
        self.end = 0

    def take(self, size: int, align: int = LINE) -> int:
        """Offset of the next `size` bytes."""
        start = -(-self.end // align) * align
        self.end = start + size
        return start


def stage_area(plot: Plot, extent: Extent) -> StageArea:
    """Lay out one stage."""
    rows = extent.layout.ep * extent.max_tokens
    return StageArea(
        arrivals=plot.take(LINE * Barrier.LINES),
        dispatched=plot.take(LINE),
        combined=plot.take(2 * LINE),
        tokens=plot.take(8 * extent.layout.ep),
        flags=plot.take(4 * extent.layers * extent.layout.ep),
        experts=plot.take(4 * rows * extent.top_k, _PAGE),
        hidden=plot.take(rows * extent.row_bytes, _PAGE),
        outputs=plot.take(rows * extent.layout.tp * extent.top_k * extent.row_bytes, _PAGE),
    )


def shard_area(plot: Plot, extent: Extent) -> ShardArea:
    """Lay out the shard of one stage."""
    tp = extent.layout.tp
    return ShardArea(
        barrier=plot.take(LINE * Barrier.LINES),
        pieces=plot.take(2 * tp * PIECE_BYTES, _PAGE),
        mailboxes=plot.take(2 * tp * LINE),
        mail_rows=plot.take(8 * tp * MAILBOX_SLOTS),
        mail=plot.take(tp * MAILBOX_SLOTS * extent.max_tokens * extent.row_bytes, _PAGE),
    )


class Segment:
    """The mapping and its layout. Made by the process that forks the ranks of a slot."""

    def __init__(self, extent: Extent, slots: Slots | None = None) -> None:
        layout = extent.layout
        assert layout.ep * layout.tp <= MOST_ARRIVALS
        plot = Plot()
        self.extent = extent
        self.slots = slots or Slots.one(layout)
        self.bell = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC) if self.slots.count > 1 else None
        """Wakes the gateway, where there is one."""
        self.stages = tuple(stage_area(plot, extent) for _ in range(layout.pp))
        self.shards = {(pp, ep): shard_area(plot, extent) for pp in range(layout.pp) for ep in range(layout.ep)}
        self.memory = mmap(-1, plot.end, flags=MAP_SHARED | MAP_ANONYMOUS | _MAP_NORESERVE)

    def tensor(self, offset: int, dtype: torch.dtype, *shape: int) -> torch.Tensor:
        """A tensor that is a part of the memory."""
        count = int(np.prod(shape))
        return torch.frombuffer(self.memory, dtype=dtype, count=count, offset=offset).view(shape)

    def array(self, offset: int, dtype: type[np.generic], *shape: int) -> np.ndarray:
        """An array that is a part of the memory."""
        count = int(np.prod(shape))
        return np.frombuffer(self.memory, dtype=dtype, count=count, offset=offset).reshape(shape)

    def ring(self) -> None:
        """Have the gateway look."""
        assert self.bell is not None
        os.eventfd_write(self.bell, 1)

    def shard(self, coordinate: Coordinate) -> ShardArea:
        """Area of the tp ranks around a coordinate."""
        return self.shards[coordinate.pp, coordinate.ep]
