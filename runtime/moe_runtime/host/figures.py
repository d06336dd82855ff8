"""What ranks count of themselves, and that put together for the whole replica.

A rank's figures are four numbers: nanoseconds in steps, in communication, and in its experts, since its start; and the
bytes of memory that it takes.
"""

from typing import Final

import numpy as np
from numpy.typing import NDArray

from moe_plan.layout import Coordinate, Layout
from moe_plan.plan import Plan

STEP_NS, COMMUNICATION_NS, EXPERTS_NS, MEMORY_BYTES = range(4)
"""Columns of figures, `[ranks, COLUMNS]`."""
COLUMNS: Final = 4


def own_share_ns(figures: NDArray[np.int64]) -> NDArray[np.int64]:
    """Time of each rank in steps, less communication and experts, `[ranks]`."""
    return figures[:, STEP_NS] - figures[:, COMMUNICATION_NS] - figures[:, EXPERTS_NS]


def expert_tokens(plan: Plan, rows: NDArray[np.int64]) -> NDArray[np.int64]:
    """Tokens that each physical expert has computed, `[layers, experts]`; zero in dense layers.

    `rows` are those of each rank, `[world, layer of the stage, local expert]`.
    """
    layout = _layout(plan)
    tokens = np.zeros((sum(stage.layers for stage in plan.stages), layout.ep, plan.experts.per_rank), np.int64)
    for stage in plan.stages:
        for ep in range(layout.ep):
            rank = layout.rank(Coordinate(stage.pp, ep, 0))
            tokens[stage.first_layer : stage.first_layer + stage.layers, ep] = rows[rank, : stage.layers]
    return tokens.reshape(len(tokens), -1)


def stage_times_s(plan: Plan, figures: NDArray[np.int64]) -> NDArray[np.float64]:
    """Mean over its ranks of the time each stage has spent in steps, and of that in communication, `[pp, 2]`."""
    layout = _layout(plan)
    times = np.zeros((layout.pp, 2))
    for rank, spent in enumerate(figures[:, (STEP_NS, COMMUNICATION_NS)]):
        times[layout.coordinate(rank).pp] += spent
    return times / (layout.ep * layout.tp) / 1e9


def _layout(plan: Plan) -> Layout:
    return Layout(plan.degrees.ep, plan.degrees.tp, plan.degrees.pp, plan.rank_order)
