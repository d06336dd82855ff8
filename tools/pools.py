"""How far prefill and decode pools are off: predicted rates beside published ones, which nothing was fitted to.

Run it with `python tools/pools.py`; the points and their sources are in tools/calibration/pools.csv.
"""

import csv
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from moe_plan.catalogue.models import load_model
from moe_plan.config import read_config
from moe_plan.cost.points import find_hardware
from moe_plan.cost.pools import decode_s, prefill_s
from moe_plan.cost.predict import make_case, make_setting
from moe_plan.experts import deal
from moe_plan.kv import ELEMENT_BYTES
from moe_plan.layout import Layout
from moe_plan.spec import WeightDtype, Workload
from moe_plan.stages import make_stages

POINTS = Path(__file__).parent / "calibration" / "pools.csv"
ENGINE = "sglang"
"""Of all points."""
_ANY = 10**9
"""Requests that a KV cache holds: the points say themselves how many there were."""


def main() -> None:
    """Print the table."""
    print(
        f"{'tokens/s a node of 8':<31}{'ep':>4}{'copies':>8}{'tokens':>8}{'batch':>7}{'published':>11}{'predicted':>11}"
    )
    with POINTS.open(encoding="utf-8", newline="") as file:
        for point in csv.DictReader(file):
            predicted, published = tokens_per_s(point), float(point["tokens_per_s_per_node"])
            name = f"{point['model']} {point['pool']}{', even' if point['routing'] == 'even' else ''}"
            cells = f"{point['ep']:>4}{point['redundant']:>8}{point['tokens']:>8}{point['batch']:>7}"
            print(f"{name:<31}{cells}{published:>11,.0f}{predicted:>11,.0f}  ×{predicted / published:.2f}")


def tokens_per_s(point: Mapping[str, str]) -> float:
    """Tokens a second and node: of prompts, or generated."""
    hardware, ep, tokens, batch = find_hardware(point["system"]), *(int(point[k]) for k in ("ep", "tokens", "batch"))
    shape = read_config(load_model(point["model"]).config, point["model"], WeightDtype.AUTO)
    experts = deal(max(getattr(layer.ffn, "experts", 0) for layer in shape.layers), int(point["redundant"]), ep)
    setting = make_setting(shape, hardware, ENGINE, ELEMENT_BYTES[shape.formats.compute], int(point["step_tokens"]))
    # Of a published decode rate the tokens that are cached are known, not how many more follow.
    load = Workload(inputTokens=tokens, outputTokens=1, concurrency=batch * ep)
    stages = make_stages([len(shape.layers)])
    case = make_case(shape, Layout(ep, 1, 1), experts, stages, hardware, load, 1, 1, _ANY)
    if point["routing"] == "even":
        case = replace(case, experts=replace(case.experts, imbalance=1.0))
    if point["pool"] == "prefill":
        return float(hardware.gpus_per_node * batch * tokens / prefill_s(setting, case, batch).total)
    return float(hardware.gpus_per_node * batch / decode_s(setting, case, batch).total)


if __name__ == "__main__":
    main()
