"""Trains the quickstart's model: S1's shape made narrow, on one volume of a public-domain novel, on one CPU core.

Tokenizer, schedule, load balancing, and the export as a Hugging Face checkpoint, which is then loaded with
transformers and held against the network that was trained. The same seed gives the same weights
on the same machine and torch release (floating-point sums differ between CPUs).

    python tools/train_quickstart/train.py --out examples/quickstart/model
"""

import argparse
import json
import math
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from network import Network, Shape
from safetensors.torch import save_file
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from torch import Tensor, nn
from torch.nn import functional

HERE = Path(__file__).parent
TEXT = HERE / "pride_and_prejudice_volume_1.txt"
CONFIG = HERE / "config.json"
END = "<|endoftext|>"
NEWLINE = "Ċ"
"""How byte-level BPE writes a line feed."""
CHAT_TEMPLATE = (
    "{% for message in messages %}{{ message['content'] }}"
    "{% if add_generation_prompt or not loop.last %}{{ '\n\n' }}{% endif %}{% endfor %}"
)
"""A conversation is paragraphs of the novel, in turn: the model was trained on nothing else."""


@dataclass(frozen=True)
class Cut:
    """How a batch is cut from the text."""

    sequences: int
    length: int


@dataclass(frozen=True)
class Recipe:
    """How training runs. The learning rate warms up linearly and then falls as a cosine.

    Steps take turns: openings teach what follows a prompt without history, passages teach long histories.
    """

    steps: int = 1900
    openings: Cut = Cut(16, 128)
    passages: Cut = Cut(4, 512)
    learning_rate: float = 4e-3
    final_fraction: float = 0.02
    warmup_steps: int = 60
    weight_decay: float = 0.05
    clip: float = 1.0
    balance: float = 0.01
    """Weight of the load-balancing loss (Fedus et al., Switch Transformers, 2022, equation 4)."""
    capacity_factor: float = 2.0
    """Rows of an expert in training, as a multiple of an even share; tokens beyond are dropped."""
    seed: int = 1813

    def rate(self, step: int) -> float:
        """Learning rate of a step."""
        if step < self.warmup_steps:
            return self.learning_rate * (step + 1) / self.warmup_steps
        done = (step - self.warmup_steps) / (self.steps - self.warmup_steps)
        cosine = 0.5 * (1 + math.cos(math.pi * done))
        return self.learning_rate * (self.final_fraction + (1 - self.final_fraction) * cosine)


# --- tokenizer ---------------------------------------------------------------------------------------------------


def chapters() -> list[str]:
    """The text by chapter, headings left out."""
    parts = TEXT.read_text(encoding="ascii").split("Chapter ")[1:]
    return [part.split("\n\n", 1)[1].strip() for part in parts]


def train_tokenizer(vocab_size: int) -> Tokenizer:
    """A byte-level BPE tokenizer whose token 0 ends a chapter."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=[END],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(chapters(), trainer)
    return tokenizer


def encode_text(tokenizer: Tokenizer) -> Tensor:
    """All chapters, each followed by END, as one row of token ids."""
    ids = [token for chapter in chapters() for token in tokenizer.encode(chapter + END).ids]
    return torch.tensor(ids)


# --- training ----------------------------------------------------------------------------------------------------


def openings(ids: Tensor, tokenizer: Tokenizer, cut: Cut, generator: torch.Generator) -> Iterator[Tensor]:
    """Endless batches [B, T+1] that begin where a paragraph does: each pass takes all paragraphs, shuffled."""
    breaks = torch.isin(ids, torch.tensor([tokenizer.token_to_id(NEWLINE), tokenizer.token_to_id(END)]))
    starts = (breaks[:-1] & ~breaks[1:]).nonzero().flatten() + 1
    starts = torch.cat((torch.zeros(1, dtype=torch.long), starts[starts < len(ids) - cut.length]))
    reach = torch.arange(cut.length + 1)
    while True:
        order = starts[torch.randperm(len(starts), generator=generator)]
        for batch in torch.split(order[: len(order) // cut.sequences * cut.sequences], cut.sequences):
            yield ids[batch.unsqueeze(1) + reach]


def passages(ids: Tensor, cut: Cut, generator: torch.Generator) -> Iterator[Tensor]:
    """Endless batches [B, T+1]: each pass cuts the text anew from a random offset and shuffles the pieces."""
    while True:
        offset = int(torch.randint(cut.length, (), generator=generator))
        pieces = ids[offset:].unfold(0, cut.length + 1, cut.length)
        order = torch.randperm(len(pieces), generator=generator)
        for batch in torch.split(order[: len(order) // cut.sequences * cut.sequences], cut.sequences):
            yield pieces[batch]


def optimizer_for(network: Network, recipe: Recipe) -> torch.optim.AdamW:
    """AdamW that decays matrices and leaves norms alone."""
    matrices = [p for p in network.parameters() if p.dim() > 1]
    norms = [p for p in network.parameters() if p.dim() == 1]
    groups = [{"params": matrices, "weight_decay": recipe.weight_decay}, {"params": norms, "weight_decay": 0.0}]
    return torch.optim.AdamW(groups, lr=recipe.learning_rate, betas=(0.9, 0.95), fused=True)


def train(network: Network, batches: Iterator[Tensor], recipe: Recipe) -> float:
    """Trains in place; returns the mean cross-entropy a token (nats) of the last 50 steps."""
    optimizer = optimizer_for(network, recipe)
    for moe in network.moe_layers():
        moe.capacity_factor = recipe.capacity_factor
    losses: list[float] = []
    started = time.monotonic()
    for step in range(recipe.steps):
        losses.append(train_step(network, next(batches), optimizer, recipe, step))
        if len(losses) % 50 == 0:
            report(network, losses, recipe.steps, time.monotonic() - started)
    for moe in network.moe_layers():
        moe.capacity_factor = None
    return sum(losses[-50:]) / len(losses[-50:])


def train_step(network: Network, batch: Tensor, optimizer: torch.optim.Optimizer, recipe: Recipe, step: int) -> float:
    """One update from a batch [B, T+1]; returns its cross-entropy."""
    for group in optimizer.param_groups:
        group["lr"] = recipe.rate(step)
    logits, balance = network(batch[:, :-1])
    loss = functional.cross_entropy(logits.flatten(0, 1), batch[:, 1:].flatten())
    optimizer.zero_grad()
    (loss + recipe.balance * balance).backward()
    nn.utils.clip_grad_norm_(network.parameters(), recipe.clip)
    optimizer.step()
    return loss.item()


def report(network: Network, losses: list[float], steps: int, seconds: float) -> None:
    """One line: the loss of the last 50 steps and how even the experts' load is."""
    loads = torch.stack([moe.load for moe in network.moe_layers()]) * network.shape.num_experts
    print(
        f"step {len(losses)}/{steps}  loss {sum(losses[-50:]) / 50:.3f}  "
        f"busiest expert {loads.max():.1f}x  idle experts {int((loads == 0).sum())}  {seconds:.0f} s",
        flush=True,
    )


