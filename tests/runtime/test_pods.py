"""A replica of several pods answers as one of one pod does, and goes on when a pod comes back."""

import os
import signal
import socket
from pathlib import Path

import pytest
from endpoint import Endpoint, events
from pods import Pods, in_slots, kill_pod, running
from tiny_models import PROMPTS, TinyModel
from tiny_plans import tiny_plan

from moe_plan.plan import Plan

LAYOUT = {"ep": 2, "tp": 2, "pp": 2, "micro_batches": 2}


def small_plan(tiny: TinyModel, slots: int) -> Plan:
    return in_slots(tiny_plan(tiny.config, **LAYOUT), slots)


def answer(endpoint: Endpoint, prompt: list[int], tokens: int) -> list[int]:
    body = {"prompt": prompt, "max_tokens": tokens, "temperature": 0, "return_token_ids": True}
    with endpoint.client() as client:
        response = client.post("/v1/completions", json=body)
    assert response.status_code == 200, response.text
    return response.json()["choices"][0]["token_ids"]


@pytest.mark.slow
def test_pods_answer_with_the_tokens_of_transformers(tmp_path: Path, qwen3_moe: TinyModel) -> None:
    with running(tmp_path, small_plan(qwen3_moe, 4), qwen3_moe.path) as (pods, endpoint):
        assert [answer(endpoint, prompt, 6) for prompt in PROMPTS] == qwen3_moe.greedy(PROMPTS)
        assert [pods.probe(slot).status_code for slot in (1, 2, 3)] == [200, 200, 200]
        with endpoint.client() as client:
            assert client.get("/health").json() == {"status": "ready", "detail": ""}
            metrics = client.get("/metrics").text
        computed = sum(float(line.split()[-1]) for line in metrics.splitlines() if line.startswith("moe_expert_tokens"))
        steps = [len(prompt) + 6 - 1 for prompt in PROMPTS]
        assert computed == sum(steps) * 2 * 3, "tokens of all slots' experts, top 2, in 3 layers"
