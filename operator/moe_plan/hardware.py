"""The figures of a GPU and of the network around it. The catalogue's are in `catalogue/hardware.toml`."""

from dataclasses import dataclass
from typing import Literal

Scope = Literal["node", "domain", "cluster"]

UNBOUNDED_GPUS = 2**31
"""GPUs of the cluster tier: more than any deployment has."""

_FALLBACK_FORMATS = ("bfloat16", "float16", "float32")


@dataclass(frozen=True, slots=True)
class LinkTier:
    """One tier of the network, as a GPU sees it."""

    scope: Scope
    gpus: int
    """GPUs that the tier joins: a node's, a domain's, or more than any deployment has for the cluster."""
    bandwidth_bytes_per_s: float
    """For each GPU, one way."""
    latency_s: float


@dataclass(frozen=True, slots=True)
class Hardware:
    """One kind of GPU in nodes of one size."""

    name: str
    memory_bytes: float
    """As sold: H200 141e9."""
    memory_reserve: float
    """Share of the memory that the plan leaves free."""
    flops: tuple[tuple[str, float], ...]
    """Dense operations a second by number format, fastest format last."""
    memory_bandwidth_bytes_per_s: float
    gpus_per_node: int
    links: tuple[LinkTier, ...]
    """Narrowest tier first. What lies beyond the widest one given is taken to be joined by it."""
    device: Literal["cuda", "rocm", "cpu"] = "cuda"

    @property
    def usable_bytes(self) -> float:
        """Memory that a plan may fill."""
        return self.memory_bytes * (1 - self.memory_reserve)

    def flops_per_s(self, number_format: str) -> float:
        """Dense operations a second on operands stored in a number format.

        A format that the GPU lacks is widened on the fly and computes at the rate of bfloat16; where that has no
        figure either, of float16, then of float32, then of the slowest format given.
        """
        rates = dict(self.flops)
        for name in (number_format, *_FALLBACK_FORMATS):
            if name in rates:
                return rates[name]
        return min(rates.values())
