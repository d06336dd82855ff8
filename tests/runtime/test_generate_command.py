"""`generate`: a file of prompts becomes a file of tokens, and of logits, the same as transformers'."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from endpoint import Command
from safetensors.torch import load_file
from tiny_models import PROMPTS, TinyModel, make_tiny
from tiny_plans import tiny_plan

from moe_runtime.cli import main


def arguments(folder: Path, tiny: TinyModel, prompts: Any, **plan: Any) -> list[str]:
    (folder / "plan.json").write_text(tiny_plan(tiny.config, **plan).model_dump_json())
    (folder / "prompts.json").write_bytes(prompts if isinstance(prompts, bytes) else json.dumps(prompts).encode())
    files = ["--plan", str(folder / "plan.json"), "--prompts", str(folder / "prompts.json")]
    return ["generate", *files, "-o", str(folder / "out.json"), "--checkpoint", str(tiny.path), "--max-tokens", "6"]


class Run:
    """One run of the command, from start to end."""

    def __init__(self, folder: Path, tiny: TinyModel, prompts: Any, *options: str, **plan: Any) -> None:
        self.output, self.logits = folder / "out.json", folder / "out.safetensors"
        with Command([*arguments(folder, tiny, prompts, **plan), *options]) as command:
            self.status = command.wait()
            self.stderr = command.stderr

    @property
    def answer(self) -> dict[str, Any]:
        assert self.status == 0, self.stderr
        return json.loads(self.output.read_text())


@pytest.mark.slow
def test_tokens_are_those_of_transformers(tmp_path: Path, mixtral: TinyModel) -> None:
    run = Run(tmp_path, mixtral, PROMPTS, ep=2, tp=2, pp=2, micro_batches=2, max_batch_tokens=16)
    assert run.answer["tokens"] == mixtral.greedy(PROMPTS)
    assert run.answer["finish_reasons"] == ["length"] * len(PROMPTS)
    assert run.answer["layout"]["ep"] == 2


@pytest.mark.slow
def test_logits_are_those_of_transformers(tmp_path: Path, mixtral: TinyModel) -> None:
    run = Run(tmp_path, mixtral, PROMPTS, "--logits", str(tmp_path / "out.safetensors"), ep=2, tp=1, pp=1)
    made = load_file(run.logits)
    for i, (prompt, tokens) in enumerate(zip(PROMPTS, run.answer["tokens"], strict=True)):
        wanted = mixtral.logits([*prompt, *tokens])[len(prompt) - 1 : -1]
        assert made[str(i)].dtype == torch.float32
        torch.testing.assert_close(made[str(i)], wanted, rtol=1e-4, atol=1e-4)


@pytest.mark.slow
def test_an_answer_ends_with_the_models_end_token(tmp_path: Path) -> None:
    tiny = make_tiny(tmp_path, "mixtral", initializer_range=0.5)
    *before, end = tiny.greedy([PROMPTS[0]])[0][:4]
    assert end not in before
    (tmp_path / "generation_config.json").write_text(json.dumps({"eos_token_id": end}))
    answer = Run(tmp_path, tiny, PROMPTS[:1]).answer
    assert answer["tokens"] == [[*before, end]]
    assert answer["finish_reasons"] == ["stop"]


@pytest.mark.parametrize(
    ("prompts", "message"),
    [
        (b"", "is not JSON"),
        (b"[[1, 2", "is not JSON"),
        (b"\xff\xfe[]", "is not JSON"),
        (b"[" * 200_000, "is not JSON"),
        ({"a": 1}, "must be a list of lists of token ids, not an object"),
        ("text", "must be a list of lists of token ids, not a string"),
        ([1, 2], "prompt 0 must be a list of token ids, not a number"),
        ([[1], []], "prompt 1 must be a list of token ids, not an empty list"),
        ([[1], ["a"]], 'prompt 1 holds "a", which is no token id; they are 0 to 98'),
        ([[True]], "prompt 0 holds true, which is no token id"),
        ([[1, None]], "prompt 0 holds null, which is no token id"),
        ([[99]], "prompt 0 holds 99, which is no token id"),
        ([[-1]], "prompt 0 holds -1, which is no token id"),
        ([[1.0]], "prompt 0 holds 1.0, which is no token id"),
        ([[1] * 251], "prompt 0 is too long: 251 tokens and 6 to generate are more than the 256"),
    ],
)
def test_bad_prompts_are_told_in_a_sentence(
    tmp_path: Path, mixtral: TinyModel, capsys: pytest.CaptureFixture[str], prompts: Any, message: str
) -> None:
    assert main(arguments(tmp_path, mixtral, prompts)) == 1
    said = capsys.readouterr().err
    assert message in said
    assert len(said.splitlines()) == 1
    assert not (tmp_path / "out.json").exists()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--prompts", "/no/such/prompts.json"), "/no/such/prompts.json: No such file"),
        (("-o", "/no/such/out.json"), "/no/such: no such directory"),
        (("-o", "/tmp"), "/tmp: is a directory"),
        (("--plan", "/no/such/plan.json"), "/no/such/plan.json: No such file"),
    ],
)
def test_files_that_are_not_there_exit_2(
    tmp_path: Path, mixtral: TinyModel, capsys: pytest.CaptureFixture[str], options: tuple[str, str], message: str
) -> None:
    assert main([*arguments(tmp_path, mixtral, PROMPTS), *options]) == 2
    assert message in capsys.readouterr().err


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--checkpoint", "/no/such"), "/no/such: no such directory"),
        (("--max-tokens", "0"), "'0' is not a number from 1"),
        (("--max-tokens", "٣" * 5000), "is not a number from 1"),
        (("--colour", "red"), "unrecognized arguments: --colour red"),
    ],
)
def test_wrong_use_exits_2(
    tmp_path: Path, mixtral: TinyModel, capsys: pytest.CaptureFixture[str], options: tuple[str, str], message: str
) -> None:
    with pytest.raises(SystemExit) as end:
        main([*arguments(tmp_path, mixtral, PROMPTS), *options])
    assert end.value.code == 2
    assert message in capsys.readouterr().err


@pytest.mark.slow
def test_no_prompts_are_no_answers(tmp_path: Path, mixtral: TinyModel) -> None:
    assert Run(tmp_path, mixtral, []).answer["tokens"] == []


@pytest.mark.slow
def test_a_checkpoint_of_another_shape_is_told_in_a_sentence(tmp_path: Path, mixtral: TinyModel) -> None:
    given = arguments(tmp_path, mixtral, [[1]])
    (tmp_path / "plan.json").write_text(tiny_plan({**mixtral.config, "intermediate_size": 64}).model_dump_json())
    with Command(given) as command:
        assert command.wait() == 1
    assert command.lines[-1].startswith("error: ")
    assert "48" in command.lines[-1]
    assert "Traceback" not in command.stderr
    assert not (tmp_path / "out.json").exists()
