"""The chat template of a checkpoint: messages become the text that the model was trained to continue.

Templates are Jinja as Hugging Face writes them, rendered in a sandbox, since a checkpoint is data of others.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NoReturn

from jinja2 import Template, TemplateError, nodes
from jinja2.ext import Extension
from jinja2.parser import Parser
from jinja2.sandbox import ImmutableSandboxedEnvironment

from moe_runtime.errors import CheckpointError
from moe_runtime.frontend.tokenizer import read_json

TEMPLATE_FILE = "chat_template.jinja"
TOKENIZER_CONFIG = "tokenizer_config.json"
SPECIAL_TOKENS = ("bos_token", "eos_token", "unk_token", "pad_token", "sep_token", "cls_token")


class ChatError(Exception):
    """The messages do not suit the model's chat template: what the template said."""


class ChatTemplate:
    """A compiled template with the special tokens it may name."""

    def __init__(self, template: Template, special_tokens: Mapping[str, str]) -> None:
        self._template = template
        self._special_tokens = special_tokens

    def render(self, messages: Sequence[Mapping[str, Any]]) -> str:
        """The prompt, up to where the assistant's answer begins. Raises ChatError when the template refuses."""
        try:
            return self._template.render(messages=messages, add_generation_prompt=True, **self._special_tokens)
        except Exception as error:  # a template can fail in any way that Python can
            said = " ".join(str(error).split())
            raise ChatError(f"the model's chat template refuses the messages: {said}") from error


class _Generation(Extension):
    """`{% generation %}…{% endgeneration %}` marks an answer for training; here it is only its content."""

    tags = {"generation"}  # noqa: RUF012  # as jinja2 declares it

    def parse(self, parser: Parser) -> list[nodes.Node]:
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)


def load_chat_template(checkpoint: Path | None) -> ChatTemplate | None:
    """The checkpoint's template; None where it has none. Raises CheckpointError when it does not compile."""
    if checkpoint is None:
        return None
    config = read_json(checkpoint, TOKENIZER_CONFIG)
    source = _source(checkpoint, config)
    if source is None:
        return None
    try:
        template = _environment().from_string(source)
    except TemplateError as error:
        raise CheckpointError(f"the chat template of {checkpoint} does not compile: {error}") from error
    found = ((name, _special_token(config.get(name))) for name in SPECIAL_TOKENS)
    return ChatTemplate(template, {name: token for name, token in found if token is not None})


def _source(checkpoint: Path, config: Mapping[str, Any]) -> str | None:
    path = checkpoint / TEMPLATE_FILE
    if path.is_file():
        return path.read_text("utf-8")
    given = config.get("chat_template")
    if isinstance(given, list):
        named = {entry.get("name"): entry.get("template") for entry in given if isinstance(entry, dict)}
        given = named.get("default")
    return given if isinstance(given, str) else None


def _special_token(entry: Any) -> str | None:
    content = entry.get("content") if isinstance(entry, dict) else entry
    return content if isinstance(content, str) else None


def _environment() -> ImmutableSandboxedEnvironment:
    # Whitespace, extensions and helpers are those that Hugging Face documents for chat templates.
    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=["jinja2.ext.loopcontrols", _Generation]
    )
    helpers: dict[str, Callable[..., Any]] = {"raise_exception": _refuse, "strftime_now": _now}
    environment.globals.update(helpers)
    environment.filters["tojson"] = _to_json
    return environment


def _refuse(message: str) -> NoReturn:
    raise TemplateError(message)


def _now(style: str) -> str:
    return datetime.now(tz=UTC).astimezone().strftime(style)


def _to_json(value: Any, indent: int | None = None) -> str:
    return json.dumps(value, ensure_ascii=False, indent=indent)
