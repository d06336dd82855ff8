"""The API reference, out of the CustomResourceDefinition: a table for each section, a row for each field.

`python -m moe_operator.crd.reference` prints it as Markdown; docs/api.md holds it.
"""

from collections.abc import Iterator, Mapping
from typing import Any

from moe_operator.crd.definition import GROUP, VERSION, custom_resource_definition

Schema = Mapping[str, Any]

_RULES = "x-kubernetes-validations"
_FREE = "x-kubernetes-preserve-unknown-fields"
_INT_OR_TEXT = "x-kubernetes-int-or-string"
_INT32 = 2**31 - 1
"""Bound of every integer, and so not worth a word."""
_HEAD = f"""# Every field of a MoEDeployment

Generated from the CustomResourceDefinition, `{GROUP}/{VERSION}`; `kubectl explain moed.spec` shows the same on a
cluster. A field without a default may be left out unless it is required. Unknown fields are errors.
"""


def reference() -> str:
    """The whole page as Markdown."""
    schema = custom_resource_definition()["spec"]["versions"][0]["schema"]["openAPIV3Schema"]
    parts = [_HEAD]
    for name in ("spec", "status"):
        parts += _sections(name, schema["properties"][name])
    return "\n".join(parts)


def _sections(path: str, schema: Schema) -> Iterator[str]:
    """A section and, after it, those below."""
    yield f"## {path}\n"
    if schema.get("description"):
        yield f"{schema['description']}\n"
    if schema.get(_RULES):
        yield "Refused otherwise, in these words:\n"
        yield from (f"- {rule['message']}" for rule in schema[_RULES])
        yield ""
    yield "| Field | Type | Default | Bounds | Description |"
    yield "|---|---|---|---|---|"
    for name, field in schema["properties"].items():
        yield _row(path, name, field, required=name in schema.get("required", ()))
    yield ""
    for name, field in schema["properties"].items():
        below, mark = _below(field)
        if below is not None:
            yield from _sections(f"{path}.{name}{mark}", below)


def _below(field: Schema) -> tuple[Schema | None, str]:
    """The section that a field holds, one or several of, with what marks several."""
    if "properties" in field:
        return field, ""
    items = field.get("items", {})
    return (items, "[]") if "properties" in items else (None, "")


def _row(path: str, name: str, field: Schema, *, required: bool) -> str:
    below, mark = _below(field)
    shown = f"`{name}`" if below is None else f"[`{name}`](#{_anchor(f'{path}.{name}{mark}')})"
    default = "**required**" if required else _default(field)
    return f"| {shown} | {_type(field)} | {default} | {_cell(_bounds(field))} | {_cell(field.get('description', ''))} |"


def _type(field: Schema) -> str:
    if "enum" in field:
        return _cell(" or ".join(f"`{value}`" for value in field["enum"]))
    if field.get(_INT_OR_TEXT):
        return "integer or text"
    if field.get(_FREE):
        return "any object"
    if field["type"] == "array":
        return "list of sections" if "properties" in field["items"] else f"list of {_type(field['items'])}"
    if "additionalProperties" in field:
        return f"map to {_type(field['additionalProperties'])}"
    kind = str(field["type"])
    return {"object": "section", "string": "text"}.get(kind, kind)


def _default(field: Schema) -> str:
    if field.get("default") in (None, {}, []):
        return ""
    value = field["default"]
    if isinstance(value, bool):
        value = str(value).lower()
    return f"`{', '.join(map(str, value))}`" if isinstance(value, list) else f"`{value}`"


def _bounds(field: Schema) -> str:
    """What the schema allows, in words; a section's rules stand with the section, lengths of texts nowhere."""
    words = [] if "properties" in field else [rule["message"] for rule in field.get(_RULES, ())]
    least, most = field.get("minimum"), field.get("maximum")
    if least is not None:
        words.append(f"{'more than' if field.get('exclusiveMinimum') else 'at least'} {least:g}")
    if most is not None and most != _INT32:
        words.append(f"at most {most:,}")
    if field.get("maxItems"):
        words.append(f"at most {field['maxItems']:,} entries")
    return "; ".join(words)


def _anchor(heading: str) -> str:
    """How GitHub links to a heading."""
    return "".join(c for c in heading.lower() if c.isalnum() or c in "-_")


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")


if __name__ == "__main__":
    import sys

    sys.stdout.write(reference())
