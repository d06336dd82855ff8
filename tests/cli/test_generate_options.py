import json
from pathlib import Path

import pytest
from moe_command import Moe

CHECKPOINT = "examples/quickstart/model"


@pytest.mark.slow
def test_prompts_may_come_through_a_pipe_and_layouts_agree(moe_process: Moe, tmp_path: Path) -> None:
    out = [tmp_path / "one.json", tmp_path / "eight.json"]
    prompts = prompts_file(tmp_path, "[[12, 7, 99], [5, 6]]")
    common = ["generate", "--checkpoint", CHECKPOINT, "--max-tokens", "5", "--device", "cpu"]
    one = moe_process(*common, "--prompts", prompts, "-o", out[0])
    piped = moe_process(
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
    assert_told(moe, tmp_path, [*options, "--prompts", prompts_file(tmp_path, prompts)], status, sentence)


@pytest.mark.slow
def test_the_runtime_tells_what_it_cannot_compute(moe_process: Moe, tmp_path: Path) -> None:
    options = ["--dtype", "float8", "--prompts", prompts_file(tmp_path, "[[1]]")]
    assert_told(moe_process, tmp_path, options, 1, "float8")


def prompts_file(folder: Path, text: str) -> Path:
    (path := folder / "prompts.json").write_text(text)
    return path


def assert_told(moe: Moe, folder: Path, options: list[object], status: int, sentence: str) -> None:
    out = folder / "out.json"
    done = moe("generate", "--checkpoint", CHECKPOINT, "--device", "cpu", "-o", out, *options)
    assert done.returncode == status
    assert sentence in done.stderr
    assert "Traceback" not in done.stderr
    assert not out.exists()
