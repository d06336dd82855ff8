"""`moe estimate`: TTFT and TPOT of many deployments at once, from a table of points to a table of predictions."""

import csv
import json
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from moe_plan.errors import ManifestError, PlanError

if TYPE_CHECKING:
    from moe_plan.cost.points import Point
    from moe_plan.hardware import Hardware
    from moe_plan.model import ModelShape

REQUIRED = ("id", "model", "system", "backend", "isl", "osl", "tp", "dp", "moe_tp", "ep", "pp", "concurrency")
"""Columns that a points file must have."""
OPTIONAL = ("backend_version", "precision", "gemm_q", "moe_q", "n_gpus", "ttft_ms", "tpot_ms", "e2e_ms")
"""Columns that it may have: how weights are stored, and what was measured."""

MAX_BYTES = 64 * 2**20
"""Largest points file read."""


def estimate(
    points: Annotated[
        Path,
        typer.Option("--points", metavar="POINTS.csv", help="Deployments to estimate.", exists=True, dir_okay=False),
    ],
    output: Annotated[
        Path, typer.Option("-o", "--output", metavar="OUT.csv", help="Where id,p_ttft,p_tpot go, in ms.")
    ],
    models: Annotated[
        Path | None,
        typer.Option(
            "--models",
            metavar="DIR",
            help="DIR/ORG--NAME/config.json of models that the catalogue lacks.",
            exists=True,
            file_okay=False,
        ),
    ] = None,
) -> None:
    """Predict TTFT and TPOT of each row of a points file."""
    desk = _Desk(models)
    rows = [desk.row(line, row) for line, row in _rows(points)]
    if desk.troubles:
        raise PlanError("\n       ".join(_told(points, desk.troubles)))
    with output.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(("id", "p_ttft", "p_tpot"))
        writer.writerows(rows)
    print(f"{output}: {len(rows):,} estimates", file=sys.stderr)


_MOST_TROUBLES = 20
"""Troubles told at once."""


def _told(points: Path, troubles: "dict[str, list[int]]") -> Iterator[str]:
    """A sentence for each trouble, with the lines that have it."""
    for trouble, lines in list(troubles.items())[:_MOST_TROUBLES]:
        others = f" (and {len(lines) - 1:,} more lines)" if len(lines) > 1 else ""
        yield f"{points}: line {lines[0]}{others}: {trouble}"
    if len(troubles) > _MOST_TROUBLES:
        yield f"{points}: and {len(troubles) - _MOST_TROUBLES:,} more troubles"


@dataclass
class _Desk:
    """What is looked up once for many rows, and what was wrong with some."""

    models: Path | None
    troubles: dict[str, list[int]] = field(default_factory=dict)
    """Lines by what is wrong with them."""
    _shapes: dict[tuple[str, ...], "ModelShape"] = field(default_factory=dict)

    def row(self, line: int, row: dict[str, str]) -> tuple[str, str, str]:
        """A row's id, TTFT and TPOT; what is wrong with it goes to the troubles."""
        try:
            ttft_s, tpot_s = self._estimate(row)
        except ManifestError as error:
            for violation in error.violations:
                self.troubles.setdefault(str(violation), []).append(line)
        except PlanError as error:
            self.troubles.setdefault(str(error), []).append(line)
        else:
            return row["id"], f"{ttft_s * 1e3:.6g}", f"{tpot_s * 1e3:.6g}"
        return row["id"], "", ""

    def _estimate(self, row: dict[str, str]) -> tuple[float, float]:
        from moe_plan.cost.points import find_hardware, parse_point, point_case, point_setting
        from moe_plan.cost.serving import forecast

        point = parse_point(row)
        hardware: Hardware = find_hardware(point.system)
        shape = self._shape(point)
        found = forecast(point_setting(point, shape, hardware), point_case(point, shape, hardware))
        return float(found.ttft.total), float(found.tpot.total)

    def _shape(self, point: "Point") -> "ModelShape":
        from moe_plan.cost.points import read_shape

        key = (point.model, point.gemm_format, point.moe_format)
        if key not in self._shapes:
            self._shapes[key], said = read_shape(point, self._config(point.model))
            if said:
                print(f"note: {said}", file=sys.stderr)
        return self._shapes[key]

    def _config(self, model: str) -> dict[str, Any] | None:
        """The config.json that --models has for a model; None where it has none."""
        name = model.replace("/", "--")
        if self.models is None or name in ("", ".", "..") or "\0" in name:
            return None
        path = self.models / name / "config.json"
        if not path.is_file():
            return None
        try:
            config = json.loads(path.read_text(encoding="utf-8"))
        except (ValueError, RecursionError) as error:
            raise PlanError(f"{path} is no JSON: {error}") from None
        if not isinstance(config, dict):
            raise PlanError(f"{path} holds no JSON object")
        return config


def _rows(path: Path) -> Iterator[tuple[int, dict[str, str]]]:
    """Line number and fields of each row. Raises PlanError when the file is no table of points."""
    if path.stat().st_size > MAX_BYTES:
        raise PlanError(f"{path} is larger than {MAX_BYTES // 2**20} MiB")
    try:
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise PlanError(f"{path} is not UTF-8 text (byte {error.start})") from None
    reader = csv.DictReader(text.splitlines(), strict=True)
    try:
        _check_columns(path, reader.fieldnames or ())
        for row in reader:
            if None in row or None in row.values():
                raise PlanError(
                    f"{path}: line {reader.line_num}: does not have the {len(reader.fieldnames or ())} fields of the header"
                )
            yield reader.line_num, row
    except csv.Error as error:
        raise PlanError(f"{path}: line {reader.line_num}: {error}") from None


def _check_columns(path: Path, names: "list[str] | tuple[str, ...] | Any") -> None:
    if not names:
        raise PlanError(f"{path} is empty; its first line names the columns {', '.join(REQUIRED)}")
    missing = [name for name in REQUIRED if name not in names]
    unknown = [name for name in names if name not in (*REQUIRED, *OPTIONAL)]
    twice = sorted({name for name in names if names.count(name) > 1})
    for what, which in (("lacks", missing), ("has the unknown", unknown), ("repeats the", twice)):
        if which:
            raise PlanError(
                f"{path} {what} column{'s' if len(which) > 1 else ''} {', '.join(which)}; needed are {', '.join(REQUIRED)}, "
                f"allowed {', '.join(OPTIONAL)}"
            )
