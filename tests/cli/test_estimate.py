"""`moe estimate`: a table of deployments in, a table of TTFT and TPOT out, or every reason why not."""

import contextlib
import csv
import io
import json
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from moe_operator.cli import main
from moe_plan.catalogue.models import load_model

POINTS = Path(__file__).resolve().parents[2] / "tools" / "calibration" / "serving_points.csv"
ROW = {
    "id": "one",
    "model": "openai/gpt-oss-120b",
    "system": "h200_sxm",
    "backend": "vllm",
    "precision": "fp4",
    "gemm_q": "",
    "moe_q": "",
    "isl": "1024",
    "osl": "1024",
    "tp": "4",
    "dp": "1",
    "moe_tp": "4",
    "ep": "1",
    "pp": "1",
    "concurrency": "16",
}


@dataclass(frozen=True)
class Ran:
    """How a command ended."""

    returncode: int
    stderr: str


def estimate(*args: str | Path) -> Ran:
    """The command in this process, which is quicker than one of its own."""
    told = io.StringIO()
    with pytest.MonkeyPatch.context() as patch, contextlib.redirect_stderr(told):
        patch.setattr(sys, "argv", ["moe", "estimate", *map(str, args)])
        with pytest.raises(SystemExit) as ended:
            main()
    return Ran(ended.value.code if isinstance(ended.value.code, int) else 1, told.getvalue())


def table(path: Path, *rows: dict[str, str]) -> Path:
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, rows[0].keys())
        writer.writeheader()
        writer.writerows(rows)
    return path


def estimates(path: Path) -> dict[str, tuple[float, float]]:
    with path.open(newline="", encoding="utf-8") as file:
        return {row["id"]: (float(row["p_ttft"]), float(row["p_tpot"])) for row in csv.DictReader(file)}


def test_measured_deployments_are_estimated_in_milliseconds_row_by_row(
    moe: Callable[..., subprocess.CompletedProcess[str]], tmp_path: Path
) -> None:
    ran = moe("estimate", "--points", str(POINTS), "--models", str(tmp_path), "-o", str(tmp_path / "out.csv"))
    assert ran.returncode == 0, ran.stderr
    with POINTS.open(newline="", encoding="utf-8") as file:
        measured = {row["id"]: float(row["tpot_ms"]) for row in csv.DictReader(file)}
    assert (tmp_path / "out.csv").read_text().splitlines()[0] == "id,p_ttft,p_tpot"
    found = estimates(tmp_path / "out.csv")
    assert list(found) == list(measured)
    errors = [abs(found[point][1] / tpot - 1) for point, tpot in measured.items()]
    assert sum(errors) / len(errors) < 0.1


def test_measured_columns_may_be_missing(tmp_path: Path) -> None:
    ran = estimate("--points", table(tmp_path / "in.csv", ROW), "-o", tmp_path / "out.csv")
    assert ran.returncode == 0, ran.stderr
    ttft, tpot = estimates(tmp_path / "out.csv")["one"]
    assert 10 < ttft < 1000
    assert 1 < tpot < 50


def test_attention_data_parallelism_and_stages_are_estimated(tmp_path: Path) -> None:
    base = ROW | {"model": "deepseek-ai/DeepSeek-R1", "backend": "sglang", "precision": "fp8", "concurrency": "256"}
    rows = [
        base | {"id": "tp", "tp": "8", "moe_tp": "8"},
        base | {"id": "dp", "tp": "1", "dp": "8", "moe_tp": "1", "ep": "8"},
        base | {"id": "pp", "tp": "8", "moe_tp": "8", "pp": "2"},
        base | {"id": "nodes", "tp": "1", "dp": "32", "moe_tp": "1", "ep": "32"},
    ]
    ran = estimate("--points", table(tmp_path / "in.csv", *rows), "-o", tmp_path / "out.csv")
    assert ran.returncode == 0, ran.stderr
    found = estimates(tmp_path / "out.csv")
    assert list(found) == ["tp", "dp", "pp", "nodes"]
    assert all(5 < tpot < 200 for _, tpot in found.values())


def test_a_model_that_the_catalogue_lacks_is_read_from_its_folder(tmp_path: Path) -> None:
    config = load_model("qwen3-30b-a3b").config
    _store(tmp_path / "models", "someone/a-model", config)
    rows = table(tmp_path / "in.csv", ROW | {"model": "someone/a-model", "precision": "bfloat16"})
    ran = estimate("--points", rows, "--models", tmp_path / "models", "-o", tmp_path / "out.csv")
    assert ran.returncode == 0, ran.stderr
    assert "one" in estimates(tmp_path / "out.csv")


def test_an_unknown_family_is_inferred_from_the_usual_fields_and_said(tmp_path: Path) -> None:
    known = load_model("qwen3-30b-a3b").config
    strange = {key: value for key, value in known.items() if key not in ("num_experts", "model_type")}
    _store(tmp_path / "models", "known/model", known)
    _store(tmp_path / "models", "new/model", strange | {"model_type": "brand_new", "moe_num_experts": 128})
    rows = [ROW | {"id": name, "model": f"{name}/model", "precision": "bfloat16"} for name in ("known", "new")]
    ran = estimate(
        "--points", table(tmp_path / "in.csv", *rows), "--models", tmp_path / "models", "-o", tmp_path / "out.csv"
    )
    assert ran.returncode == 0, ran.stderr
    assert "new/model: its family 'brand_new' is not read; estimated as if it were qwen3_moe" in ran.stderr
    found = estimates(tmp_path / "out.csv")
    assert found["new"] == pytest.approx(found["known"], rel=0.01)


