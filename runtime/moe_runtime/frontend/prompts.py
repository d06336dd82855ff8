"""The files of `generate`: prompts in, tokens and logits out."""

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from moe_plan.plan import Plan
from moe_runtime.errors import RuntimeFailure


class PromptsError(RuntimeFailure):
    """The prompts cannot be generated from."""


def read_prompts(path: Path, plan: Plan, max_tokens: int) -> list[tuple[int, ...]]:
    """The prompts of a JSON list of token-id lists. Raises PromptsError; OSError when there is no such file."""
    try:
        value = json.loads(path.read_bytes())
    except (ValueError, RecursionError) as error:
        raise PromptsError(f"{path} is not JSON: {error}") from error
    if not isinstance(value, list):
        raise PromptsError(f"{path} must be a list of lists of token ids, not {_kind(value)}")
    return [_prompt(f"{path}: prompt {i}", prompt, plan, max_tokens) for i, prompt in enumerate(value)]


def check_writable(path: Path) -> None:
    """Raises OSError when the file cannot be written, before hours are spent on its content."""
    if path.is_dir():
        raise IsADirectoryError(21, "is a directory, not a file to write", str(path))
    if not path.parent.is_dir():
        raise FileNotFoundError(2, "no such directory", str(path.parent))
    if not os.access(path if path.exists() else path.parent, os.W_OK):
        raise PermissionError(13, "may not be written", str(path))


def write_whole(path: Path, content: bytes) -> None:
    """Write a file whole or not at all."""
    if path.exists() and not path.is_file():
        path.write_bytes(content)  # a pipe or a device
        return
    part = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        part.write_bytes(content)
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)


def _prompt(where: str, prompt: Any, plan: Plan, max_tokens: int) -> tuple[int, ...]:
    if not isinstance(prompt, list) or not prompt:
        raise PromptsError(f"{where} must be a list of token ids, not {_kind(prompt)}")
    vocabulary = vocab_size(plan)
    wrong = next((token for token in prompt if type(token) is not int or not 0 <= token < vocabulary), None)
    if wrong is not None or None in prompt:
        raise PromptsError(f"{where} holds {json.dumps(wrong)}, which is no token id; they are 0 to {vocabulary - 1}")
    longest = plan.limits.max_model_length
    if len(prompt) + max_tokens > longest:
        asked = f"{len(prompt)} tokens and {max_tokens} to generate"
        raise PromptsError(f"{where} is too long: {asked} are more than the {longest} that the plan admits")
    return tuple(prompt)


def vocab_size(plan: Plan) -> int:
    """Token ids of the plan's model are below it."""
    config = plan.model.config
    return int(config.get("text_config", config)["vocab_size"])


def _kind(value: Sequence[Any] | Any) -> str:
    names = {dict: "an object", str: "a string", bool: "true or false", type(None): "null", list: "an empty list"}
    return names.get(type(value), "a number")
