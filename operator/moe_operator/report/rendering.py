"""Templates to text: HTML with everything escaped, Markdown with everything that could be markup escaped."""

import re
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from moe_plan.units import format_bytes, format_count, format_seconds

_TEMPLATES = Path(__file__).with_name("templates")
_MARKUP = re.compile(r"([\\`*_\[\]<>&#|~])")
_BREAKS = re.compile(r"[\x00-\x1f\x7f\u2028\u2029]+")


def html(template: str, context: Mapping[str, Any]) -> str:
    """A page; every value is escaped."""
    return _html().get_template(template).render(context)


def markdown(template: str, context: Mapping[str, Any]) -> str:
    """A Markdown document; every value is escaped, or stands as code."""
    return _markdown().get_template(template).render(context)


def in_code(value: object) -> Markup:
    """A value between backticks, one more than it has itself, on one line."""
    text = _BREAKS.sub(" ", str(value)).replace("|", "\\|")
    fence = "`" * (max(map(len, re.findall("`+", text)), default=0) + 1)
    space = " " if "`" in text else ""
    return Markup(f"{fence}{space}{text}{space}{fence}")  # noqa: S704  # markup is what it makes


def escaped(value: object) -> object:
    """A value as Markdown shows it, letter by letter; what is marked as markup stays."""
    if isinstance(value, Markup) or not isinstance(value, str):
        return value
    return _MARKUP.sub(r"\\\1", _BREAKS.sub(" ", value))


@cache
def _html() -> Environment:
    return _with_formats(Environment(loader=FileSystemLoader(_TEMPLATES), autoescape=True, **_OPTIONS))


@cache
def _markdown() -> Environment:
    plain = Environment(loader=FileSystemLoader(_TEMPLATES), autoescape=False, finalize=escaped, **_OPTIONS)  # noqa: S701  # no HTML: `escaped` is its escape
    plain.filters["code"] = in_code
    return _with_formats(plain)


_OPTIONS: dict[str, Any] = {
    "undefined": StrictUndefined,
    "trim_blocks": True,
    "lstrip_blocks": True,
    "keep_trailing_newline": True,
    "auto_reload": False,
}


def _with_formats(environment: Environment) -> Environment:
    environment.filters |= {
        "bytes": format_bytes,
        "seconds": format_seconds,
        "params": format_count,
        "number": lambda value: f"{value:,.4g}" if abs(value) < 100 else f"{value:,.0f}",
        "count": lambda value: f"{value:,}",
        "of": lambda value, noun: f"{value:,} {noun}" + ("" if value == 1 else "s"),
        "percent": lambda share: f"{share:.1%}" if share >= 0.001 or not share else "<0.1%",
        "px": lambda value: f"{value:.4g}",
        "at": lambda value: f"{value:.2f}",
    }
    return environment