# --- export ------------------------------------------------------------------------------------------------------


def published_tensors(network: Network) -> dict[str, Tensor]:
    """The weights in bfloat16 under the names of published Qwen3-MoE checkpoints: three matrices an expert."""
    tensors: dict[str, Tensor] = {}
    for name, value in network.state_dict().items():
        whole = name if name.startswith("lm_head") else f"model.{name}"
        if name.endswith(("gate_up", "down")):
            tensors.update(expert_tensors(whole, value))
        else:
            tensors[whole] = value
    return {name: value.to(torch.bfloat16).contiguous() for name, value in sorted(tensors.items())}


def expert_tensors(name: str, value: Tensor) -> Iterator[tuple[str, Tensor]]:
    """Parts one layer's batched matrices [E, in, out] into `experts.E.….weight` [out, in]."""
    prefix, _, kind = name.rpartition(".")
    for index, matrix in enumerate(value.transpose(1, 2)):
        if kind == "down":
            yield f"{prefix}.experts.{index}.down_proj.weight", matrix
        else:
            gate, up = matrix.chunk(2)
            yield f"{prefix}.experts.{index}.gate_proj.weight", gate
            yield f"{prefix}.experts.{index}.up_proj.weight", up


def write_json(path: Path, value: object) -> None:
    """Writes indented JSON."""
    path.write_text(json.dumps(value, indent=2) + "\n", encoding="utf-8")


def export(network: Network, tokenizer: Tokenizer, out: Path) -> None:
    """Writes the checkpoint: weights in one file, config, tokenizer and chat template."""
    out.mkdir(parents=True, exist_ok=True)
    weights = out / "model.safetensors"
    save_file(published_tensors(network), weights, metadata={"format": "pt"})
    weights.chmod(0o644)
    (out / "config.json").write_bytes(CONFIG.read_bytes())
    write_json(out / "generation_config.json", {"do_sample": False, "eos_token_id": 0, "pad_token_id": 0})
    tokenizer.save(str(out / "tokenizer.json"))
    limits = {"model_max_length": json.loads(CONFIG.read_text())["max_position_embeddings"]}
    words = {"eos_token": END, "pad_token": END, "chat_template": CHAT_TEMPLATE}
    write_json(out / "tokenizer_config.json", {"tokenizer_class": "PreTrainedTokenizerFast", **limits, **words})


@torch.no_grad()
def verify(network: Network, ids: Tensor, out: Path) -> float:
    """Largest difference of a logit between transformers' reading of the export and the network, in float32.

    Raises:
        RuntimeError: the two are not the same model.
    """
    from transformers import AutoModelForCausalLM  # noqa: PLC0415  two seconds that only an export needs

    loaded = AutoModelForCausalLM.from_pretrained(out, dtype=torch.float32)
    network.to(torch.bfloat16).to(torch.float32)
    sample = ids[:256].unsqueeze(0)
    difference = float((loaded(sample).logits - network(sample)[0]).abs().max())
    if difference > 1e-3:
        raise RuntimeError(f"{out} gives other logits than the trained network: they differ by {difference:.2g}")
    return difference


def main() -> None:
    """Trains, exports, verifies."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, required=True, help="folder that the checkpoint is written to")
    parser.add_argument("--steps", type=int, default=Recipe.steps, help="optimizer steps; few make a trial")
    parser.add_argument("--threads", type=int, default=1, help="CPU threads")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    recipe = Recipe(steps=options.steps)
    torch.manual_seed(recipe.seed)
    shape = Shape.of(json.loads(CONFIG.read_text()))
    tokenizer = train_tokenizer(shape.vocab_size)
    ids = encode_text(tokenizer)
    network = Network(shape)
    print(f"{len(ids)} tokens of text, {sum(p.numel() for p in network.parameters()):,} parameters", flush=True)
    generator = torch.Generator().manual_seed(recipe.seed)
    short = openings(ids, tokenizer, recipe.openings, generator)
    long = passages(ids, recipe.passages, generator)
    turns = (batch for pair in zip(short, long, strict=False) for batch in pair)
    loss = train(network, turns, recipe)
    export(network, tokenizer, options.out)
    print(f"final loss {loss:.3f} nats a token; transformers' logits within {verify(network, ids, options.out):.1e}")


if __name__ == "__main__":
    main()
