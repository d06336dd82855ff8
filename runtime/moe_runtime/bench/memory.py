"""What a rank really allocates beside what its plan counts: weights and KV cache, for several models and layouts.

    python -m moe_runtime.bench.memory

Each rank builds its share of the model as it does to serve, with synthetic weights; the bytes are those of the storages
that its tensors hold. Activations come and go with a step and are left out on both sides.
"""

import sys
import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from torch import Tensor

from moe_plan.layout import Layout
from moe_plan.manifest import parse_deployment
from moe_plan.plan import Plan, StageMemory
from moe_plan.planner import make_plan
from moe_runtime.checkpoint import open_weights
from moe_runtime.comm.base import Communicator
from moe_runtime.executor import Executor
from moe_runtime.kv_cache import KvCache

WEIGHTS = (
    "attention",
    "experts",
    "redundant_experts",
    "shared_experts",
    "dense_ffn",
    "embedding",
    "head",
    "other_weights",
)
"""Parts of a stage's memory that are weights."""
_CASES = tomllib.loads(Path(__file__).with_name("memory.toml").read_text())


@dataclass(frozen=True, slots=True)
class Held:
    """Bytes on the fullest rank of a stage."""

    weights: int
    kv_cache: int

    @property
    def total(self) -> int:
        """Both."""
        return self.weights + self.kv_cache


def cases() -> Iterator[tuple[str, Plan]]:
    """Name and plan of each model and layout."""
    for layout in _CASES["layout"]:
        named = {key: value for key, value in layout.items() if key != "model"}
        yield f"{layout['model']}, {_words(named)}", plan_of(_CASES["model"][layout["model"]], named)


def plan_of(config: Mapping[str, Any], parallelism: Mapping[str, Any]) -> Plan:
    """The plan of a model on ranks that have little memory, so that the cache does not hide the weights."""
    spec = {
        "model": {"config": dict(config), "source": "random"},
        "hardware": {"spec": _CASES["hardware"], "gpusPerNode": 8},
        "parallelism": dict(parallelism),
        "workload": _CASES["workload"],
    }
    manifest = {"apiVersion": "moe-operator.dev/v1alpha1", "kind": "MoEDeployment", "metadata": {"name": "memory"}}
    return make_plan(parse_deployment({**manifest, "spec": spec}))


def planned(plan: Plan, stage: StageMemory) -> Held:
    """What the plan counts on the fullest rank of a stage."""
    return Held(
        sum(getattr(stage, part) for part in WEIGHTS), plan.kv_cache.tokens_per_shard * _token_bytes(plan, stage)
    )


def allocated(plan: Plan, stage: int) -> Held:
    """What the fullest rank of a stage allocates."""
    layout = Layout(plan.degrees.ep, plan.degrees.tp, plan.degrees.pp, plan.rank_order)
    weights = open_weights(plan, None)
    nobody = cast(Communicator, None)  # a rank that takes no step speaks to nobody
    ranks = (rank for rank in range(layout.world) if layout.coordinate(rank).pp == stage)
    return max((_held(Executor(plan, rank, nobody, weights, "cpu")) for rank in ranks), key=lambda held: held.total)


def _held(executor: Executor) -> Held:
    storages: dict[str, dict[int, int]] = {"weights": {}, "kv_cache": {}}
    for kind, tensor in _tensors(executor, "weights", set()):
        storage = tensor.untyped_storage()
        storages[kind][storage.data_ptr()] = storage.nbytes()
    return Held(**{kind: sum(found.values()) for kind, found in storages.items()})


def _tensors(obj: object, kind: str, seen: set[int]) -> Iterator[tuple[str, Tensor]]:
    """Every tensor that an object of the runtime holds; those of a cache are told apart."""
    if id(obj) in seen:
        return
    seen.add(id(obj))
    if isinstance(obj, Tensor):
        yield kind, obj
    elif isinstance(obj, tuple | list):
        for item in obj:
            yield from _tensors(item, kind, seen)
    elif type(obj).__module__.startswith("moe_runtime.") and not type(obj).__name__.endswith("Weights"):
        inner = "kv_cache" if isinstance(obj, KvCache) else kind
        for name in (*getattr(obj, "__dict__", ()), *getattr(type(obj), "__slots__", ())):
            yield from _tensors(getattr(obj, name), inner, seen)


def _token_bytes(plan: Plan, stage: StageMemory) -> int:
    """Bytes of a cached token on a rank of this stage: its share of the fullest stage's by layers."""
    most = max(found.layers for found in plan.stages)
    return plan.kv_cache.bytes_per_token * plan.stages[stage.pp].layers // most


def _words(parallelism: Mapping[str, Any]) -> str:
    return " ".join(f"{key}={value}" for key, value in parallelism.items())


def main() -> None:
    """Print a row a stage."""
    lines = [
        f"{'MB on the fullest rank':60} {'weights':>17} {'weights and cache':>20}",
        f"{'':60}" + 2 * "  planned / off   ",
    ]
    for name, plan in cases():
        for stage in plan.memory:
            counted, found = planned(plan, stage), allocated(plan, stage.pp)
            figures = ((counted.weights, found.weights), (counted.total, found.total))
            told = (f"{here / 1e6:9.3f} {here / there - 1:+7.2%}" for here, there in figures)
            lines.append(f"{name + f', stage {stage.pp}':60} {'   '.join(told)}")
    sys.stdout.write("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
