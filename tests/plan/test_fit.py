"""The fit of the cost model: that it finds what made its data, and holds for models and GPUs that it has not seen."""

import importlib
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from moe_plan.cost.constants import read_data

ROOT = Path(__file__).resolve().parents[2]
TOOLS = ROOT / "tools"


@pytest.fixture
def fitting(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    monkeypatch.syspath_prepend(str(TOOLS))
    yield importlib.import_module
    for name in [name for name in sys.modules if name.partition(".")[0] == "fitting"]:
        del sys.modules[name]


def test_the_fit_finds_the_parameters_that_made_its_data_despite_a_wild_point(fitting: Any) -> None:
    minimise = fitting("fitting.least_squares").minimise
    x = np.linspace(1, 50, 40)
    made = np.log(3e-5 + 2e-6 * x)
    made[7] += 2
    found = minimise(lambda v: np.log(v[0] + v[1] * x) - made, [1e-4, 1e-4])
    assert found == pytest.approx([3e-5, 2e-6], rel=0.02)


def test_points_as_columns_are_estimated_as_each_by_itself(fitting: Any) -> None:
    serving = fitting("fitting.serving")
    from moe_plan.cost.points import find_hardware, point_case, point_setting, read_shape  # noqa: PLC0415
    from moe_plan.cost.serving import forecast  # noqa: PLC0415

    for group in serving.read_groups(TOOLS / "calibration" / "serving_points.csv"):
        columns = forecast(group.setting, group.case)
        for number in range(0, len(group.points), 17):
            point = group.points[number]
            shape, _ = read_shape(point, None)
            hardware = find_hardware(point.system)
            alone = forecast(point_setting(point, shape, hardware), point_case(point, shape, hardware))
            assert columns.tpot.total[number] == pytest.approx(alone.tpot.total, rel=1e-12)
            assert columns.ttft.total[number] == pytest.approx(alone.ttft.total, rel=1e-12)


def test_every_calibration_row_says_where_it_is_from() -> None:
    for name in ("kernels.csv", "kernels_more.csv"):
        lines = (TOOLS / "calibration" / name).read_text().splitlines()
        assert lines[0].split(",")[1:3] == ["source", "url_or_path"]
        assert all(line.split(",")[2].startswith(("pypi:", "github:")) for line in lines[1:])


@pytest.mark.slow
def test_the_fit_is_reproducible_and_meets_its_targets_on_models_that_it_has_not_seen(tmp_path: Path) -> None:
    written = ROOT / "operator" / "moe_plan" / "cost" / "fitted.toml"
    made = tmp_path / "fitted.toml"
    ran = subprocess.run(
        [sys.executable, TOOLS / "fit.py", "--write", str(made)],
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert ran.returncode == 0, ran.stderr
    fresh, kept = _figures(made.read_text()), _figures(written.read_text())
    assert fresh.keys() == kept.keys()
    assert list(fresh.values()) == pytest.approx(list(kept.values()), rel=0.01)
    tpot_mean, ttft_median = _held_out(ran.stdout, "leave one model out")
    assert tpot_mean <= 12
    assert ttft_median <= 25
    tau = re.search(r"Kendall tau of layouts by TPOT +\d+ pairs +(\S+)", ran.stdout)
    assert tau
    assert float(tau[1]) > 0.8


def _held_out(printed: str, title: str) -> tuple[float, float]:
    """TPOT mean and TTFT median of a table's last line, in per cent."""
    table = printed.partition(title)[2]
    line = next(line for line in table.splitlines() if line.startswith("all "))
    tpot_mean, _, ttft_median = (float(cell.rstrip("%")) for cell in line.split()[2:])
    return tpot_mean, ttft_median


def _figures(text: str) -> dict[str, float]:
    """Each number of a fitted.toml by section, name and place."""
    section, found = "", {}
    for line in text.splitlines():
        if line.startswith("["):
            section = line
        elif "=" in line and not line.startswith("#"):
            name, _, value = line.partition(" = ")
            found |= {f"{section}{name}{i}": float(v) for i, v in enumerate(value.strip("[]").split(","))}
    return found


def test_constants_that_the_fit_makes_stay_within_the_peaks() -> None:
    fitted = read_data("fitted.toml")
    shares = {name: value for name, value in fitted["kernels"].items() if name.endswith("efficiency")}
    assert all(0 < value <= 1 for value in shares.values()), shares
    low, high = fitted["interval"]["tpot"]
    assert low < 1 < high
