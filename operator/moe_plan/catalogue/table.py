"""The catalogue's models as a Markdown table: `python -m moe_plan.catalogue.table` prints docs/models.md."""

import sys

from moe_plan.catalogue.models import CatalogueModel, Published, load_model, model_names
from moe_plan.config import read_config
from moe_plan.parameters import active_params, total_params
from moe_plan.spec import WeightDtype
from moe_plan.units import format_count

_INTRODUCTION = """\
# Models

These names stand in `spec.model.architecture`; any other `config.json` of their families goes into `spec.model.config`.
One of an unknown family is planned as the nearest known one where the fields that most families share are there, and the
plan says so. All can be planned; the bundled runtime executes `mixtral` and `qwen3_moe` models in 16 and 32 bits, the
[other engines](engines.md) what they support: a manifest whose model its engine cannot execute is refused before pods.
"Total" and "active" are computed from the config: total has embedding, layers, final norm and head; active is what one
token multiplies with, so the head but not the embedding. Multi-token prediction and vision are in neither. "Published"
is what the publisher prints; where it is said to count other parts, those agree with the computed ones within 1 %, or
print as the published figure (17.2B as 17B). Which parts a published figure counts is seldom said, and then taken to be
the parts that agree. Storage is that of experts / other linear layers.
"""


def models_page() -> str:
    """The whole page."""
    head = "| Name | Total | Published | Active | Published | Storage | Positions | Source |\n" + "|---" * 8 + "|\n"
    models = [load_model(name) for name in model_names()]
    notes = "".join(f"- **{model.name}**: {model.citation}.{_after(model.note)}\n" for model in models)
    rows = "".join(_row(model) for model in models)
    return f"{_INTRODUCTION}\n{head}{rows}\n## Sources and caveats\n\n{notes}"


def _row(model: CatalogueModel) -> str:
    shape = read_config(model.config, model.name, WeightDtype.AUTO)
    cells = (
        f"`{model.name}`",
        format_count(total_params(shape)),
        _figure(model.published_total),
        format_count(active_params(shape)),
        _figure(model.published_active),
        f"{shape.formats.experts.name} / {shape.formats.linear.name}",
        f"{shape.max_positions:,}",
        f"`{model.source}`",
    )
    return f"| {' | '.join(cells)} |\n"


def _figure(published: Published | None) -> str:
    if published is None:
        return "–"
    return f"{published.figure} ({', '.join(published.counts)}{' and more' if published.beyond else ''})"


def _after(note: str) -> str:
    return f" {note}" if note else ""


if __name__ == "__main__":
    sys.stdout.write(models_page())
