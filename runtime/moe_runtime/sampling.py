"""Drawing tokens from logits: greedy, or by temperature, top-k and top-p, the same for the same seed and position."""

from collections.abc import Sequence

import torch
from torch import Tensor

from moe_runtime.step import Sampling

COLDEST = 1e-6
"""Temperatures below are taken for this one, which already leaves the likeliest token alone."""


def draw(logits: Tensor, samplings: Sequence[Sampling], positions: Sequence[int]) -> list[tuple[int, float]]:
    """A token for each row of logits `[B, vocabulary]` (float32), and the logarithm of its probability.

    `positions` are those of the tokens drawn. The logarithm is natural, and of the probability before temperature.
    """
    tokens = logits.argmax(-1)
    for row, (sampling, position) in enumerate(zip(samplings, positions, strict=True)):
        if sampling.temperature > 0:
            tokens[row] = _draw_one(logits[row].cpu(), sampling, position)
    chosen = logits.gather(-1, tokens[:, None])[:, 0] - logits.logsumexp(-1)
    return list(zip(tokens.tolist(), chosen.tolist(), strict=True))


def _draw_one(logits: Tensor, sampling: Sampling, position: int) -> int:
    """A token by its probability, of those that top-k and then top-p leave."""
    likeliest_at_zero = (logits - logits.max()) / max(sampling.temperature, COLDEST)
    scaled, tokens = likeliest_at_zero.sort(descending=True, stable=True)
    if sampling.top_k:
        scaled = scaled[: sampling.top_k]
    shares = scaled.softmax(-1)
    # A token stays while those before it have less than top_p, so that the likeliest always stays.
    shares = shares.where(shares.cumsum(-1) - shares < sampling.top_p, 0)
    shares[0] = shares[0].clamp(min=torch.finfo(shares.dtype).tiny)
    return int(tokens[shares.multinomial(1, generator=_generator(sampling.seed, position))])


def _generator(seed: int, position: int) -> torch.Generator:
    """A generator of its own for each seed and position: odd multipliers keep neighbours apart."""
    mixed = (seed * 0x9E3779B97F4A7C15 + position * 0xD1B54A32D192ED03 + 0x632BE59BD9B4E019) % 2**63
    return torch.Generator().manual_seed(mixed)
