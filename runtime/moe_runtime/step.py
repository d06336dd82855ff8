"""What the frontend asks of the workers, and what they answer: plain data, no torch.

A step is cut into micro-batches so that the stages overlap; a micro-batch has one list of chunks for each shard
(ep coordinate), empty where the shard is idle. All tp and pp ranks of a shard see the same chunks.
"""

from dataclasses import dataclass

PAGE_TOKENS = 16
"""Tokens of one page of the KV cache."""


@dataclass(frozen=True, slots=True)
class Sampling:
    """How a token is drawn. Temperature 0 is greedy; the same seed and position draw the same token."""

    temperature: float = 0.0
    top_p: float = 1.0
    top_k: int = 0
    """0 means no limit."""
    seed: int = 0


@dataclass(frozen=True, slots=True)
class Chunk:
    """One request's part of a micro-batch on its shard: a piece of its prompt, or its last token."""

    request: int
    """Number that the frontend knows the request by."""
    tokens: tuple[int, ...]
    """Token ids to compute."""
    start: int
    """Position of the first of them."""
    pages: tuple[int, ...]
    """KV pages of the request, in order; they hold at least start + len(tokens) tokens."""
    sampling: Sampling | None
    """How the next token is drawn after the last of `tokens`; None when none is wanted."""


MicroBatch = tuple[tuple[Chunk, ...], ...]
"""Chunks by shard, `[ep]`."""


@dataclass(frozen=True, slots=True)
class Step:
    """One forward pass of all shards through all stages."""

    number: int
    micro_batches: tuple[MicroBatch, ...]


@dataclass(frozen=True, slots=True)
class ShardBatch:
    """What one shard needs to know of a micro-batch."""

    tokens: tuple[int, ...]
    """Tokens of each shard, `[ep]`; at least one in all."""
    chunks: tuple[Chunk, ...]
    """Its own chunks; none where it is idle."""


@dataclass(frozen=True, slots=True)
class Sampled:
    """A token drawn for a request."""

    request: int
    token: int
    logprob: float
    """Natural logarithm of its probability before temperature."""
