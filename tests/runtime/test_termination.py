"""The last word of a container, as the kubelet passes it on."""

import re
import tomllib
from pathlib import Path

import pytest

from moe_runtime import cli, termination
from moe_runtime.errors import CheckpointError, RankLost, RanksFailed, RuntimeFailure
from moe_runtime.fetch import errors as fetching
from moe_runtime.frontend.engine import LostTooOften
from moe_runtime.group import membership
from moe_runtime.termination import MOST_BYTES, last_word

WORDINGS = Path(__file__).parents[2] / "operator" / "moe_operator" / "reconcile" / "wordings.toml"


@pytest.fixture
def log(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The file that a kubelet gives a container of a pod."""
    file = tmp_path / "termination-log"
    file.touch()
    monkeypatch.setenv("POD_NAME", "m-0-1")
    monkeypatch.setattr(termination, "LOG", file)
    return file


def test_a_command_that_fails_leaves_one_line(log: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    plan = tmp_path / "plan.json"
    plan.write_text("{")
    assert cli.main(["serve", "--plan", str(plan)]) == 1
    assert capsys.readouterr().err == f"error: {log.read_text()}\n"
    assert "plan.json" in log.read_text()


def test_an_argument_that_is_wrong_is_the_last_word_without_the_usage(
    log: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit, match="2"):
        cli.main(["serve", "--plan", "p", "--checkpoint", "/models/nope"])
    assert log.read_text() == "argument --checkpoint: /models/nope: no such directory"
    assert "usage" in capsys.readouterr().err


def test_outside_of_a_pod_nothing_is_written(log: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("POD_NAME")
    last_word("DiskFull", "why")
    assert log.read_text() == ""


def test_a_sentence_of_any_length_is_one_line_that_a_kubelet_reads_whole(log: Path) -> None:
    last_word("RanksLost", "é\n" * 5000)
    content = log.read_bytes()
    assert len(content) <= MOST_BYTES
    assert content.startswith("RanksLost: é é".encode())
    assert b"\n" not in content


@pytest.mark.parametrize(
    "failure",
    [
        fetching.DiskFull("why"),
        fetching.Denied("why"),
        fetching.Missing("why"),
        fetching.Transient("why"),
        CheckpointError("why"),
        RankLost(3, "why"),
        RanksFailed("why"),
        LostTooOften("why"),
        membership.NameUnknown("why"),
        membership.FrontendSilent("why"),
    ],
    ids=lambda failure: type(failure).__name__,
)
def test_each_word_is_one_that_the_operator_knows(failure: RuntimeFailure, log: Path) -> None:
    last_word(failure.word, str(failure))
    rows = [row for row in tomllib.loads(WORDINGS.read_text())["wording"] if row["kind"] == "ended"]
    known = next(row for row in rows if re.search(row["pattern"], f"Error: {log.read_text()}"))
    assert known["reason"] == failure.word
