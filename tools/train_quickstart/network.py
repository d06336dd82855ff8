"""The quickstart's network: a Qwen3-MoE decoder whose experts are batched, so that a CPU trains it in minutes.

Shapes: B sequences, T positions, N = B·T tokens, H hidden, E experts, W expert width, K experts a token, C rows an
expert, D head width.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional


@dataclass(frozen=True)
class Shape:
    """The network's sizes, named as in config.json."""

    vocab_size: int
    hidden_size: int
    num_hidden_layers: int
    num_attention_heads: int
    num_key_value_heads: int
    head_dim: int
    num_experts: int
    num_experts_per_tok: int
    moe_intermediate_size: int
    rms_norm_eps: float
    rope_theta: float

    @classmethod
    def of(cls, config: dict[str, object]) -> "Shape":
        """The sizes in a parsed config.json; KeyError names one that is absent."""
        return cls(**{name: config[name] for name in cls.__dataclass_fields__})  # type: ignore[arg-type]


class RmsNorm(nn.Module):
    """Scales the last dimension to unit root mean square."""

    def __init__(self, width: int, eps: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        return functional.rms_norm(x, self.weight.shape, self.weight, self.eps)


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotary position embedding by halves of the head: x [B, heads, T, D], cos and sin [T, D]."""
    left, right = x.chunk(2, dim=-1)
    return x * cos + torch.cat((-right, left), dim=-1) * sin


class Attention(nn.Module):
    """Causal grouped-query attention with normalised queries and keys."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.heads, self.kv_heads, self.dim = shape.num_attention_heads, shape.num_key_value_heads, shape.head_dim
        self.q_proj = nn.Linear(shape.hidden_size, self.heads * self.dim, bias=False)
        self.k_proj = nn.Linear(shape.hidden_size, self.kv_heads * self.dim, bias=False)
        self.v_proj = nn.Linear(shape.hidden_size, self.kv_heads * self.dim, bias=False)
        self.o_proj = nn.Linear(self.heads * self.dim, shape.hidden_size, bias=False)
        self.q_norm = RmsNorm(self.dim, shape.rms_norm_eps)
        self.k_norm = RmsNorm(self.dim, shape.rms_norm_eps)

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        B, T, _ = x.shape
        q = self.q_norm(self.q_proj(x).view(B, T, self.heads, self.dim)).transpose(1, 2)
        k = self.k_norm(self.k_proj(x).view(B, T, self.kv_heads, self.dim)).transpose(1, 2)
        v = self.v_proj(x).view(B, T, self.kv_heads, self.dim).transpose(1, 2)
        k, v = (each.repeat_interleave(self.heads // self.kv_heads, dim=1) for each in (rotate(k, cos, sin), v))
        out = functional.scaled_dot_product_attention(rotate(q, cos, sin), k, v, is_causal=True)
        joined: Tensor = self.o_proj(out.transpose(1, 2).reshape(B, T, -1))
        return joined


class Experts(nn.Module):
    """A top-K Mixture of Experts, computed as two batched products over [E, C] rows."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        E, H, W = shape.num_experts, shape.hidden_size, shape.moe_intermediate_size
        self.top_k = shape.num_experts_per_tok
        self.gate = nn.Linear(H, E, bias=False)
        self.gate_up = nn.Parameter(torch.empty(E, H, 2 * W))
        self.down = nn.Parameter(torch.empty(E, W, H))
        self.capacity_factor: float | None = None
        self.load = torch.zeros(E)
        """Share of the last batch's routes that each expert was chosen for."""

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Returns the output [N, H] and the load-balancing loss: x [N, H]."""
        E = self.gate.out_features
        probs = self.gate(x).softmax(-1)
        weights, chosen = probs.topk(self.top_k, dim=-1)
        counts = torch.bincount(chosen.flatten(), minlength=E)
        self.load = counts / chosen.numel()
        rows, C = self._rows(chosen.flatten(), counts)
        spread = x.new_zeros(E * C + 1, x.shape[1]).index_copy(0, rows, x.repeat_interleave(self.top_k, dim=0))
        gate, up = torch.bmm(spread[:-1].view(E, C, -1), self.gate_up).chunk(2, dim=-1)
        done = torch.bmm(functional.silu(gate) * up, self.down).view(E * C, -1)
        picked = functional.pad(done, (0, 0, 0, 1))[rows].view(*chosen.shape, -1)
        shares = weights / weights.sum(-1, keepdim=True)
        return (picked * shares.unsqueeze(-1)).sum(1), E * (self.load * probs.mean(0)).sum()

    def _rows(self, chosen: Tensor, counts: Tensor) -> tuple[Tensor, int]:
        """The row of each route [N·K], E·C for a dropped one, and C."""
        largest = int(counts.max())
        even_share = chosen.numel() / len(counts)
        C = largest if self.capacity_factor is None else min(largest, math.ceil(self.capacity_factor * even_share))
        order = chosen.argsort(stable=True)
        place = torch.empty_like(order)
        place[order] = torch.arange(len(order)) - (counts.cumsum(0) - counts)[chosen[order]]
        return torch.where(place < C, chosen * C + place, len(counts) * C), C


class Layer(nn.Module):
    """Attention and experts, each behind a norm and a residual."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.input_layernorm = RmsNorm(shape.hidden_size, shape.rms_norm_eps)
        self.self_attn = Attention(shape)
        self.post_attention_layernorm = RmsNorm(shape.hidden_size, shape.rms_norm_eps)
        self.mlp = Experts(shape)

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor) -> tuple[Tensor, Tensor]:
        x = x + self.self_attn(self.input_layernorm(x), cos, sin)
        out, balance = self.mlp(self.post_attention_layernorm(x).flatten(0, 1))
        return x + out.view_as(x), balance


class Network(nn.Module):
    """The whole model: token ids [B, T] to logits [B, T, vocabulary], and the mean load-balancing loss."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.shape = shape
        self.embed_tokens = nn.Embedding(shape.vocab_size, shape.hidden_size)
        self.layers = nn.ModuleList(Layer(shape) for _ in range(shape.num_hidden_layers))
        self.norm = RmsNorm(shape.hidden_size, shape.rms_norm_eps)
        self.lm_head = nn.Linear(shape.hidden_size, shape.vocab_size, bias=False)
        self._initialise()

    def _initialise(self) -> None:
        """Keeps the scale of activations; the last matrix of each residual branch starts small (GPT-2's rule)."""
        quiet = (2 * self.shape.num_hidden_layers) ** -0.5
        for name, parameter in self.named_parameters():
            if parameter.dim() > 1:
                fan_in = parameter.shape[1]
                last = name.endswith(("o_proj.weight", "down"))
                nn.init.normal_(parameter, std=fan_in**-0.5 * (quiet if last else 1.0))
        nn.init.normal_(self.embed_tokens.weight, std=0.5)
        nn.init.normal_(self.lm_head.weight, std=0.02)

    def moe_layers(self) -> list[Experts]:
        return [module for module in self.modules() if isinstance(module, Experts)]

    def forward(self, ids: Tensor) -> tuple[Tensor, Tensor]:
        cos, sin = self._angles(ids.shape[1])
        x = self.embed_tokens(ids)
        balance = torch.zeros(())
        for layer in self.layers:
            x, one = layer(x, cos, sin)
            balance = balance + one / len(self.layers)
        return self.lm_head(self.norm(x)), balance

    def _angles(self, length: int) -> tuple[Tensor, Tensor]:
        D = self.shape.head_dim
        frequencies = self.shape.rope_theta ** (-torch.arange(0, D, 2) / D)
        angles = torch.outer(torch.arange(length), frequencies).repeat(1, 2)
        return angles.cos(), angles.sin()
