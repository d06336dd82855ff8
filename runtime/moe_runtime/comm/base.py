"""The interface behind which ranks talk. Every call is collective over its group and must be made in the same order."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from torch import Tensor


@dataclass(slots=True)
class Dispatched:
    """Tokens that arrived at a rank's experts. Shapes: R rows, H hidden."""

    hidden: Tensor
    """[R, H], grouped by local expert: the rows of local expert 0 first, then of 1, and so on."""
    counts: list[int]
    """Rows of each local physical expert, [per_rank]; they add up to R."""
    handle: Any
    """What `combine` of the same communicator needs."""


class Communicator(Protocol):
    """One rank's view of its groups."""

    def begin(self, tokens: Sequence[int]) -> None:
        """What follows is a micro-batch with so many tokens on each shard, `[ep]`, at least one in all."""

    def end(self) -> None:
        """The micro-batch is done on this rank."""

    def all_reduce(self, x: Tensor) -> Tensor:
        """Sum of x over the tp group; the same bits on each rank. May reuse x's storage."""

    def all_gather(self, x: Tensor) -> Tensor:
        """x of each tp rank joined along the last dimension, in tp order."""

    def dispatch(self, hidden: Tensor, experts: Tensor) -> Dispatched:
        """Send tokens to their experts, over the ranks of a stage.

        hidden [tokens, H] is the same on each tp rank of a shard; experts [tokens, top_k] (int64) are physical
        expert ids, distinct in a row. Ranks without tokens pass empty tensors and still take part.
        """

    def combine(self, output: Tensor, dispatched: Dispatched, weights: Tensor) -> Tensor:
        """Return experts' outputs to their tokens: the inverse of dispatch.

        output [R, H] is this tp rank's partial sum of its rows (down projection split by row); weights [tokens,
        top_k] are the router's. Returns [tokens, H], weighted over top_k and summed over tp, the same bits on each
        tp rank of the shard.
        """

    def send(self, x: Tensor) -> None:
        """Hidden states [tokens, H] to the same shard and tp rank of the next stage."""

    def receive(self, tokens: int) -> Tensor:
        """Hidden states [tokens, H] from the previous stage."""

    def close(self) -> None:
        """Release what the communicator holds; safe to call twice."""
