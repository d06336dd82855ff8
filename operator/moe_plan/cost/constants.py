"""The constants of the cost model, read once from `constants.toml`, where each has its source."""

import tomllib
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from moe_plan.hardware import Scope

_FILE = Path(__file__).with_name("constants.toml")


@dataclass(frozen=True, slots=True)
class Constants:
    """See `constants.toml` for meaning and source of each."""

    gemm_efficiency: float
    attention_efficiency: float
    memory_efficiency: float
    link_efficiency: dict[Scope, float]
    all_to_all_messages: int
    attention_overhead_s: float
    moe_overhead_s: float
    dense_overhead_s: float
    step_overhead_s: float
    elementwise_passes: int
    arrival_skew: float
    hidden_copies: int
    gradient_bytes: int
    optimizer_bytes: int


@cache
def constants() -> Constants:
    """The constants in force."""
    table = tomllib.loads(_FILE.read_text(encoding="utf-8"))
    efficiency, overhead = table["efficiency"], table["overhead"]
    return Constants(
        gemm_efficiency=efficiency["gemm_flops"],
        attention_efficiency=efficiency["attention_flops"],
        memory_efficiency=efficiency["memory_bandwidth"],
        link_efficiency=table["link_efficiency"],
        all_to_all_messages=table["collectives"]["all_to_all_messages"],
        attention_overhead_s=overhead["attention_s"],
        moe_overhead_s=overhead["moe_s"],
        dense_overhead_s=overhead["dense_s"],
        step_overhead_s=overhead["step_s"],
        elementwise_passes=table["elementwise"]["passes"],
        arrival_skew=table["buffers"]["arrival_skew"],
        hidden_copies=table["buffers"]["hidden_copies"],
        gradient_bytes=table["training"]["gradient_bytes"],
        optimizer_bytes=table["training"]["optimizer_bytes"],
    )
