import json
from pathlib import Path

import httpx
import pytest
import yaml
from endpoint import DEADLINE_S, MOE, Command

EXAMPLES = Path(__file__).parents[2] / "examples"
NARROW = "32"
PROMPTS = [[1, 2, 3, 4, 5], [200, 100, 50]]
NEW_TOKENS = 6


def tokens_of(manifest: Path) -> tuple[list[list[int]], str]:
    """Greedy tokens of a manifest's rehearsal, over HTTP, and what it said; it must end cleanly."""
    with Command(["run", "-f", str(manifest), "--narrow", NARROW, "--port", "0"], program=MOE) as running:
        url = running.wait_for_line(r"^ready: (\S+)/v1")[1]
        ranks = running.descendants()
        answers = [ask(url, prompt) for prompt in PROMPTS]
        assert running.end() == 0
        assert not [rank for rank in ranks if Path(f"/proc/{rank}").exists()]
        return answers, running.stderr


def ask(url: str, prompt: list[int]) -> list[int]:
    body = {"prompt": prompt, "max_tokens": NEW_TOKENS, "temperature": 0, "return_token_ids": True, "ignore_eos": True}
    answer = httpx.post(f"{url}/v1/completions", json=body, timeout=DEADLINE_S)
    assert answer.status_code == 200, answer.text
    tokens: list[int] = answer.json()["choices"][0]["token_ids"]
    return tokens


def on_four_ranks(manifest: Path, folder: Path) -> Path:
    """The same model under a layout without tp, pp and redundant experts."""
    deployment = yaml.safe_load(manifest.read_text())
    deployment["spec"]["parallelism"] = {"ep": 4}
    path = folder / "reference.yaml"
    path.write_text(json.dumps(deployment))
    return path


@pytest.mark.slow
@pytest.mark.parametrize(
    ("seed", "layout", "stages"),
    [
        ("seed-s1", "EP64·TP2·PP1", ["stage 0: layers 0–15, ranks 0–127, 16 slots"]),
        ("seed-s2", "EP64·TP2·PP1", ["stage 0: layers 0–15, ranks 0–127, 16 slots"]),
        ("seed-s3", "EP16·TP4·PP2", ["stage 0: layers 0–7, ranks 0–63, 8 slots", "stage 1: layers 8–15, ranks 64–127, 8 slots"]),
        ("seed-s4", "EP8·TP4·PP4", ["stage 3: layers 12–15, ranks 12–15, 28–31, …, 124–127, 8 slots"]),
    ],
)  # fmt: skip
def test_a_seeds_128_ranks_give_the_tokens_of_four_ranks(
    tmp_path: Path, seed: str, layout: str, stages: list[str]
) -> None:
    manifest = EXAMPLES / f"{seed}.yaml"
    answers, said = tokens_of(manifest)
    assert f"on 128 cpu ranks, {layout}, random weights" in said
    for stage in stages:
        assert stage in said
    assert answers == tokens_of(on_four_ranks(manifest, tmp_path))[0]
