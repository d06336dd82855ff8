"""A Hugging Face config.json in, the model's shape out, or every reason why not.

To add a family: a short module with its layers, and a row in `families.py`.
"""

from difflib import get_close_matches
from typing import Any

from moe_plan.config import blocks
from moe_plan.config.families import FAMILIES, WRAPPERS
from moe_plan.config.fields import Fields
from moe_plan.config.quantization import read_formats
from moe_plan.errors import ManifestError, Violation
from moe_plan.model import Formats, Layer, ModelShape
from moe_plan.spec import WeightDtype

FIELD = "spec.model.config"

__all__ = ["read_config"]


def read_config(config: dict[str, Any], name: str, dtype: WeightDtype) -> ModelShape:
    """The shape of the model that a config.json describes, with weights stored as `dtype` says.

    Raises ManifestError with a violation for each missing, mistyped or impossible field, and when the model is dense
    or of a family that is not read.
    """
    violations: list[Violation] = []
    top = Fields(config, FIELD, violations)
    text = _text_model(top)
    family = _family(top, text)
    layers = FAMILIES[family].layers(text)
    shape = _shape(name, family, top, text, layers, dtype)
    if not violations and not shape.moe_layers:
        top.note("model_type", "NotMoE", f"describes a dense model: no layer of this {family} has experts", _REMEDY)
    if violations:
        raise ManifestError(tuple(dict.fromkeys(violations)))
    return shape


def _shape(
    name: str, family: str, top: Fields, text: Fields, layers: tuple[Layer, ...], dtype: WeightDtype
) -> ModelShape:
    read = FAMILIES[family]
    hidden, vocab = blocks.hidden(text), text.count("vocab_size")
    tied = _owner("tie_word_embeddings", text, top).flag("tie_word_embeddings", read.tied_head)
    return ModelShape(
        name=name,
        family=family,
        hidden=hidden,
        vocab=vocab,
        embedding_params=vocab * hidden,
        head_params=0 if tied else vocab * hidden,
        final_norm_params=read.final_norm_params(text),
        layers=layers,
        max_positions=text.count("max_position_embeddings", "model_max_length"),
        formats=_formats(top, text, dtype),
        uncounted_params=read.prediction_params(text, layers),
    )


def _formats(top: Fields, text: Fields, dtype: WeightDtype) -> Formats:
    compute = _owner("dtype", text, top) if text.has("dtype") or top.has("dtype") else _owner("torch_dtype", text, top)
    return read_formats(compute, _owner("quantization_config", text, top), dtype)


def _owner(key: str, text: Fields, top: Fields) -> Fields:
    """The section that states what both the whole model and its text model may state."""
    return text if text.has(key) else top


def _text_model(top: Fields) -> Fields:
    """The text model of a multimodal config, or the config itself."""
    return top.section("text_config") or top


def _family(top: Fields, text: Fields) -> str:
    """The family to read. Raises ManifestError where there is none, for then nothing else can be said."""
    own, outer = text.values.get("model_type"), top.values.get("model_type")
    for model_type in (own, outer):
        known = WRAPPERS.get(model_type, model_type) if isinstance(model_type, str) else None
        if known in FAMILIES:
            return known
    if own is None:
        text.note("model_type", "MissingField", "is missing: it names the model's family, such as qwen3_moe")
    elif not isinstance(own, str):
        text.note("model_type", "WrongType", "must be the name of a family, such as qwen3_moe")
    elif any("expert" in str(key) for key in text.values):
        text.note("model_type", "UnknownFamily", f"is {own!r}, a family that is not read", _nearest_family(own))
    else:
        text.note("model_type", "NotMoE", f"is {own!r}, a dense model without experts", _REMEDY)
    raise ManifestError(tuple(top.violations))


_REMEDY = "choose a Mixture-of-Experts model"


def _nearest_family(name: str) -> str:
    close = get_close_matches(name, [*FAMILIES, *WRAPPERS], n=1)
    return f"did you mean {close[0]}?" if close else f"those read are {', '.join(sorted(FAMILIES))}"
