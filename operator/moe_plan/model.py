"""The shape of a model, as far as planning needs it: what is stored, what is computed, how it splits.

Counts of parameters are of the whole model; `memory.py` and `cost.py` derive a rank's share from them.
"""

from dataclasses import dataclass
from typing import Literal

AttentionKind = Literal["gqa", "mla", "linear"]


@dataclass(frozen=True, slots=True)
class Attention:
    """One layer's attention. Widths are per head unless said otherwise."""

    kind: AttentionKind
    heads: int
    kv_heads: int
    """Heads of K and V; equal to heads for mla and linear."""
    qk_dim: int
    """Width of a query-key product."""
    v_dim: int
    """Width of a value."""
    query_params: int
    """Parameters split over tp by query head: Q, O, gates, sinks, MLA's up projections."""
    kv_params: int
    """Parameters of K and V projections: split over tp by KV head, replicated once tp exceeds kv_heads."""
    replicated_params: int
    """Parameters that each tp rank holds whole: MLA's down projections, head norms, sparse-attention indexers."""
    latent_dim: int = 0
    """MLA: elements cached a token on each tp rank (latent and rotary key together); 0 otherwise."""
    window: int | None = None
    """Sliding window in tokens, beside the compressed entries where there are any; None when all are attended."""
    compression: int = 1
    """Tokens that share one cached entry."""
    selected: int | None = None
    """Sparse attention: cached entries that a query reads at most; None when all."""
    indexer_dim: int = 0
    """Sparse attention: elements a token that the indexer caches on each tp rank, compression accounted for."""
    state_elements: int = 0
    """Linear attention: elements of recurrent state a request, split over tp; 0 otherwise."""


@dataclass(frozen=True, slots=True)
class DenseFfn:
    """A dense feed-forward layer: `matrices` (3 gated, 2 not) of [hidden, width]."""

    width: int
    matrices: int
    params: int


@dataclass(frozen=True, slots=True)
class MoeFfn:
    """A Mixture-of-Experts layer."""

    experts: int
    """Logical experts."""
    top_k: int
    width: int
    """FFN width of one routed expert."""
    matrices: int
    """Matrices of an expert: 3 gated, 2 not."""
    expert_params: int
    """Parameters of one routed expert, biases included."""
    shared_width: int
    """Width of the shared experts together; 0 when there are none."""
    shared_params: int
    """Parameters of the shared experts together, their gate included."""
    router_params: int
    """Parameters of the router, and of projections to and from expert_hidden; each rank of the stage holds them whole."""
    expert_hidden: int = 0
    """Hidden width that the experts see; 0 means the model's."""


Ffn = DenseFfn | MoeFfn


@dataclass(frozen=True, slots=True)
class Layer:
    """One transformer layer."""

    attention: Attention
    ffn: Ffn
    norm_params: int
    """Parameters of the layer's norms and whatever else each rank holds whole."""


@dataclass(frozen=True, slots=True)
class NumberFormat:
    """How a class of weights is stored."""

    name: str
    """float32, bfloat16, float16, float8, mxfp4 or int4."""
    bytes_per_param: float
    """Bytes of one parameter, its share of the block scales included."""
    block: int = 1
    """Parameters along the split width that share a scale and so cannot be parted over tp; 1 when unquantised."""


@dataclass(frozen=True, slots=True)
class Formats:
    """Storage of the three classes of weights, and the format that arithmetic runs in."""

    experts: NumberFormat
    """Routed experts."""
    linear: NumberFormat
    """Attention projections, shared experts, dense FFNs."""
    other: NumberFormat
    """Embedding, head, norms, routers."""
    compute: str
    """Format of activations: float32, bfloat16 or float16."""


@dataclass(frozen=True, slots=True)
class ModelShape:
    """A whole model."""

    name: str
    """Catalogue name, or the deployment's for an inline config."""
    family: str
    """Hugging Face model_type, such as qwen3_moe."""
    hidden: int
    vocab: int
    embedding_params: int
    head_params: int
    """0 when the head shares the embedding's weights."""
    final_norm_params: int
    layers: tuple[Layer, ...]
    max_positions: int
    """Longest request, in tokens."""
    formats: Formats
    uncounted_params: int = 0
    """Parameters the checkpoint holds and the runtime neither loads nor counts: multi-token prediction, vision."""

    @property
    def moe_layers(self) -> tuple[int, ...]:
        """Indices of the MoE layers."""
        return tuple(i for i, layer in enumerate(self.layers) if isinstance(layer.ffn, MoeFfn))
