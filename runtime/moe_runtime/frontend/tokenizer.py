"""The tokenizer of a checkpoint: tokenizer.json for text and tokens, config files for the tokens that end an answer."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer as FastTokenizer

from moe_runtime.errors import CheckpointError

TOKENIZER_FILE = "tokenizer.json"


class Tokenizer:
    """Text to token ids and back."""

    def __init__(self, fast: FastTokenizer) -> None:
        self._fast = fast
        self.vocab_size: int = fast.get_vocab_size()

    def encode(self, text: str) -> tuple[int, ...]:
        """Token ids of a text, with the special tokens that the model wants around it."""
        return tuple(self._fast.encode(text).ids)

    def encode_rendered(self, text: str) -> tuple[int, ...]:
        """Token ids of a rendered chat template, which has its special tokens already."""
        return tuple(self._fast.encode(text, add_special_tokens=False).ids)

    def decode(self, tokens: Sequence[int]) -> str:
        """Text of token ids, without special tokens."""
        return str(self._fast.decode(list(tokens), skip_special_tokens=True))

    def piece(self, token: int) -> str:
        """Text of one token by itself, special ones included."""
        return str(self._fast.decode([token], skip_special_tokens=False))


def load_tokenizer(checkpoint: Path | None) -> Tokenizer | None:
    """The checkpoint's tokenizer; None where it has none. Raises CheckpointError when the file is no tokenizer."""
    if checkpoint is None or not (path := checkpoint / TOKENIZER_FILE).is_file():
        return None
    try:
        fast = FastTokenizer.from_file(str(path))
    except Exception as error:  # the library raises bare Exception for a bad file
        raise CheckpointError(f"{path} is not a tokenizer: {error}") from error
    fast.no_padding()
    fast.no_truncation()
    return Tokenizer(fast)


def end_tokens(checkpoint: Path | None, config: Mapping[str, Any]) -> frozenset[int]:
    """Ids after which an answer ends: generation_config.json's where it names some, or else config.json's."""
    generation = read_json(checkpoint, "generation_config.json")
    found = generation.get("eos_token_id")
    if found is None:
        found = config.get("eos_token_id")
    ids = found if isinstance(found, list) else [found]
    return frozenset(token for token in ids if isinstance(token, int))


def read_json(checkpoint: Path | None, name: str) -> dict[str, Any]:
    """A JSON object of the checkpoint; empty where there is no such file. Raises CheckpointError."""
    if checkpoint is None or not (path := checkpoint / name).is_file():
        return {}
    try:
        value = json.loads(path.read_text("utf-8"))
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"{path} is not JSON: {error}") from error
    if not isinstance(value, dict):
        raise CheckpointError(f"{path} is not a JSON object")
    return value
