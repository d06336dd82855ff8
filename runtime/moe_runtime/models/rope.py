"""Rotary position embedding: the frequencies that a config.json asks for, and the angles of given positions.

Sources: RoFormer (arXiv 2104.09864); YaRN (arXiv 2309.00071); the interpolation by wavelength of Llama 3.1.
"""

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from moe_runtime.errors import UnsupportedModel

KINDS = ("default", "linear", "llama3", "yarn")
"""Kinds of scaling that the runtime executes, as rope_type names them."""


@dataclass(frozen=True, slots=True)
class RopeSpec:
    """Rotary embedding of heads of `dim` elements."""

    dim: int
    theta: float
    max_positions: int
    kind: str
    parameters: tuple[tuple[str, float], ...]
    """Parameters of the scaling beyond theta, sorted by name."""


def rope_spec(config: dict[str, Any], dim: int, theta: float, max_positions: int) -> RopeSpec:
    """RopeSpec of a config.json's rope_parameters, or of its older rope_scaling and rope_theta.

    Raises UnsupportedModel for a kind of scaling that the runtime does not execute, or a parameter of a wrong type.
    """
    given = {**(config.get("rope_scaling") or {}), **(config.get("rope_parameters") or {})}
    kind = given.pop("rope_type", None) or given.pop("type", None) or "default"
    given.pop("type", None)
    if kind not in KINDS:
        raise UnsupportedModel(
            f"config.json: rope_type {kind!r} is not executed by this runtime ({', '.join(KINDS)} are)"
        )
    theta = given.pop("rope_theta", None) or theta
    parameters = {name: value for name, value in given.items() if value is not None}
    if given.get("partial_rotary_factor", 1) != 1:
        raise UnsupportedModel("config.json: a partial_rotary_factor other than 1 is not executed by this runtime")
    for name, value in parameters.items():
        if not isinstance(value, int | float):
            raise UnsupportedModel(f"config.json: RoPE's {name} must be a number, not {value!r}")
    return RopeSpec(dim, float(theta), max_positions, kind, tuple(sorted(parameters.items())))


def frequencies(spec: RopeSpec) -> tuple[Tensor, float]:
    """Angle a position of each pair of elements, `[dim / 2]` float32, and the factor on cosine and sine.

    Raises UnsupportedModel when the scaling lacks a parameter.
    """
    plain = 1.0 / spec.theta ** (torch.arange(0, spec.dim, 2, dtype=torch.float32) / spec.dim)
    parameters = dict(spec.parameters)
    try:
        match spec.kind:
            case "linear":
                return plain / parameters["factor"], 1.0
            case "llama3":
                return _by_wavelength(plain, parameters), 1.0
            case "yarn":
                return _yarn(plain, spec, parameters)
    except KeyError as missing:
        raise UnsupportedModel(f"config.json: rope_type {spec.kind!r} needs {missing.args[0]}") from None
    return plain, 1.0


def _by_wavelength(plain: Tensor, parameters: dict[str, float]) -> Tensor:
    """Long waves slowed by `factor`, short ones kept, those between blended linearly in rotations."""
    low, high = parameters["low_freq_factor"], parameters["high_freq_factor"]
    rotations = parameters["original_max_position_embeddings"] * plain / (2 * math.pi)
    kept = ((rotations - low) / (high - low)).clamp(0, 1)
    return (1 - kept) * plain / parameters["factor"] + kept * plain


def _yarn(plain: Tensor, spec: RopeSpec, parameters: dict[str, float]) -> tuple[Tensor, float]:
    """YaRN, section 3.2 (NTK by parts) and 3.4 (the factor on cosine and sine)."""
    original = parameters.get("original_max_position_embeddings", spec.max_positions)
    factor = parameters.get("factor", spec.max_positions / original)
    low, high = (
        _dim_of(parameters.get(name) or default, original, spec)
        for name, default in (("beta_fast", 32), ("beta_slow", 1))
    )
    if parameters.get("truncate", 1):
        low, high = math.floor(low), math.ceil(high)
    low, high = max(low, 0), min(high, spec.dim - 1)
    slowed = ((torch.arange(spec.dim // 2, dtype=torch.float32) - low) / max(high - low, 0.001)).clamp(0, 1)
    return slowed * plain / factor + (1 - slowed) * plain, _yarn_factor(factor, parameters)


def _dim_of(rotations: float, positions: float, spec: RopeSpec) -> float:
    """Pair of elements that turns `rotations` times over `positions`: YaRN's inverse of the wavelength."""
    return spec.dim * math.log(positions / (rotations * 2 * math.pi)) / (2 * math.log(spec.theta))


def _yarn_factor(factor: float, parameters: dict[str, float]) -> float:
    if "attention_factor" in parameters:
        return parameters["attention_factor"]

    def scale(by: float) -> float:
        return 0.1 * by * math.log(factor) + 1 if factor > 1 else 1.0

    if parameters.get("mscale") and parameters.get("mscale_all_dim"):
        return scale(parameters["mscale"]) / scale(parameters["mscale_all_dim"])
    return scale(1)


class Rope:
    """Cosine and sine of positions, on one device."""

    def __init__(self, spec: RopeSpec, dtype: torch.dtype, device: str) -> None:
        angles, self._factor = frequencies(spec)
        self._angles = torch.cat((angles, angles)).to(device)
        half = spec.dim // 2
        self._sign = torch.cat((-torch.ones(half), torch.ones(half))).to(device)
        self._dtype = dtype

    def at(self, positions: Tensor) -> tuple[Tensor, Tensor]:
        """Cosine and signed sine of positions `[T]`: twice `[T, 1, dim]`.

        x · cos + roll(x, dim / 2) · sin is the rotation, since the sign of the first half is in the sine.
        """
        angles = positions.to(torch.float32)[:, None, None] * self._angles
        cos, sin = angles.cos() * self._factor, angles.sin() * (self._sign * self._factor)
        return cos.to(self._dtype), sin.to(self._dtype)
