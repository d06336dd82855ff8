import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from manifests import document
from moe_command import Moe


def with_ep(ep: Any, **changed: Any) -> str:
    return json.dumps(document(parallelism={"ep": ep, **changed}))


def test_the_three_forms_tell_the_same_plan(moe: Moe) -> None:
    as_json = json.loads(moe("plan", "-f", "-", "-o", "json", stdin=with_ep(8)).stdout)
    as_yaml = yaml.safe_load(moe("plan", "-f", "-", "-o", "yaml", stdin=with_ep(8)).stdout)
    table = moe("plan", "-f", "-", stdin=with_ep(8)).stdout
    assert as_json == as_yaml
    assert as_json["degrees"] == {"ep": 8, "tp": 1, "pp": 1}
    assert f"hash      {as_json['hash'][:16]}" in table
    assert "ep 8 · tp 1 · pp 1 = 8 ranks of h100-sxm" in table


def test_the_same_manifest_gives_the_same_bytes_in_every_process(moe_process: Moe) -> None:
    first, second = (moe_process("plan", "-f", "-", "-o", "json", stdin=with_ep(8)).stdout for _ in range(2))
    assert first == second


@pytest.mark.parametrize("example", ["seed-s4", "deepseek-v3", "seed-s4-training", "qwen3-235b"])
def test_the_table_fits_100_columns(moe: Moe, example: str) -> None:
    done = moe("plan", "-f", f"examples/{example}.yaml")
    assert done.returncode == 0, done.stderr
    assert max(map(len, done.stdout.splitlines())) <= 100


def test_several_deployments_give_an_array(moe_process: Moe) -> None:
    manifests = f"{with_ep(8)}\n---\nkind: Service\n---\n{with_ep(4)}"
    done = moe_process("plan", "-f", "-", "-o", "json", stdin=manifests)
    assert [plan["degrees"]["ep"] for plan in json.loads(done.stdout)] == [8, 4]
    assert done.stderr == "<stdin>: skipped Service\n"


def test_an_impossible_layout_is_refused_with_the_nearest_that_work(moe: Moe) -> None:
    done = moe("plan", "-f", "-", stdin=with_ep(3))
    assert done.returncode == 1
    assert done.stdout == ""
    assert "<stdin>: spec.parallelism.ep: " in done.stderr
    nearest = done.stderr.partition("nearest layouts that work:\n")[2].splitlines()
    assert nearest
    for line in nearest:
        degrees = {name: int(number) for name, number in re.findall(r"(\w+) (\d+)[, ]", line)}
        assert moe("plan", "-f", "-", stdin=with_ep(**degrees)).returncode == 0


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        (with_ep(0), "spec.parallelism.ep: "),
        (with_ep(-1), "spec.parallelism.ep: "),
        (with_ep(10**9), "spec.parallelism.ep: "),
        (with_ep("8"), "spec.parallelism.ep: "),
        (with_ep(ep=True), "spec.parallelism.ep: "),
        (with_ep(8).replace("mixtral-8x7b", "mixtral-8x7"), "did you mean mixtral-8x7b"),
        (with_ep(8).replace("h100-sxm", "h100-smx"), "the nearest is h100-sxm"),
        (with_ep(8).replace('"ep"', '"epp"'), "spec.parallelism.epp: "),
        ("a: [", "does not parse at line"),
        ("kind: Pod", "holds no MoEDeployment"),
    ],
)
def test_a_bad_manifest_is_told_in_sentences_and_exits_1(moe: Moe, text: str, sentence: str) -> None:
    done = moe("plan", "-f", "-", stdin=text)
    assert done.returncode == 1
    assert sentence in done.stderr
    assert "Traceback" not in done.stderr
    assert "pydantic" not in done.stderr


def test_every_reason_of_every_deployment_is_told_at_once(moe_process: Moe) -> None:
    done = moe_process("plan", "-f", "-", stdin=f"{with_ep(3)}\n---\n{with_ep(-1)}")
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.count("error: <stdin>: mixtral: spec.parallelism.ep: ") == 2


@pytest.mark.parametrize(
    "arguments",
    [("plan",), ("plan", "-f", "no-such-file.yaml"), ("plan", "-f", "x", "--no-such-option"), ("plan", "-f", ".")],
)
def test_wrong_use_exits_2(moe: Moe, arguments: tuple[str, ...]) -> None:
    done = moe(*arguments)
    assert done.returncode == 2
    assert done.stderr
    assert "Traceback" not in done.stderr


def test_a_model_in_a_config_map_is_planned_with_its_config(moe: Moe, tmp_path: Path) -> None:
    manifest = document(model={"configFrom": {"configMapKeyRef": {"name": "models", "key": "config.json"}}})
    without = moe("plan", "-f", "-", stdin=json.dumps(manifest))
    assert without.returncode == 1
    assert "--config" in without.stderr
    inline = moe("plan", "-f", "-", "-o", "json", stdin=with_ep(8))
    config = tmp_path / "config.json"
    config.write_text(json.dumps(json.loads(inline.stdout)["model"]["config"]))
    done = moe("plan", "-f", "-", "--config", config, stdin=json.dumps(manifest))
    assert done.returncode == 0, done.stderr


def test_a_plan_starts_without_what_only_other_commands_need() -> None:
    others = ("aiohttp", "http.client", "jinja2", "kopf", "numpy", "ssl", "torch")
    program = f"""
import contextlib, sys
from moe_operator.cli import main
sys.argv = ["moe", "plan", "-f", "-"]
with contextlib.suppress(SystemExit): main()
print([name for name in {others} if name in sys.modules])
"""
    command = [sys.executable, "-c", program]
    done = subprocess.run(command, input=with_ep(8), capture_output=True, text=True, check=True, timeout=60)
    assert "the plan holds" in done.stdout
    assert done.stdout.splitlines()[-1] == "[]"
