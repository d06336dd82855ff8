import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml
from manifests import document
from moe_command import Moe
from typer.testing import CliRunner

from moe_operator.cli import app
from moe_operator.cli import report as command
from moe_operator.report.files import others_files

ROOT = Path(__file__).parents[2]
FILES = ["implementation_guide.md", "report.html", "strategy.json", "verification.json", "verify.py"]

Verify = Callable[..., subprocess.CompletedProcess[str]]


def manifest(name: str = "mixtral", ep: int = 8, **spec: object) -> str:
    return json.dumps(document(name, parallelism={"ep": ep}, **spec))


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("report") / "new" / "folder"
    command = [Path(sys.executable).with_name("moe"), "report", "-f", "-", "-d", folder]
    done = subprocess.run(command, input=manifest(), capture_output=True, text=True, check=False, timeout=120)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == f"{folder}/report.html\n"
    return folder


@pytest.fixture
def verify(report: Path, tmp_path: Path) -> Verify:
    """Runs the report's verify.py, alone in an empty folder with a strategy, without any installed package."""
    script = shutil.copy(report / "verify.py", tmp_path)

    def run(strategy: str, *options: str) -> subprocess.CompletedProcess[str]:
        (tmp_path / "strategy.json").write_text(strategy)
        command = [sys.executable, "-I", "-S", script, *options]
        return subprocess.run(command, capture_output=True, text=True, check=False, timeout=60, cwd="/")

    return run


def test_a_report_is_five_files_in_a_folder_that_it_makes(report: Path) -> None:
    assert sorted(path.name for path in report.iterdir()) == FILES


@pytest.mark.slow
def test_the_same_manifest_gives_the_same_bytes_also_over_an_older_report(
    moe: Moe, report: Path, tmp_path: Path
) -> None:
    assert moe("report", "-f", "-", "-d", tmp_path, stdin=manifest(ep=4)).returncode == 0
    (tmp_path / "mine.txt").write_text("mine")
    assert moe("report", "-f", "-", "-d", tmp_path, stdin=manifest()).returncode == 0
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == {
        **{path.name: path.read_bytes() for path in report.iterdir()},
        "mine.txt": b"mine",
    }


@pytest.mark.slow
def test_files_that_no_report_wrote_are_not_replaced(moe: Moe, report: Path, tmp_path: Path) -> None:
    shutil.copytree(report, tmp_path, dirs_exist_ok=True)
    (tmp_path / "verify.py").write_text("mine")
    (tmp_path / "report.html").unlink()
    (tmp_path / "report.html").mkdir()
    before = sorted((path.name, path.is_file() and path.read_text()) for path in tmp_path.iterdir())
    done = moe("report", "-f", "-", "-d", tmp_path, stdin=manifest(ep=4))
    assert done.returncode == 2
    said = " ".join(done.stderr.replace("│", " ").split())
    assert "verify.py, report.html, not written by moe report; name another folder" in said
    assert sorted((path.name, path.is_file() and path.read_text()) for path in tmp_path.iterdir()) == before


@pytest.mark.parametrize("name", FILES)
def test_each_file_of_a_report_is_known_as_such_and_no_other_is(report: Path, tmp_path: Path, name: str) -> None:
    assert others_files(report) == ()
    (tmp_path / name).write_text("mine")
    assert others_files(tmp_path) == (tmp_path / name,)


