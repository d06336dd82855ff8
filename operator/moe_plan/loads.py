"""Expert loads measured in service: how many tokens came to each logical expert of each MoE layer.

A deployment of the bundled runtime tells them (GET /expert-loads), `moe loads` saves them, and a plan deals experts and
predicts by them (docs/expert-loads.md).
"""

import json
from collections.abc import Iterable, Iterator
from typing import Annotated, Any, Literal, NoReturn

from pydantic import AwareDatetime, Field, StrictInt, ValidationError

from moe_plan.errors import ManifestError, Violation
from moe_plan.model import ModelShape, MoeFfn
from moe_plan.plan import Part

LOADS_VERSION: Literal["moe-operator.dev/expert-loads/v1"] = "moe-operator.dev/expert-loads/v1"

AGAIN = "measure a deployment of this model again with moe loads"

Tokens = Annotated[StrictInt, Field(ge=0, lt=2**63)]
Index = Annotated[int, Field(ge=0)]


class ExpertLoads(Part):
    """A trace. Counts are of logical experts, so that it does not depend on the layout it was measured under."""

    version: Literal["moe-operator.dev/expert-loads/v1"] = LOADS_VERSION
    model: str
    """Name of the model as the plan of the measured deployment has it."""
    since: AwareDatetime
    """When counting began: the start of the ranks."""
    tokens: Tokens
    """Tokens that were routed. In each layer each of them counts once for each expert that it chose."""
    layers: dict[Index, tuple[Tokens, ...]]
    """Tokens of each logical expert, `[experts]`, by layer of the model; layers without experts are absent."""


def parse_loads(text: str, field: str) -> ExpertLoads:
    """The trace in a JSON text. Raises ManifestError with the first thing that is wrong; `field` is what is told to be."""
    try:
        data = json.loads(text, parse_constant=_no_constant)
    except (ValueError, RecursionError) as error:
        raise _refused(field, f"is not whole JSON ({error})") from None
    return read_loads(data, field)


def read_loads(data: Any, field: str) -> ExpertLoads:
    """The trace in parsed JSON. Raises likewise."""
    if isinstance(data, dict) and data.get("version") not in (LOADS_VERSION, None):
        message = f"is of version {str(data['version'])[:80]!r}, and {LOADS_VERSION} is read"
        raise _refused(field, message)
    try:
        return ExpertLoads.model_validate(data)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        where = ".".join(str(step) for step in first["loc"] if step != "[key]")
        message = f"is no trace of expert loads: {where + ': ' if where else ''}{_wish(first['type'], first['msg'])}"
        raise _refused(field, message) from None


def add_up(traces: Iterable[ExpertLoads]) -> ExpertLoads:
    """One trace of several replicas of one model. Raises ValueError where they are of different models."""
    whole, *others = traces
    for other in others:
        shapes = [{layer: len(counts) for layer, counts in trace.layers.items()} for trace in (whole, other)]
        if whole.model != other.model or shapes[0] != shapes[1]:
            raise ValueError(f"loads of {whole.model} and of {other.model} cannot be added: they are of two models")
        whole = ExpertLoads(
            model=whole.model,
            since=min(whole.since, other.since),
            tokens=whole.tokens + other.tokens,
            layers={
                layer: tuple(map(sum, zip(counts, other.layers[layer], strict=True)))
                for layer, counts in whole.layers.items()
            },
        )
    return whole


def loads_rules(loads: ExpertLoads, shape: ModelShape, field: str) -> Iterator[Violation]:
    """What of a trace does not suit a model; the first of it, since the rest follows from it."""
    wanted = {number: layer.ffn.experts for number, layer in enumerate(shape.layers) if isinstance(layer.ffn, MoeFfn)}
    if loads.model != shape.name:
        yield Violation(
            field,
            "ExpertLoadsOfAnotherModel",
            f"the loads are of the model {loads.model[:80]}, and this is {shape.name}",
            f"{AGAIN}, or, if both names mean one model, write this one into the loads",
        )
    elif loads.layers.keys() != wanted.keys():
        yield _unsuited(field, f"the loads are of {_layers(loads.layers)}, and {shape.name} has {_layers(wanted)}")
    else:
        yield from _count_rules(loads, wanted, shape, field)


def _count_rules(loads: ExpertLoads, wanted: dict[int, int], shape: ModelShape, field: str) -> Iterator[Violation]:
    for layer, experts in wanted.items():
        counts = loads.layers[layer]
        if len(counts) != experts:
            message = f"the loads count {len(counts)} experts in layer {layer}, and {shape.name} has {experts}"
            yield _unsuited(field, message)
            return
        if not any(counts):
            where = "any layer" if not any(map(any, loads.layers.values())) else f"layer {layer}"
            message = f"the loads hold no token in {where}"
            yield Violation(field, "ExpertLoadsEmpty", message, "serve requests for a while, then save them again")
            return


def _layers(layers: Iterable[int]) -> str:
    """MoE layers in words: '94 MoE layers', with the first and last where they could be others."""
    numbers = sorted(layers)
    if not numbers:
        return "no MoE layer"
    count = "1 MoE layer" if len(numbers) == 1 else f"{len(numbers)} MoE layers"
    return f"{count} ({numbers[0]} to {numbers[-1]})"


def _unsuited(field: str, message: str) -> Violation:
    return Violation(field, "ExpertLoadsOfAnotherModel", message, AGAIN)


def _refused(field: str, message: str) -> ManifestError:
    return ManifestError((Violation(field, "ExpertLoadsUnreadable", message, "save it again with moe loads"),))


def _wish(kind: str, said: str) -> str:
    """What is wrong with a field, in our words where it is a count."""
    if kind in {"int_type", "greater_than_equal", "less_than", "int_from_float"}:
        return "must be a whole number of tokens, 0 or more"
    return said[:1].lower() + said[1:]


def _no_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is no number of tokens")
