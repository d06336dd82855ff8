"""One rank's part of a stage: the layers that the plan gives it, built from the spec and run in order."""

from torch import Tensor

from moe_plan.experts import copies_of, physical_to_logical
from moe_plan.layout import Coordinate
from moe_plan.plan import Plan
from moe_runtime.models.batch import Batch
from moe_runtime.models.layers import (
    Attention,
    DenseLayer,
    Embedding,
    Head,
    LayerExperts,
    MoeLayer,
    Norm,
    Place,
    read_vocabulary,
)
from moe_runtime.models.spec import FfnSpec, LayerSpec, ModelSpec


class DecoderLayer:
    """x + attention(norm(x)), then x + ffn(norm(x))."""

    def __init__(self, spec: LayerSpec, eps: float, experts: LayerExperts, place: Place) -> None:
        self._attention_norm = Norm(spec.attention_norm, eps, place)
        self._attention = Attention(spec.attention, eps, place)
        self._ffn_norm = Norm(spec.ffn_norm, eps, place)
        self._ffn: DenseLayer | MoeLayer = (
            DenseLayer(spec.ffn, place) if isinstance(spec.ffn, FfnSpec) else MoeLayer(spec.ffn, experts, place)
        )

    def __call__(self, x: Tensor, batch: Batch | None) -> Tensor:
        """[T, H] to [T, H]; without a batch T is 0, and the layer only helps the other shards."""
        if batch is None:
            return self._ffn(x, None)
        x = x + self._attention(self._attention_norm(x), batch)
        return x + self._ffn(self._ffn_norm(x), batch)


class DecoderStage:
    """Embedding where the stage has it, its layers, head where it has it."""

    def __init__(self, spec: ModelSpec, plan: Plan, here: Coordinate, place: Place) -> None:
        stage = plan.stages[here.pp]
        self.embedding = Embedding(spec.embedding, spec.vocab, place) if stage.embedding else None
        self.layers = tuple(
            DecoderLayer(spec.layers[layer], spec.norm_eps, layer_experts(plan, layer, here.ep), place)
            for layer in range(stage.first_layer, stage.first_layer + stage.layers)
        )
        self.head = self._make_head(spec, place) if stage.head else None

    def _make_head(self, spec: ModelSpec, place: Place) -> Head:
        if self.embedding is not None and spec.head == spec.embedding:
            weight = self.embedding.weight
        else:
            weight = read_vocabulary(spec.head, spec.vocab, place)
        return Head(Norm(spec.final_norm, spec.norm_eps, place), weight, spec.vocab, place.communicator)


def layer_experts(plan: Plan, layer: int, ep: int) -> LayerExperts:
    """Copies of a layer's experts, and the experts on one ep coordinate, as the plan deals them."""
    per_rank = plan.experts.per_rank
    logical = physical_to_logical(plan.experts, layer)
    return LayerExperts(copies_of(plan.experts, layer), logical[ep * per_rank : (ep + 1) * per_rank])
