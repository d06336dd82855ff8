"""A pydantic model as a Kubernetes structural schema.

Structural schemas (https://kubernetes.io/docs/tasks/extend-kubernetes/custom-resources/custom-resource-definitions/)
have neither references nor unions: references are put in place, optional fields are fields not required, and
`int | "auto"` is an int-or-string whose CEL rule says the rest.
"""

from collections.abc import Mapping
from types import ModuleType
from typing import Any

from pydantic import BaseModel

from moe_operator.crd.descriptions import field_descriptions
from moe_operator.crd.rules import PATTERNS

_KEPT = (
    "type", "format", "enum", "pattern", "minimum", "maximum", "minLength", "maxLength", "minItems", "maxItems",
    "minProperties", "maxProperties", "x-kubernetes-int-or-string", "x-kubernetes-preserve-unknown-fields",
    "x-kubernetes-list-type", "x-kubernetes-list-map-keys", "x-kubernetes-map-type", "x-kubernetes-validations",
)  # fmt: skip
_RULES = "x-kubernetes-validations"
_LONGEST_WORD = 32
"""Characters of a word or an amount that may also be an integer."""

Schema = dict[str, Any]


def structural_schema(model: type[BaseModel], module: ModuleType) -> Schema:
    """Structural schema of a model whose classes live in `module`, descriptions included."""
    source = model.model_json_schema(by_alias=True)
    definitions = source.pop("$defs", {})
    return _Converter(definitions, _by_alias(module)).convert(source)


def add_rules(schema: Schema, rules: Mapping[str, list[dict[str, str]]]) -> None:
    """Attach CEL rules at dotted paths below the schema; '' is the schema itself. Raises KeyError for an unknown path."""
    for path, added in rules.items():
        node = schema
        for name in filter(None, path.split(".")):
            node = node["properties"][name]
        node[_RULES] = node.get(_RULES, []) + added


class _Converter:
    def __init__(self, definitions: Mapping[str, Schema], descriptions: Mapping[str, Mapping[str, str]]) -> None:
        self._definitions = definitions
        self._descriptions = descriptions

    def convert(self, source: Schema) -> Schema:
        """One node and all below it."""
        if "$ref" in source:
            target = self._definitions[source["$ref"].rpartition("/")[2]]
            return self.convert(
                {**target, **{key: value for key, value in source.items() if key in ("default", "description")}}
            )
        if "anyOf" in source:
            return self._union(source)
        if "allOf" in source:
            return self.convert(
                {**source["allOf"][0], **{key: value for key, value in source.items() if key != "allOf"}}
            )
        node = {key: source[key] for key in _KEPT if key in source}
        if node.get("pattern") in PATTERNS:
            pattern = node.pop("pattern")
            node[_RULES] = [{"rule": f"self.matches(r'{pattern}')", "message": PATTERNS[pattern]}]
        if "const" in source:
            node["enum"] = [source["const"]]
        node |= {key: source[key] for key in ("description",) if key in source}
        if source.get("default") is not None and not isinstance(source["default"], dict):
            node["default"] = source["default"]
        if "exclusiveMinimum" in source:
            node |= {"minimum": source["exclusiveMinimum"], "exclusiveMinimum": True}
        if "items" in source:
            node["items"] = self.convert(source["items"])
        return node | self._object(source)

    def _object(self, source: Schema) -> Schema:
        node: Schema = {}
        if isinstance(source.get("additionalProperties"), dict):
            node["additionalProperties"] = self.convert(source["additionalProperties"])
        if "properties" in source:
            texts = self._descriptions.get(source.get("title", ""), {})
            node["properties"] = {
                name: self.convert(field if name not in texts else {**field, "description": texts[name]})
                for name, field in source["properties"].items()
            }
        if source.get("required"):
            node["required"] = source["required"]
        return node

    def _union(self, source: Schema) -> Schema:
        members = [member for member in source["anyOf"] if member.get("type") != "null"]
        outer = {
            key: value
            for key, value in source.items()
            if key in ("description", "default") or key.startswith("x-kubernetes-")
        }
        if len(members) == 1:
            return self.convert({**members[0], **outer})
        return self._int_or_text(members) | {key: value for key, value in outer.items() if value is not None}

    @staticmethod
    def _int_or_text(members: list[Schema]) -> Schema:
        """An integer with bounds, or one word, or any text: what int-or-string can hold."""
        words = [repr(member["const"]) for member in members if "const" in member]
        minimum = next((member["minimum"] for member in members if "minimum" in member), None)
        node: Schema = {"x-kubernetes-int-or-string": True, "maxLength": _LONGEST_WORD}
        if words and minimum is not None:
            word = words[0].replace("'", '"')
            rule = f"type(self) == int ? self >= {minimum} : self == {word}"
            node[_RULES] = [
                {"rule": rule, "message": f"must be an integer of at least {minimum}, or {words[0].strip(chr(39))}"}
            ]
        return node


def _by_alias(module: ModuleType) -> dict[str, dict[str, str]]:
    """Descriptions keyed by the class's title and the field's name in the manifest."""
    aliased = {}
    for name, texts in field_descriptions(module).items():
        model = getattr(module, name)
        if issubclass(model, BaseModel):
            aliased[name] = {model.model_fields[field].alias or field: text for field, text in texts.items()}
    return aliased
