"""One rank of a plan: builds its share of the model and runs its shard's chunks through its stage.

    weights = open_weights(plan, checkpoint)                         # once, in the parent: checks everything
    executor = Executor(plan, rank, communicator, weights, "cpu")    # in each rank: reads its slices
    sampled = executor.run(micro_batches)                            # every step

Every rank of a replica runs every micro-batch of every step. A shard without chunks in a micro-batch still serves its
experts to the others; it neither sends nor receives hidden states.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from moe_plan.layout import Layout
from moe_plan.plan import Plan
from moe_runtime.checkpoint import Weights
from moe_runtime.comm.base import Communicator
from moe_runtime.formats import formats_of
from moe_runtime.frontend.pages import pages_per_shard
from moe_runtime.models.batch import Batch, make_batch
from moe_runtime.models.layers import Place
from moe_runtime.models.rope import Rope
from moe_runtime.models.stage import DecoderStage
from moe_runtime.sampling import draw
from moe_runtime.step import Chunk, Sampled, ShardBatch


class Executor:
    """One rank. `device` is cpu or cuda:N. Raises UnsupportedModel for a number format it does not compute in."""

    def __init__(self, plan: Plan, rank: int, communicator: Communicator, weights: Weights, device: str) -> None:
        layout = Layout(plan.degrees.ep, plan.degrees.tp, plan.degrees.pp, plan.rank_order)
        here = layout.coordinate(rank)
        spec = weights.spec
        formats = formats_of(plan)
        self._place = Place(
            ep=here.ep,
            tp=here.tp,
            tp_degree=layout.tp,
            formats=formats,
            kv_pages=pages_per_shard(plan),
            device=device,
            weights=weights,
            communicator=communicator,
        )
        self._rope = Rope(spec.rope, formats.compute, device)
        self._nothing = torch.empty((0, spec.hidden), dtype=formats.compute, device=device)
        with torch.inference_mode():
            self._stage = DecoderStage(spec, plan, here, self._place)
        self.logits = torch.empty((0, spec.vocab))
        """Logits of the tokens that the last `run` returned, `[sampled, vocabulary]` float32, row by row."""

    def run(self, micro_batches: Sequence[ShardBatch]) -> list[Sampled]:
        """One step of this shard. Only the last stage's tp rank 0 returns what was drawn."""
        with torch.inference_mode():
            done = [self._run_micro_batch(micro_batch) for micro_batch in micro_batches]
            return self._draw([made for made in done if made is not None])

    def _run_micro_batch(self, micro_batch: ShardBatch) -> tuple[Batch, Tensor] | None:
        """The batch and its logits, where tokens are to be drawn and this stage has the head."""
        self._place.communicator.begin(micro_batch.tokens)
        done = self._run_stage(micro_batch.chunks)
        self._place.communicator.end()
        return done

    def _run_stage(self, chunks: Sequence[Chunk]) -> tuple[Batch, Tensor] | None:
        batch = make_batch(chunks, self._rope, self._place.ep, self._place.device) if chunks else None
        x = self._nothing if batch is None else self._enter(batch)
        for layer in self._stage.layers:
            x = layer(x, batch)
        if batch is None:
            return None
        if self._stage.head is None:
            self._place.communicator.send(x)
            return None
        return (batch, self._stage.head(x[batch.last])) if batch.drawing else None

    def _enter(self, batch: Batch) -> Tensor:
        if self._stage.embedding is not None:
            return self._stage.embedding(batch.tokens)
        return self._place.communicator.receive(len(batch.tokens))

    def _draw(self, made: Sequence[tuple[Batch, Tensor]]) -> list[Sampled]:
        if not made or self._place.tp:
            return []
        self.logits = torch.cat([logits for _, logits in made])
        drawing = [(chunk, sampling) for batch, _ in made for chunk, sampling in batch.drawing]
        positions = [chunk.start + len(chunk.tokens) for chunk, _ in drawing]
        drawn = draw(self.logits, [sampling for _, sampling in drawing], positions)
        return [Sampled(chunk.request, *token) for (chunk, _), token in zip(drawing, drawn, strict=True)]
