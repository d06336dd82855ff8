"""`moe search` as a person and a script meet it."""

import json
from typing import Any

import pytest
from manifests import document
from moe_command import Moe


def changed(**sections: Any) -> str:
    return json.dumps(document(**sections))


def test_the_table_tells_the_same_as_the_json_within_100_columns(moe: Moe) -> None:
    manifest = changed(model={"architecture": "qwen3-235b-a22b"}, workload={"concurrency": 10**4})
    table = moe("search", "-f", "-", "--gpus", "512", stdin=manifest)
    found = json.loads(moe("search", "-f", "-", "--gpus", "512", "-o", "json", stdin=manifest).stdout)
    assert table.returncode == 0, table.stderr
    assert max(map(len, table.stdout.splitlines())) <= 100
    for runner_up in found["runners_up"]:
        assert runner_up["loses"] in table.stdout
    best = next(line.split() for line in table.stdout.splitlines() if line.startswith("most tokens/s "))
    assert best[2:5] == [str(found["best"][degree]) for degree in ("ep", "tp", "pp")]
    assert f"{found['counts']['layouts']:,} layouts" in table.stdout


def test_the_json_has_the_documented_fields(moe: Moe) -> None:
    found = json.loads(moe("search", "-f", "-", "-o", "json", stdin=changed()).stdout)
    assert list(found) == [
        "version",
        "name",
        "model",
        "hardware",
        "engine",
        "workload",
        "max_gpus",
        "kept",
        "counts",
        "best",
        "runners_up",
        "fewest",
        "densest",
        "front",
        "written",
    ]
    assert (found["version"], found["max_gpus"]) == ("moe-operator.dev/search/v1", 8)
    assert list(found["best"]) == [
        "ep",
        "tp",
        "pp",
        "replicas",
        "gpus",
        "redundant_experts",
        "rank_order",
        "micro_batches",
        "concurrency",
        "batch_per_shard",
        "ttft",
        "tpot",
        "tokens_per_s",
        "tokens_per_s_per_gpu",
        "meets",
    ]


def test_the_same_manifest_gives_the_same_bytes_in_every_process(moe_process: Moe) -> None:
    first, second = (moe_process("search", "-f", "-", "-o", "json", stdin=changed()).stdout for _ in range(2))
    assert first == second


def test_several_deployments_give_an_array(moe: Moe) -> None:
    done = moe("search", "-f", "-", "-o", "json", stdin=f"{changed()}\n---\n{changed(replicas=2)}")
    assert [found["max_gpus"] for found in json.loads(done.stdout)] == [8, 16]


def test_kept_fields_are_kept_and_named(moe: Moe) -> None:
    done = moe("search", "-f", "-", "--keep", "ep", "--keep", "redundantExperts", "-o", "json", stdin=changed())
    found = json.loads(done.stdout)
    assert found["kept"] == ["ep", "redundantExperts"]
    assert {one["ep"] for one in (found["best"], *found["front"])} == {8}


def test_an_invalid_layout_is_answered_with_neighbours_and_what_they_lose(moe: Moe) -> None:
    done = moe("search", "-f", "-", "--gpus", "16", stdin=changed(parallelism={"ep": 3}))
    assert done.returncode == 0, done.stderr
    assert "not valid as written: spec.parallelism.ep: " in done.stdout
    assert "the nearest valid layouts" in done.stdout
    assert max(map(len, done.stdout.splitlines())) <= 100


@pytest.mark.parametrize(
    ("sections", "sentence"),
    [
        ({"workload": {"inputTokens": 0}}, "spec.workload.inputTokens: must be an integer of at least 1, not 0"),
        ({"workload": {"tpot": "1us"}}, "misses 1 µs"),
        ({"parallelism": {"ep": "auto"}}, "nothing says how many GPUs there are; set gpus or give --gpus"),
    ],
    ids=str,
)
def test_what_cannot_be_is_told_in_one_sentence(moe: Moe, sections: dict[str, Any], sentence: str) -> None:
    done = moe("search", "-f", "-", stdin=changed(**sections))
    assert done.returncode == 1
    assert done.stdout == ""
    assert sentence in done.stderr
    assert done.stderr.startswith("error: <stdin>: ")
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    "arguments",
    [("search", "-f", "-", "--gpus", "0"), ("search", "-f", "-", "--keep", "x")],
)
def test_wrong_use_exits_2(moe: Moe, arguments: tuple[str, ...]) -> None:
    done = moe(*arguments)
    assert done.returncode == 2
    assert "Traceback" not in done.stderr
