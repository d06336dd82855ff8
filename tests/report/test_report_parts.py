import colorsys
import json
import math
import re
from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from moe_operator.report import charts, scales
from moe_operator.report.assumptions import of_file
from moe_operator.report.drawing import ranges
from moe_operator.report.material import Material
from moe_operator.report.strategy import strategy_json
from moe_operator.report.traffic import flows
from moe_operator.report.verify import verify
from moe_plan.catalogue.models import model_names
from moe_plan.errors import ManifestError
from moe_plan.manifest import parse_deployment
from moe_plan.planner import make_plan
from moe_plan.subject import resolve

STYLE = Path(scales.__file__).with_name("templates") / "style.css"
positive = st.floats(1e-6, 1e9)


@cache
def material(model: str, ep: int, tp: int, pp: int, order: tuple[str, ...], *, training: bool = False) -> Material:
    parallelism = {"ep": ep, "tp": tp, "pp": pp, "rankOrder": list(order)}
    spec: dict[str, Any] = {
        "model": {"architecture": model},
        "hardware": {"accelerator": "gb200-nvl72"},
        "parallelism": parallelism,
        "workload": {"mode": "training" if training else "serving"},
    }
    head = {"apiVersion": "moe-operator.dev/v1alpha1", "kind": "MoEDeployment", "metadata": {"name": "any"}}
    deployment = parse_deployment({**head, "spec": spec})
    plan, subject = make_plan(deployment), resolve(deployment, None)
    return Material(subject, plan, flows(subject, plan), (), (), (), ())


@pytest.mark.parametrize("model", model_names())
def test_verify_bears_out_plans_of_every_model(model: str) -> None:
    tried = 0
    for ep, tp, pp in ((16, 1, 1), (8, 2, 2), (32, 1, 4), (16, 4, 1), (8, 1, 8)):
        for order in (("pp", "ep", "tp"), ("ep", "pp", "tp")):
            try:
                found = material(model, ep, tp, pp, order)
            except ManifestError:
                continue
            tried += 1
            checks = verify(strategy_json(found))["checks"]
            assert [check for check in checks if not check["holds"]] == []
    assert tried


@pytest.mark.parametrize("model", ["seed-s4", "mixtral-8x7b", "deepseek-v2-lite"])
def test_verify_bears_out_plans_for_training(model: str) -> None:
    found = material(model, 8, 2, 4, ("pp", "ep", "tp"), training=True)
    assert verify(strategy_json(found))["holds"]


@pytest.mark.parametrize("redundant", [16, 48, 80])
def test_verify_bears_out_redundant_experts(redundant: int) -> None:
    spec = {
        "model": {"architecture": "seed-s2"},
        "hardware": {"accelerator": "h200-sxm"},
        "parallelism": {"ep": 8, "tp": 2, "redundantExperts": redundant},
    }
    head = {"apiVersion": "moe-operator.dev/v1alpha1", "kind": "MoEDeployment", "metadata": {"name": "any"}}
    deployment = parse_deployment({**head, "spec": spec})
    subject = resolve(deployment, None)
    found = Material(subject, make_plan(deployment), (), (), (), (), ())
    assert verify(strategy_json(found))["holds"]


def test_a_strategy_is_one_json_object_of_the_ranks_it_says() -> None:
    strategy = json.loads(strategy_json(material("mixtral-8x7b", 8, 2, 2, ("pp", "ep", "tp"))))
    assert len(strategy["ranks"]) == strategy["world"] == 32
    assert strategy["groups"]["tp"][:2] == [[0, 1], [2, 3]]
    assert strategy["groups"]["pp"][0] == [0, 16]


def test_what_a_rank_sends_follows_from_its_tokens() -> None:
    found = material("mixtral-8x7b", 8, 2, 2, ("pp", "ep", "tp"))
    by_kind = {(flow.what, flow.tier.scope): flow for flow in found.flows}
    tokens, hidden = found.plan.prediction.batch_per_shard, 4096 * 2
    layers = max(stage.layers for stage in found.plan.stages)
    reduced = by_kind["tp all-reduce", "node"]
    assert reduced.decode_bytes == tokens * hidden * (2 * layers + 1)  # 2(n - 1)/n is 1 for two ranks
    assert by_kind["stage boundary", "domain"].decode_bytes == tokens * hidden
    sent = sum(flow.prompt_bytes for flow in found.flows if flow.what == "dispatch")
    assert 0 < sent <= 1024 * hidden * 2 * layers * 2  # two experts a token, each at most across two tiers


def test_a_layout_of_one_rank_sends_nothing() -> None:
    assert material("olmoe-1b-7b", 1, 1, 1, ("pp", "ep", "tp")).flows == ()


@given(st.sets(st.integers(0, 300), min_size=1))
def test_ranges_tell_every_number_or_say_that_there_are_more(numbers: set[int]) -> None:
    text = ranges(numbers)
    told: set[int] = set()
    for run in text.removesuffix(", …").split(", "):
        first, _, last = run.partition("–")
        told |= set(range(int(first), int(last or first) + 1))
    assert told <= numbers
    assert told == numbers or text.endswith("…")


