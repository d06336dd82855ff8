"""Templates to objects: jinja2 writes YAML a person can read, every value by `tojson`, and YAML is parsed back.

A value is written as a double-quoted YAML scalar or a flow collection in ASCII, so that nothing in it can end it.
"""

import json
import re
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

import yaml
from jinja2 import Environment, FileSystemLoader, StrictUndefined

_Loader: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
_PAIR = re.compile(r"(?<!\\)((?:\\\\)*)\\u(d[89ab][0-9a-f]{2})\\u(d[c-f][0-9a-f]{2})")
REMEMBERED = 1024
"""Texts remembered, of some 5 kB each."""

Objects = list[dict[str, Any]]


def render(template: str, context: Mapping[str, Any]) -> Objects:
    """Objects of a template. Raises jinja2.UndefinedError when the context lacks something."""
    return _parse(_ENVIRONMENT.get_template(template).render(context))


def render_again(template: str, context: Mapping[str, Any]) -> Objects:
    """As `render`, for what is rendered whenever a deployment is looked at: the parsing, which costs most, is kept."""
    objects: Objects = json.loads(_remembered(_ENVIRONMENT.get_template(template).render(context)))
    return objects


def as_yaml(value: Any) -> str:
    """A JSON value as YAML on one line, in ASCII: JSON, but for characters beyond the first plane.

    JSON escapes these as two halves, which YAML takes for two characters; YAML has an escape of its own for them.
    """
    return _PAIR.sub(_joined, json.dumps(value))


def _joined(pair: re.Match[str]) -> str:
    before, high, low = pair.groups()
    code = 0x10000 + ((int(high, 16) - 0xD800) << 10) + (int(low, 16) - 0xDC00)
    return f"{before}\\U{code:08x}"


def _parse(text: str) -> Objects:
    return list(yaml.load_all(text, Loader=_Loader))


@lru_cache(maxsize=REMEMBERED)
def _remembered(text: str) -> str:
    return json.dumps(_parse(text))


def _environment() -> Environment:
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).with_name("templates")),
        undefined=StrictUndefined,
        autoescape=False,  # noqa: S701  # no HTML: every value goes through tojson
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        auto_reload=False,
    )
    environment.filters["tojson"] = as_yaml
    return environment


_ENVIRONMENT = _environment()