@pytest.mark.slow
def test_a_link_where_a_file_belongs_is_not_followed(moe: Moe, report: Path, tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere.html"
    shutil.copy(report / "report.html", elsewhere)
    folder = tmp_path / "report"
    folder.mkdir()
    (folder / "report.html").symlink_to(elsewhere)
    before = elsewhere.read_bytes()
    assert moe("report", "-f", "-", "-d", folder, stdin=manifest(ep=4)).returncode == 2
    assert elsewhere.read_bytes() == before


@pytest.mark.slow
def test_a_refused_manifest_is_told_as_moe_plan_tells_it_and_leaves_no_folder(moe: Moe, tmp_path: Path) -> None:
    plan, report = (
        moe("plan", "-f", "-", stdin=manifest(ep=3)),
        moe("report", "-f", "-", "-d", tmp_path / "report", stdin=manifest(ep=3)),
    )
    assert (report.returncode, report.stdout, report.stderr) == (1, "", plan.stderr)
    assert not (tmp_path / "report").exists()


@pytest.mark.slow
def test_a_folder_that_cannot_be_made_is_said_in_one_line(moe: Moe, tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_text("mine")
    for folder in (file, file / "below", Path("/proc/report")):
        done = moe("report", "-f", "-", "-d", folder, stdin=manifest())
        assert done.returncode == 2
        assert done.stderr.startswith("moe: ")
        assert done.stderr.count("\n") == 1
    assert file.read_text() == "mine"


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_that_may_not_be_written_is_said_in_one_line(moe: Moe, tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    done = moe("report", "-f", "-", "-d", tmp_path, stdin=manifest())
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)


@pytest.mark.slow
def test_several_deployments_have_a_folder_each(moe: Moe, tmp_path: Path) -> None:
    done = moe("report", "-f", "-", "-d", tmp_path, stdin=f"{manifest('one')}\n---\n{manifest('two', ep=4)}")
    assert done.returncode == 0, done.stderr
    assert {path.name: sorted(file.name for file in path.iterdir()) for path in tmp_path.iterdir()} == {
        "one": FILES,
        "two": FILES,
    }


@pytest.mark.slow
def test_two_deployments_of_one_name_are_refused(moe: Moe, tmp_path: Path) -> None:
    done = moe("report", "-f", "-", "-d", tmp_path / "report", stdin=f"{manifest('one')}\n---\n{manifest('one', ep=4)}")
    assert done.returncode == 1
    assert "two deployments are named one" in done.stderr
    assert not (tmp_path / "report").exists()


@pytest.mark.slow
def test_a_missing_claims_document_is_wrong_use(moe: Moe, tmp_path: Path) -> None:
    done = moe("report", "-f", "-", "-d", tmp_path, "--claims", "missing.md", stdin=manifest())
    assert (done.returncode, done.stderr) == (2, "moe: missing.md: No such file or directory\n")
    assert list(tmp_path.iterdir()) == []


def test_the_strategy_says_what_moe_plan_says(moe: Moe, report: Path) -> None:
    plan = json.loads(moe("plan", "-f", "-", "-o", "json", stdin=manifest()).stdout)
    strategy = json.loads((report / "strategy.json").read_text())
    assert strategy["plan_hash"] == plan["hash"]
    for same in (
        "degrees",
        "rank_order",
        "stages",
        "experts",
        "limits",
        "memory",
        "kv_cache",
        "prediction",
        "warnings",
    ):
        assert strategy[same] == plan[same]
    assert [row["experts"] for row in strategy["ranks"]] == [[expert] for expert in range(8)]


def test_verify_stands_alone_and_bears_the_strategy_out(report: Path, verify: Verify) -> None:
    done = verify((report / "strategy.json").read_text())
    assert (done.returncode, done.stderr) == (0, "")
    lines = done.stdout.splitlines()
    assert lines[-1] == f"{len(lines) - 1} checks, 0 failed"
    assert "holds  degrees: 8 * 1 * 1 = 8 ranks in 1 pods of 8" in lines


def test_verification_is_what_verify_prints(report: Path, verify: Verify) -> None:
    done = verify((report / "strategy.json").read_text(), "--json")
    assert done.stdout == (report / "verification.json").read_text()
    assert json.loads(done.stdout)["holds"] is True


@pytest.mark.parametrize(
    ("path", "value", "check"),
    [
        ("degrees.ep", 4, "degrees"),
        ("world", 16, "degrees"),
        ("ranks_per_slot", 4, "degrees"),
        ("rank_order", ["ep", "tp"], "ranks and coordinates"),
        ("ranks.3.ep", 4, "ranks and coordinates"),
        ("ranks.7.slot", 1, "ranks and coordinates"),
        ("groups.ep", [[0, 1, 2, 3], [4, 5, 6, 7]], "groups"),
        ("ranks.2.experts", [3], "experts"),
        ("experts.redundant", 8, "experts"),
        ("experts.exceptions", {"0": [0, 1, 2, 3, 4, 5, 6, 6]}, "experts"),
        ("stages.0.layers", 31, "stages"),
        ("stages.0.head", False, "stages"),
        ("model.total_params", 1, "parameters"),
        ("model.shape.layer_kinds.0.attention.heads", 0.5, "split over tp"),
        ("memory.0.experts", 11274289153, "memory"),
        ("memory.0.total", 10**12, "memory"),
        ("hardware.memory_reserve", 0.0, "memory"),
        ("limits.max_batch_tokens", 4096, "memory"),
        ("constants.arrival_skew", 1.0, "memory"),
        ("kv_cache.requests_per_shard", 10**6, "KV cache"),
        ("prediction.tpot", 0.001, "parts of the prediction"),
        ("prediction.ttft_parts.compute", -1.0, "parts of the prediction"),
        ("prediction.tokens_per_s", 26e6, "tokens a second"),
        ("hardware.flops", {"bfloat16": 1e9}, "roofline"),
        ("memory", None, "memory"),
    ],
)
def test_a_tampered_strategy_fails_where_it_was_touched(
    report: Path, verify: Verify, path: str, value: object, check: str
) -> None:
    strategy = json.loads((report / "strategy.json").read_text())
    *way, last = [int(key) if key.isdigit() else key for key in path.split(".")]
    place = strategy
    for key in way:
        place = place[key]
    place[last] = value
    done = verify(json.dumps(strategy))
    assert (done.returncode, done.stderr) == (1, "")
    assert any(line.startswith(f"FAILS  {check}: ") for line in done.stdout.splitlines()), done.stdout


@pytest.mark.parametrize("text", ["", "{", "[]", "null", "[" * 100_000])
def test_a_strategy_that_is_none_fails_without_a_traceback(verify: Verify, text: str) -> None:
    done = verify(text)
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    assert "failed" in done.stdout or "cannot be read" in done.stderr


@pytest.mark.slow
def test_a_model_from_a_config_map_is_reported_with_its_config(moe: Moe, tmp_path: Path) -> None:
    config = tmp_path / "config.json"
    config.write_text((ROOT / "examples/quickstart/model/config.json").read_text())
    model = {"configFrom": {"configMapKeyRef": {"name": "models", "key": "quickstart"}}}
    text = manifest(model=model, workload={"inputTokens": 256, "outputTokens": 256})
    done = moe("report", "-f", "-", "-d", tmp_path / "report", "--config", config, stdin=text)
    assert done.returncode == 0, done.stderr
    assert "--config FILE" in (tmp_path / "report" / "implementation_guide.md").read_text()


@pytest.mark.slow
def test_the_quickstart_manifest_has_a_report(moe: Moe, tmp_path: Path) -> None:
    assert moe("report", "-f", "examples/quickstart/moedeployment.yaml", "-d", tmp_path).returncode == 0
    name = yaml.safe_load((ROOT / "examples/quickstart/moedeployment.yaml").read_text())["metadata"]["name"]
    assert json.loads((tmp_path / "strategy.json").read_text())["name"] == name


def test_a_plan_that_verify_refutes_is_reported_with_what_fails(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    refuting = tmp_path / "verify.py"
    refuting.write_text('print(\'{"holds": false, "checks": [{"check": "x", "holds": false, "detail": "1 < 0"}]}\')')
    monkeypatch.setattr(command, "SOURCE", refuting)
    ran = CliRunner().invoke(app, ["report", "-f", "-", "-d", str(tmp_path / "report")], input=manifest())
    assert isinstance(ran.exception, command.VerificationError)
    assert str(ran.exception).endswith("x: 1 < 0")
    assert "not every check holds" in (tmp_path / "report" / "report.html").read_text()


def test_a_verify_that_does_not_answer_is_given_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    silent = tmp_path / "verify.py"
    silent.write_text("import threading; threading.Event().wait()")
    monkeypatch.setattr(command, "SOURCE", silent)
    monkeypatch.setattr(command, "VERIFY_DEADLINE_S", 0.5)
    ran = CliRunner().invoke(app, ["report", "-f", "-", "-d", str(tmp_path / "report")], input=manifest())
    assert isinstance(ran.exception, command.VerificationError)
    assert list((tmp_path / "report").iterdir()) == []