def test_too_little_of_an_unknown_family_is_answered_with_the_missing_fields(tmp_path: Path) -> None:
    _store(tmp_path / "models", "new/model", {"model_type": "brand_new", "hidden_size": 1024, "num_layers": 4})
    rows = table(tmp_path / "in.csv", ROW | {"model": "new/model"})
    ran = estimate("--points", rows, "--models", tmp_path / "models", "-o", tmp_path / "out.csv")
    _refused(ran, "line 2", "brand_new", "num_experts (or num_local_experts")
    assert "hidden_size (or" not in ran.stderr.partition("missing")[2]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"isl": "0"}, ("isl must be a whole number of at least 1, not 0",)),
        ({"osl": "nan"}, ("osl must be a whole number",)),
        ({"isl": "10000001"}, ("isl is 10000001; at most 10,000,000",)),
        ({"concurrency": "inf"}, ("concurrency",)),
        ({"concurrency": "1.5"}, ("concurrency must be a whole number",)),
        ({"tp": ""}, ("tp is empty",)),
        ({"tp": "four"}, ("tp must be a whole number", "four")),
        ({"ep": "3"}, ("tp 4 · dp 1", "moe_tp 4 · ep 3", "equal")),
        ({"tp": "512", "ep": "512", "moe_tp": "1"}, ("ep 512 exceeds the 128 experts",)),
        ({"pp": "99"}, ("pp 99 exceeds the 36 layers",)),
        ({"model": "no/such"}, ("'no/such' is not in the catalogue, and no config.json",)),
        ({"system": "h900_sxm"}, ("system 'h900_sxm' is not in the catalogue", "h200-sxm")),
        ({"system": "h100_pcie"}, ("system 'h100_pcie' is not in the catalogue",)),
        ({"backend": "llamafile"}, ("backend 'llamafile'", "sglang")),
        ({"precision": "fp3"}, ("'fp3' is not a number format",)),
    ],
)
def test_a_row_that_cannot_be_estimated_is_named_with_the_reason(
    tmp_path: Path, change: dict[str, str], words: tuple[str, ...]
) -> None:
    rows = table(tmp_path / "in.csv", ROW, ROW | change)
    _refused(estimate("--points", rows, "-o", tmp_path / "out.csv"), "line 3", *words)
    assert not (tmp_path / "out.csv").exists()


def test_the_largest_lengths_and_crowds_are_estimated_without_ado(tmp_path: Path) -> None:
    rows = table(tmp_path / "in.csv", ROW | {"isl": "10000000", "osl": "10000000", "concurrency": "1000000"})
    ran = estimate("--points", rows, "-o", tmp_path / "out.csv")
    assert ran.returncode == 0, ran.stderr
    assert all(value > 0 for value in estimates(tmp_path / "out.csv")["one"])


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", ("is empty", "first line names the columns")),
        ("id,model\na,b\n", ("lacks columns system, backend",)),
        (",".join([*ROW, "colour"]) + "\n", ("has the unknown column colour", "allowed")),
        (",".join([*ROW, "tp"]) + "\n", ("repeats the column tp",)),
        (",".join(ROW) + "\na,b\n", ("line 2", "does not have the 15 fields")),
        (b"\xff\xfe", ("not UTF-8",)),
    ],
)
def test_a_file_that_is_no_table_of_points_is_refused(
    tmp_path: Path, text: str | bytes, words: tuple[str, ...]
) -> None:
    path = tmp_path / "in.csv"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    _refused(estimate("--points", path, "-o", tmp_path / "out.csv"), *words)


def test_a_config_that_is_no_json_is_named(tmp_path: Path) -> None:
    folder = tmp_path / "models" / "a--b"
    folder.mkdir(parents=True)
    (folder / "config.json").write_text("{")
    rows = table(tmp_path / "in.csv", ROW | {"model": "a/b"})
    _refused(
        estimate("--points", rows, "--models", tmp_path / "models", "-o", tmp_path / "o.csv"), "config.json is no JSON"
    )


def test_the_same_trouble_on_many_lines_is_told_once(tmp_path: Path) -> None:
    rows = table(tmp_path / "in.csv", *[ROW | {"system": "abacus"}] * 30)
    ran = estimate("--points", rows, "-o", tmp_path / "out.csv")
    _refused(ran, "line 2 (and 29 more lines)")
    assert ran.stderr.count("abacus") == 1


def test_a_missing_points_file_is_wrong_use(tmp_path: Path) -> None:
    ran = estimate("--points", tmp_path / "none.csv", "-o", tmp_path / "out.csv")
    assert ran.returncode == 2


def _store(models: Path, repository: str, config: dict[str, Any]) -> None:
    folder = models / repository.replace("/", "--")
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps(config))


def _refused(ran: Ran, *words: str) -> None:
    assert ran.returncode == 1, ran.stderr
    assert "Traceback" not in ran.stderr
    assert not [word for word in words if word not in ran.stderr], ran.stderr
