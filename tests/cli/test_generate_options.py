import json
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

Moe = Callable[..., subprocess.CompletedProcess[str]]

CHECKPOINT = "examples/quickstart/model"


@pytest.mark.slow
def test_prompts_may_come_through_a_pipe_and_layouts_agree(moe: Moe, tmp_path: Path) -> None:
    out = [tmp_path / "one.json", tmp_path / "eight.json"]
    prompts = tmp_path / "prompts.json"
    prompts.write_text("[[12, 7, 99], [5, 6]]")
    common = ["generate", "--checkpoint", CHECKPOINT, "--max-tokens", "5", "--device", "cpu"]
    one = moe(*common, "--prompts", prompts, "-o", out[0])
    piped = moe(
        *common, "--ep", 2, "--tp", 2, "--pp", 2, "--rank-order", "ep,pp,tp", "--prompts", "/dev/stdin", "-o", out[1],
        stdin=prompts.read_text(),
    )  # fmt: skip
    assert (one.returncode, piped.returncode) == (0, 0), one.stderr + piped.stderr
    tokens = [json.loads(path.read_text())["tokens"] for path in out]
    assert tokens[0] == tokens[1]
    assert [len(answer) for answer in tokens[0]] == [5, 5]


@pytest.mark.parametrize(
    ("options", "prompts", "status", "sentence"),
    [
        (["--ep", 3], "[[1]]", 1, "spec.parallelism.ep: 64 experts cannot be dealt evenly over ep 3"),
        (["--ep", 0], "[[1]]", 1, "spec.parallelism.ep: "),
        (["--rank-order", "ep,tp"], "[[1]]", 1, "spec.parallelism.rankOrder: "),
        (["--dtype", "float8"], "[[1]]", 1, "float8"),
        ([], "[1]", 1, "must be a list of lists of token ids"),
        ([], "[[]]", 1, "must be a list of lists of token ids"),
        ([], "[[", 1, "does not parse"),
        (["--max-tokens", 0], "[[1]]", 2, "--max-tokens"),
        (["--device", "tpu"], "[[1]]", 2, "tpu is not a device"),
    ],
)
def test_generate_tells_what_is_wrong(
    moe: Moe, tmp_path: Path, options: list[object], prompts: str, status: int, sentence: str
) -> None:
    path = tmp_path / "prompts.json"
    path.write_text(prompts)
    done = moe(
        "generate",
        "--checkpoint",
        CHECKPOINT,
        "--device",
        "cpu",
        "--prompts",
        path,
        "-o",
        tmp_path / "out.json",
        *options,
    )
    assert done.returncode == status
    assert sentence in done.stderr
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "out.json").exists()