@example([(1.0, 5e-324)])
@given(st.lists(st.tuples(positive, st.floats(0, 1e9)), min_size=1, max_size=60))
def test_points_stay_inside_the_plot(points: list[tuple[float, float]]) -> None:
    plot = charts.scatter("t", "d", "x", "y", [charts.Point(x, y, "") for x, y in points], str, str)
    assert len(plot.dots) == len(points)
    for dot in plot.dots:
        assert 0 <= dot.x <= 100
        assert charts.TOP - 1e-6 <= dot.y <= charts.BOTTOM + 1e-6
    assert all(0 <= tick.at <= 100 for tick in plot.x_ticks)


@given(st.lists(st.one_of(st.none(), st.floats(0, 1e9)), min_size=1, max_size=9))
def test_lines_join_neighbours_and_mark_what_is_missing(values: list[float | None]) -> None:
    points = [charts.Point(2.0**i, value, "") for i, value in enumerate(values)]
    plot = charts.lines("t", "d", "x", "y", points, str, str)
    assert len(plot.dots) + len(plot.missing) == len(values)
    assert len(plot.joined) == sum(a is not None and b is not None for a, b in pairwise(values))


@given(st.lists(st.floats(0, 1e12), min_size=1, max_size=13), st.floats(1, 2))
def test_the_parts_of_a_bar_lie_side_by_side_within_its_whole(sizes: list[float], room: float) -> None:
    whole = sum(sizes) * room
    drawn = charts.bar("b", "", [(str(i), size, 0, "") for i, size in enumerate(sizes)], whole)
    at = 0.0
    for segment, size in zip(drawn.segments, sizes, strict=True):
        assert segment.at == pytest.approx(at)
        assert segment.width == pytest.approx(size / whole * 100 if whole else 0)
        at += segment.width
    assert at <= 100 + 1e-6


@given(st.floats(1e-9, 1e15))
def test_steps_are_round_and_reach_the_highest_value(high: float) -> None:
    steps = scales.round_steps(high)
    assert steps[0] == 0
    assert steps[-1] >= high * (1 - 1e-6)
    assert 2 <= len(steps) <= 6
    mantissa = steps[1] / 10 ** math.floor(math.log10(steps[1]) + 1e-9)
    assert any(math.isclose(mantissa, value, rel_tol=1e-6) for value in (1, 2, 2.5, 5, 10))


def test_sources_are_comments_behind_above_or_at_the_head_or_keys() -> None:
    text = """\
# Fitted to all points.

[a]
# What a table is about.
first = 1
behind = 2.5   # Behind, 2020

[b]
source = "Key, 2021"
third = 3e-6
time_s = 3e-6

[c]
# Of the table.
last = [0.5, 1.5]

[d]
bare = 1
"""
    found = {assumption.name: (assumption.value, assumption.source) for assumption in of_file("x.toml", text)}
    assert found == {
        "a first": ("1", "What a table is about."),
        "a behind": ("2.5", "Behind, 2020"),
        "b third": ("3e-06", "Key, 2021"),
        "b time": ("3 µs", "Key, 2021"),
        "c last": ("0.5, 1.5", "Of the table."),
        "d bare": ("1", "Fitted to all points."),
    }


def _luminance(red: float, green: float, blue: float) -> float:
    """WCAG 2.2, relative luminance."""
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in (red, green, blue)]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def _contrast(one: tuple[float, ...], other: tuple[float, ...]) -> float:
    low, high = sorted((_luminance(*one), _luminance(*other)))
    return (high + 0.05) / (low + 0.05)


def _colours(scheme: str) -> dict[str, str]:
    text = STYLE.read_text()
    light, dark = re.findall(r":root \{(.*?)\}", text, re.DOTALL)
    found = dict(re.findall(r"--(\w+): ([^;]+);", light))
    return found | dict(re.findall(r"--(\w+): ([^;]+);", dark)) if scheme == "dark" else found


def _hex(text: str) -> tuple[float, ...]:
    return tuple(int(text[i : i + 2], 16) / 255 for i in (1, 3, 5))


def _hsl(hue: int, shade: str) -> tuple[float, ...]:
    saturation, lightness = (float(part.strip("%")) / 100 for part in shade.split())
    return colorsys.hls_to_rgb(hue / 360, lightness, saturation)


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_contrast_is_aa_for_text_and_for_what_is_drawn(scheme: str) -> None:
    colours = _colours(scheme)
    paper, soft = _hex(colours["paper"]), _hex(colours["soft"])
    for name in ("ink", "muted", "link", "good", "warn", "bad"):
        assert _contrast(_hex(colours[name]), paper) >= 4.5, name
        assert _contrast(_hex(colours[name]), soft) >= 4.5, name
    for hue in range(360):
        assert _contrast(_hex(colours["ink"]), _hsl(hue, colours["fill"])) >= 4.5, hue
        assert _contrast(_hsl(hue, colours["stroke"]), paper) >= 3, hue
    assert _contrast(_hex(colours["edge"]), paper) >= 3
