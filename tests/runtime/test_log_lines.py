"""What ranks say carries their coordinate, as text and as JSON, and they say nothing unless asked."""

import json
import logging
import os
import signal
from pathlib import Path

import pytest
from endpoint import Endpoint
from hypothesis import given
from hypothesis import strategies as st
from pods import in_slots
from tiny_plans import TINY_CONFIG, tiny_plan

from moe_plan.layout import Coordinate
from moe_plan.plan import Plan
from moe_runtime.host.voices import MOST_BYTES, Voices
from moe_runtime.logs import Speaker, log_lines

RANK = Speaker.rank(1, 5, Coordinate(1, 0, 1))


def one_slot_plan() -> Plan:
    return in_slots(tiny_plan(TINY_CONFIG, ep=2, tp=2, pp=2), 1)


@pytest.mark.slow
def test_a_crash_inside_a_rank_is_told_with_its_coordinate(tmp_path: Path) -> None:
    env = {"PYTHONFAULTHANDLER": "1", "MOE_LOG_LEVEL": "debug"}
    with Endpoint(tmp_path, one_slot_plan(), env=env) as endpoint:
        assert endpoint.url
        assert sorted(line.partition(",")[0] for line in endpoint.lines if "] ready, with " in line) == [
            f"[pp{pp} ep{ep} tp{tp} rank{4 * pp + 2 * ep + tp}] ready"
            for pp in range(2)
            for ep in range(2)
            for tp in range(2)
        ]
        os.kill(endpoint.ranks()[6], signal.SIGSEGV)
        endpoint.wait_for_line(r"^\[pp1 ep1 tp0 rank6\] Fatal Python error: Segmentation fault")
        endpoint.wait_for_line(r"^rank 6 was killed by SIGSEGV; starting the ranks again")
        assert endpoint.end() == 0


@pytest.mark.slow
def test_ranks_are_silent_unless_asked_and_every_line_is_json_where_a_collector_wants_it(tmp_path: Path) -> None:
    with Endpoint(tmp_path, one_slot_plan(), env={"MOE_LOG_FORMAT": "json", "LWS_WORKER_INDEX": "0"}) as endpoint:
        endpoint.wait_for_line(r'"message": "ready: http')
        assert endpoint.end() == 0
    said = [json.loads(line) for line in endpoint.lines]
    assert len(said) < 10
    assert {(line["level"], line["slot"], "rank" in line) for line in said} == {("info", 0, False)}
    assert all(line["time"].startswith("20") and line["time"].endswith("Z") for line in said)


def test_a_line_of_json_has_the_coordinate_as_fields() -> None:
    assert json.loads(RANK.json('a "word"', "warning", 1.5)) == {
        "time": "1970-01-01T00:00:01.500Z",
        "level": "warning",
        "message": 'a "word"',
        "slot": 1,
        "pp": 1,
        "ep": 0,
        "tp": 1,
        "rank": 5,
    }
    assert json.loads(Speaker.gateway(3).json("x", "info", 0))["part"] == "gateway"


def listen_to(written: bytes) -> None:
    """Have a rank write bytes, and its parent read them."""
    voices = Voices()
    hears, speaks = os.pipe()
    voices.add(RANK, hears)
    voices.listen()
    with os.fdopen(speaks, "wb") as pipe:
        pipe.write(written)
    voices.finish()


def heard(written: bytes, capfd: pytest.CaptureFixture[str]) -> list[str]:
    """What comes of bytes that a rank writes."""
    listen_to(written)
    return capfd.readouterr().err.split("\n")[:-1]


def test_lines_of_a_rank_arrive_whole_and_named(capfd: pytest.CaptureFixture[str]) -> None:
    assert heard(b"one\n\n<7>two\n\xff\nwithout an end", capfd) == [
        f"[pp1 ep0 tp1 rank5] {text}" for text in ("one", "", "two", "\ufffd", "without an end")
    ]


def test_the_level_that_a_rank_gives_a_line_is_told_to_a_collector(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("MOE_LOG_FORMAT", "json")
    said = [json.loads(line) for line in heard(b"<4>hot\n<9>odd\nplain\n", capfd)]
    assert [(line["level"], line["message"]) for line in said] == [
        ("warning", "hot"),
        ("info", "<9>odd"),
        ("info", "plain"),
    ]


@given(st.lists(st.text(st.characters(codec="ascii", exclude_characters="\n"), max_size=200), max_size=300))
def test_nothing_that_a_rank_writes_is_lost(lines: list[str]) -> None:
    said: list[str] = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("moe_runtime.host.voices.say", lambda _, more: said.extend(more))
        listen_to("".join(f"{line}\n" for line in lines).encode())
    assert said == lines


def test_a_line_without_an_end_is_told_in_pieces() -> None:
    said: list[str] = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("moe_runtime.host.voices.say", lambda _, more: said.extend(more))
        listen_to(b"x" * (3 * MOST_BYTES))
    assert "".join(said) == "x" * (3 * MOST_BYTES)
    assert max(map(len, said)) < 2 * MOST_BYTES


def test_a_format_that_there_is_not_is_told_and_text_taken(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    root = logging.getLogger()
    before = (root.level, root.handlers[:])
    monkeypatch.setenv("MOE_LOG_FORMAT", "xml")
    try:
        log_lines(Speaker.pod({}))
    finally:
        root.level, root.handlers[:] = before
    assert capfd.readouterr().err == "MOE_LOG_FORMAT is none of text, json, but 'xml'; it is taken for text\n"
