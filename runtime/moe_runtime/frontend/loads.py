"""The trace of expert loads that an endpoint tells: what physical experts computed, summed up by logical expert."""

from datetime import datetime

import numpy as np
from numpy.typing import NDArray

from moe_plan.config import read_config
from moe_plan.experts import physical_to_logical
from moe_plan.loads import ExpertLoads
from moe_plan.model import MoeFfn
from moe_plan.plan import Plan
from moe_plan.spec import WeightDtype


def expert_loads(plan: Plan, tokens: NDArray[np.int64], since: datetime) -> ExpertLoads:
    """The trace of `tokens [layers, physical experts]`, counted since then."""
    shape = read_config(plan.model.config, plan.model.name, WeightDtype.AUTO)
    of_layer = {
        number: (layer.ffn.top_k, _logical(plan, number, tokens[number]))
        for number, layer in enumerate(shape.layers)
        if isinstance(layer.ffn, MoeFfn)
    }
    routed = (sum(counts) // top_k for top_k, counts in of_layer.values())
    layers = {number: counts for number, (_, counts) in of_layer.items()}
    # Ranks count while they compute, so that the last layers may lack a step that the first ones have.
    return ExpertLoads(model=plan.model.name, since=since, tokens=max(routed, default=0), layers=layers)


def _logical(plan: Plan, layer: int, physical: NDArray[np.int64]) -> tuple[int, ...]:
    """Tokens of each logical expert."""
    tokens = np.zeros(plan.experts.logical, np.int64)
    np.add.at(tokens, np.asarray(physical_to_logical(plan.experts, layer)), physical)
    return tuple(tokens.tolist())
