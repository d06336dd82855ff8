"""`moe search --pools` as a person and a script meet it."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from manifests import document
from moe_command import Moe

ROOT = Path(__file__).parents[2]


def manifest(**sections: Any) -> str:
    workload = {"concurrency": 10**5, "ttft": "2s", "tpot": "40ms"}
    return json.dumps(document(**{"workload": workload, **sections}))


@pytest.mark.slow
def test_the_table_tells_the_same_as_the_json_within_100_columns(moe: Moe) -> None:
    asked = ("search", "-f", "-", "--pools", "--gpus", "1024", "--prefill", "ep=8,workers=9", "--decode", "ep=8,tp=2")
    table, data = moe(*asked, stdin=manifest()), moe(*asked, "-o", "json", stdin=manifest())
    assert (table.returncode, data.returncode) == (0, 0), table.stderr
    assert max(map(len, table.stdout.splitlines())) <= 100
    assert "an estimate, which neither the operator nor the bundled" in table.stdout
    found = json.loads(data.stdout)
    words = " ".join(table.stdout.split())
    pairs = [row.split() for row in table.stdout.splitlines() if row.startswith("two pools")]
    told = [found["at_workload"]["pools"], found["at_any_load"]["pools"], found["given"]]
    assert [row[2] for row in pairs] == [f"{pair['gpus']:,}" for pair in told]
    for compared in (found["at_workload"], found["at_any_load"]):
        assert compared["why"] in words
        assert f"{abs(compared['gain']):.1%}" in words or compared["gain"] < 0


def test_the_json_has_the_documented_fields(moe: Moe) -> None:
    found = json.loads(moe("search", "-f", "-", "--pools", "-o", "json", stdin=manifest()).stdout)
    page = (ROOT / "docs" / "disaggregation.md").read_text().partition("## The JSON")[2]
    assert found["version"] == "moe-operator.dev/pools/v1"
    pair = found["at_any_load"]["pools"]
    for part in (found, found["at_workload"], pair, pair["prefill"], pair["ttft_parts"]):
        for field in part:
            assert f"`{field}`" in page, field


def test_no_target_is_needed(moe: Moe) -> None:
    done = moe("search", "-f", "-", "--pools", "--gpus", "16", stdin=manifest(workload={"concurrency": 64}))
    assert done.returncode == 0, done.stderr
    assert "no targets" in done.stdout


def test_where_no_pools_do_the_single_pool_is_told_with_what_comes_nearest(moe: Moe) -> None:
    workload = {"concurrency": 8, "inputTokens": 4000, "ttft": "1s"}
    slow = {"memory": "80e9", "flops": {"bfloat16": "989e12"}, "memoryBandwidth": "3.35e12"}
    links = [
        {"scope": "node", "bandwidth": "450e9", "latency": "3us"},
        {"scope": "cluster", "bandwidth": "1e8", "latency": "5us"},
    ]
    hardware = {"spec": {**slow, "links": links}}
    done = moe("search", "-f", "-", "--pools", "--gpus", "16", stdin=manifest(workload=workload, hardware=hardware))
    assert done.returncode == 0, done.stderr
    assert "two pools" not in done.stdout
    assert "the shortest TTFT of a prefill pool, without a queue, is " in done.stdout
    assert "and misses 1 s" in " ".join(done.stdout.split())


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (("--prefill", "ep=8", "--decode", "ep=8"), "needs --pools"),
        (("--pools", "--prefill", "ep=8"), "name both pools or neither"),
        (("--pools", "--keep", "replicas"), "drop --keep replicas"),
        (("--pools", "--prefill", "tp=8", "--decode", "ep=8"), "ep is missing"),
        (("--pools", "--prefill", "ep=8,workers=0", "--decode", "ep=8"), "workers must be a whole number from 1"),
        (("--pools", "--prefill", "ep=8,ep=4", "--decode", "ep=8"), "each once"),
        (("--pools", "--prefill", "ep=8;tp=4", "--decode", "ep=8"), "not '8;tp=4'"),
        (("--pools", "--prefill", "gpus=8", "--decode", "ep=8"), "'gpus=8' is not one of ep, tp, pp"),
        (("--pools", "--prefill", "ep=1e9", "--decode", "ep=8"), "not '1e9'"),
    ],
    ids=str,
)
def test_wrong_use_is_told_in_words_and_with_status_2(moe: Moe, options: tuple[str, ...], told: str) -> None:
    done = moe("search", "-f", "-", *options, stdin=manifest())
    assert done.returncode == 2
    assert told in " ".join(done.stderr.replace("│", " ").split())


def test_a_pool_that_breaks_the_algebra_is_refused_with_status_1(moe: Moe) -> None:
    done = moe("search", "-f", "-", "--pools", "--prefill", "ep=3", "--decode", "ep=8", stdin=manifest())
    assert done.returncode == 1
    assert "prefill.ep: 8 experts cannot be dealt evenly over ep 3" in done.stderr


def test_the_page_has_the_published_rates_as_they_are_predicted() -> None:
    command = [sys.executable, ROOT / "tools" / "pools.py"]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60, cwd=ROOT)
    assert done.stdout in (ROOT / "docs" / "disaggregation.md").read_text()
