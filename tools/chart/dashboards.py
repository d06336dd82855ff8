"""Grafana dashboards out of dashboards.toml: panels laid out from left to right, row by row.

The JSON model: https://grafana.com/docs/grafana/latest/dashboards/build-dashboards/view-dashboard-json-model/
"""

import json
import tomllib
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

COLUMNS = 24
SCHEMA_VERSION = 39
"""Of Grafana 10.4 and later, which migrate it themselves."""
_SOURCE = {"type": "prometheus", "uid": "${datasource}"}

Json = dict[str, Any]


def dashboards() -> Mapping[str, str]:
    """The JSON text of each dashboard by name."""
    described = tomllib.loads(Path(__file__).with_name("dashboards.toml").read_text())
    return {
        name: json.dumps(_dashboard(given), indent=1, ensure_ascii=False) + "\n" for name, given in described.items()
    }


def _dashboard(given: Json) -> Json:
    return {
        "uid": given["uid"],
        "title": given["title"],
        "description": given["description"],
        "tags": ["moe-operator"],
        "schemaVersion": SCHEMA_VERSION,
        "editable": True,
        "graphTooltip": 1,
        "refresh": "30s",
        "time": {"from": "now-6h", "to": "now"},
        "timezone": "",
        "annotations": {"list": []},
        "links": [],
        "templating": {"list": [_datasource(), *map(_variable, given.get("variables", ()))]},
        "panels": list(_panels(given["panel"])),
    }


def _datasource() -> Json:
    return {"name": "datasource", "label": "Data source", "type": "datasource", "query": "prometheus", "hide": 0}


def _variable(given: Json) -> Json:
    return {
        "name": given["name"],
        "label": given["name"].capitalize(),
        "type": "query",
        "datasource": _SOURCE,
        "definition": given["query"],
        "query": {"query": given["query"], "refId": given["name"], "qryType": 1},
        "refresh": 2,
        "sort": 1,
        "hide": 0,
    }


def _panels(given: Iterable[Json]) -> Iterator[Json]:
    x = y = tallest = 0
    for number, panel in enumerate(given, 1):
        if x + panel["width"] > COLUMNS:
            x, y, tallest = 0, y + tallest, 0
        yield _panel(number, panel, {"x": x, "y": y, "w": panel["width"], "h": panel["height"]})
        x, tallest = x + panel["width"], max(tallest, panel["height"])


def _panel(number: int, given: Json, position: Json) -> Json:
    return {
        "id": number,
        "title": given["title"],
        "description": given.get("description", ""),
        "type": given["kind"],
        "datasource": _SOURCE,
        "gridPos": position,
        "fieldConfig": {"defaults": {"unit": given.get("unit", "short"), **_FIELDS[given["kind"]]}, "overrides": []},
        "options": _OPTIONS[given["kind"]],
        "targets": [_target(letter, target) for letter, target in zip("ABCDEF", given["targets"], strict=False)],
    }


def _target(letter: str, given: Json) -> Json:
    return {
        "refId": letter,
        "datasource": _SOURCE,
        "expr": given["expr"],
        "legendFormat": given["legend"],
        "editorMode": "code",
        "range": True,
    }


_LAST = {"calcs": ["lastNotNull"], "fields": "", "values": False}
_FIELDS: Mapping[str, Json] = {
    "timeseries": {"min": 0, "custom": {"lineWidth": 1, "fillOpacity": 8, "showPoints": "auto", "spanNulls": False}},
    "stat": {},
    "bargauge": {"min": 0, "max": 1},
    "heatmap": {},
}
_OPTIONS: Mapping[str, Json] = {
    "timeseries": {
        "legend": {"displayMode": "list", "placement": "bottom", "showLegend": True},
        "tooltip": {"mode": "multi", "sort": "desc"},
    },
    "stat": {"reduceOptions": _LAST, "colorMode": "none", "graphMode": "area", "textMode": "value_and_name"},
    "bargauge": {"reduceOptions": _LAST, "orientation": "horizontal", "displayMode": "basic", "showUnfilled": True},
    "heatmap": {
        "calculate": False,
        "cellGap": 1,
        "color": {"mode": "scheme", "scheme": "Oranges", "steps": 32, "min": 1},
        "tooltip": {"mode": "single", "yHistogram": False},
        "legend": {"show": True},
        "yAxis": {"axisPlacement": "left", "reverse": True},
    },
}
