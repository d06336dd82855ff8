"""The endpoint that the HTTP tests share: EP2·TP2·PP2, a tokenizer of bytes, a chat template, an API key."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
from endpoint import Endpoint, write_tokenizer
from tiny_models import PROMPTS, TinyModel, make_tiny
from tiny_plans import tiny_plan

from moe_runtime.frontend.tokenizer import Tokenizer, load_tokenizer

KEY = "correct horse"
MOST_TOKENS = 256
VOCAB = 300


@dataclass(frozen=True)
class Served:
    """An endpoint and the model behind it."""

    endpoint: Endpoint
    tiny: TinyModel
    tokenizer: Tokenizer
    end_token: int
    """Token that ends answers: the fourth of the greedy answer to PROMPTS[0]."""
    client: httpx.Client

    def ask(self, **body: Any) -> dict[str, Any]:
        """The whole answer to a completion, greedy unless the body says otherwise."""
        given = {"temperature": 0, "return_token_ids": True, **body}
        response = self.client.post("/v1/completions", json=given)
        assert response.status_code == 200, response.text
        return response.json()

    def tokens(self, **body: Any) -> list[int]:
        """The tokens of the only choice."""
        return self.ask(**body)["choices"][0]["token_ids"]

    def metric(self, name: str) -> float:
        """A figure of /metrics; 0 where it is not there yet."""
        lines = self.client.get("/metrics").text.splitlines()
        return next((float(line.rpartition(" ")[2]) for line in lines if line.startswith(name + " ")), 0.0)


@contextmanager
def serve_tiny(folder: Path) -> Iterator[Served]:
    # Wide random weights, so that answers do not repeat one token.
    tiny = make_tiny(folder, "qwen3_moe", vocab_size=VOCAB, initializer_range=0.5)
    write_tokenizer(folder)
    *before, end_token = tiny.greedy([PROMPTS[0]], 4)[0]
    assert end_token not in before
    (folder / "generation_config.json").write_text(json.dumps({"eos_token_id": [end_token]}))
    tokenizer = load_tokenizer(folder)
    assert tokenizer
    plan = tiny_plan(tiny.config, ep=2, tp=2, pp=2, micro_batches=2, max_batch_tokens=64, max_model_length=MOST_TOKENS)
    headers = {"Authorization": f"Bearer {KEY}"}
    with (
        Endpoint(folder, plan, folder, {"MOE_API_KEY": KEY}) as endpoint,
        endpoint.client(headers=headers) as client,
    ):
        yield Served(endpoint, tiny, tokenizer, end_token, client)
