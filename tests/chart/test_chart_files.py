import json
import re
import subprocess
import sys
import tomllib
from itertools import combinations
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import yaml
from helm_chart import CHART

from moe_operator import process
from moe_operator.cache import Cache
from moe_operator.controller import Counters
from moe_operator.engines.engine import engine
from moe_operator.resources import watched
from moe_runtime.frontend.metrics import Metrics

ROOT = CHART.parents[1]
VALUES: dict[str, Any] = yaml.safe_load((CHART / "values.yaml").read_text())
SCHEMA: dict[str, Any] = json.loads((CHART / "values.schema.json").read_text())
DASHBOARDS = sorted((CHART / "files" / "dashboards").glob("*.json"))
ALERTS = [
    rule for group in yaml.safe_load((CHART / "files" / "alerts.yaml").read_text())["groups"] for rule in group["rules"]
]
OPEN = {"/global"}
"""Charts that have this one as a part give it values that are not its own."""


@pytest.mark.parametrize("tool", ["tools/chart", "tools/requirements.py"])
def test_what_is_generated_is_up_to_date(tool: str) -> None:
    done = subprocess.run(
        [sys.executable, ROOT / tool, "--check"], capture_output=True, text=True, check=False, timeout=60
    )
    assert done.returncode == 0, done.stderr


def names(values: Any, schema: dict[str, Any], path: str = "") -> tuple[set[str], set[str]]:
    """Paths of the values that have a schema of names, and those of the schema."""
    properties = schema.get("properties", {})
    given = {f"{path}/{key}" for key in values} if properties else set()
    known = {f"{path}/{key}" for key in properties}
    for key in values if isinstance(values, dict) and values else ():
        below = names(values[key] if isinstance(values[key], dict) else {}, properties.get(key, {}), f"{path}/{key}")
        if values[key] not in ({}, []):
            given, known = given | below[0], known | below[1]
    return given, known


def test_the_schema_knows_the_values_and_no_others() -> None:
    given, known = names(VALUES, SCHEMA)
    assert given - known == set()
    assert known - given - OPEN == {"/resources/claims"}


def objects(schema: dict[str, Any], path: str = "") -> list[str]:
    """Paths of objects that take any name and any value."""
    found = [path] if schema.get("properties") and schema.get("additionalProperties") is not False else []
    for key, part in schema.get("properties", {}).items():
        found += objects(part, f"{path}/{key}")
    return found


def test_a_misspelt_value_is_an_error_everywhere() -> None:
    assert objects(SCHEMA) == []
    assert [key for key in SCHEMA["properties"]["image"]["properties"] if key not in VALUES["image"]] == []


def test_every_value_is_described() -> None:
    rows = re.findall(r"^\| `([\w.]+)` \| `.*` \| (.*) \|$", (CHART / "README.md").read_text(), re.MULTILINE)
    assert len(rows) > 40
    assert [path for path, said in rows if not said] == []


def told_by_the_operator() -> str:
    controller = SimpleNamespace(cache=Cache(watched(frozenset())), counters=Counters(), queue=(), writes=0)
    return process._metrics(SimpleNamespace(leads=lambda: True), controller)  # type: ignore[arg-type]


def told_by_a_frontend() -> str:
    metrics = Metrics()
    scheduler = SimpleNamespace(capacity=SimpleNamespace(pages=1, shards=1), waiting=(), running=0, pages_used=0)
    ranks = SimpleNamespace(
        expert_tokens=lambda: np.zeros((1, 1)),
        stage_times_s=lambda: np.zeros((1, 2)),
        memory_bytes=lambda: np.ones(1),
        paces=lambda: {0: 1.0},
    )
    metrics.observe(scheduler, lambda: ranks)  # type: ignore[arg-type]
    return metrics.text().decode()


def exported() -> set[str]:
    """Names of samples, with those of histograms."""
    kinds = re.findall(r"^# TYPE (\w+) (\w+)$", told_by_the_operator() + told_by_a_frontend(), re.MULTILINE)
    histograms = {
        f"{name}_{part}" for name, kind in kinds if kind == "histogram" for part in ("bucket", "sum", "count")
    }
    return {name for name, kind in kinds if kind != "histogram"} | histograms


def asked(expression: str) -> set[str]:
    return set(re.findall(r"\bmoe_\w+", expression))


@pytest.mark.parametrize("rule", ALERTS, ids=lambda rule: rule["alert"])
def test_alerts_ask_for_metrics_that_exist(rule: dict[str, Any]) -> None:
    assert asked(rule["expr"])
    assert asked(rule["expr"]) - exported() == set()


@pytest.mark.parametrize("rule", ALERTS, ids=lambda rule: rule["alert"])
def test_alerts_have_a_runbook(rule: dict[str, Any]) -> None:
    assert f"\n## {rule['alert']}\n" in (ROOT / "docs" / "alerts.md").read_text()
    assert rule["labels"]["severity"] in ("critical", "warning", "info")
    assert rule["annotations"].keys() == {"summary", "description"}


@pytest.mark.parametrize("file", DASHBOARDS, ids=lambda file: file.stem)
def test_panels_ask_for_metrics_that_exist(file: Path) -> None:
    dashboard = json.loads(file.read_text())
    expressions = [target["expr"] for panel in dashboard["panels"] for target in panel["targets"]]
    queries = [
        variable["query"]["query"] for variable in dashboard["templating"]["list"] if variable["type"] == "query"
    ]
    for text in expressions + queries:
        assert asked(text), text
        assert asked(text) - exported() == set()


@pytest.mark.parametrize("file", DASHBOARDS, ids=lambda file: file.stem)
def test_panels_fill_the_width_and_do_not_overlap(file: Path) -> None:
    panels = json.loads(file.read_text())["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels)
    places = [panel["gridPos"] for panel in panels]
    assert all(place["x"] + place["w"] <= 24 for place in places)
    for one, other in combinations(places, 2):
        beside = one["x"] + one["w"] <= other["x"] or other["x"] + other["w"] <= one["x"]
        above = one["y"] + one["h"] <= other["y"] or other["y"] + other["h"] <= one["y"]
        assert beside or above


def test_images_have_what_their_packages_import_and_nothing_of_the_others() -> None:
    def packages(image: str) -> set[str]:
        return set(re.findall(r"^([\w.-]+)==", (ROOT / image / "requirements.txt").read_text(), re.MULTILINE))

    operator, runtime = packages("operator"), packages("runtime")
    assert {"kopf", "aiohttp", "cryptography", "jinja2", "pydantic", "typer"} <= operator
    assert {"torch", "safetensors", "tokenizers", "uvicorn", "starlette", "pydantic"} <= runtime
    assert not operator & {"torch", "safetensors", "transformers", "pytest"}
    assert not runtime & {"kopf", "kubernetes", "transformers", "pytest"}


def test_images_are_pinned_as_the_project_is() -> None:
    lock = (ROOT / "requirements.txt").read_text()
    for image in ("operator", "runtime"):
        pinned = (ROOT / image / "requirements.txt").read_text().partition("\n")[2]
        for line in pinned.splitlines(keepends=True):
            assert line in lock


def test_chart_images_and_project_bear_one_version() -> None:
    version = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    chart = yaml.safe_load((CHART / "Chart.yaml").read_text())
    assert chart["appVersion"] == version
    assert set(engine("moe").images.values()) == {f"moe-runtime:{version}"}
    for image in ("operator", "runtime"):
        assert f"ARG VERSION={version}\n" in (ROOT / image / "Containerfile").read_text()
