"""What one endpoint serves, and how a client's body becomes requests for the engine: tokens, limits, sampling."""

import secrets
from dataclasses import dataclass

from moe_plan.plan import Plan
from moe_runtime.frontend.chat import ChatError, ChatTemplate
from moe_runtime.frontend.engine import Ask, Engine
from moe_runtime.frontend.errors import ApiError, bad_parameter
from moe_runtime.frontend.metrics import Metrics
from moe_runtime.frontend.prompts import vocab_size
from moe_runtime.frontend.schemas import ChatBody, CompletionBody, Generation
from moe_runtime.frontend.tokenizer import Tokenizer
from moe_runtime.step import Sampling

COMPLETION_TOKENS = 16
"""max_tokens of a completion that names none, as OpenAI has it."""
SEED_BITS = 63


@dataclass(frozen=True, slots=True)
class Service:
    """One model at one endpoint."""

    plan: Plan
    engine: Engine
    tokenizer: Tokenizer | None
    template: ChatTemplate | None
    end_tokens: frozenset[int]
    metrics: Metrics
    api_key: str | None
    created: int
    """Unix time at which the endpoint started."""

    @property
    def model(self) -> str:
        """Name that clients know the model by."""
        return self.plan.model.name

    @property
    def vocab_size(self) -> int:
        """Token ids are below it."""
        return vocab_size(self.plan)

    def check_model(self, name: str | None) -> None:
        """Raises ApiError when the client means another model."""
        if name not in (None, self.model):
            message = f"model: {name!r} is not served here; {self.model!r} is"
            raise ApiError(404, message, param="model", code="model_not_found")

    def completion_asks(self, body: CompletionBody) -> list[Ask]:
        """One request a prompt. Raises ApiError."""
        self.check_model(body.model)
        _check_likeliest(body, body.logprobs, "logprobs")
        return [self._ask(self._prompt(prompt), body, body.max_tokens, COMPLETION_TOKENS) for prompt in body.prompt]

    def chat_asks(self, body: ChatBody) -> list[Ask]:
        """The one request of a conversation. Raises ApiError."""
        self.check_model(body.model)
        _check_likeliest(body, body.top_logprobs, "top_logprobs")
        asked = body.max_completion_tokens or body.max_tokens
        return [self._ask(self._conversation(body), body, asked, self.plan.limits.max_model_length)]

    def _prompt(self, prompt: str | list[int]) -> tuple[int, ...]:
        if isinstance(prompt, str):
            return self._encode(prompt)
        wrong = next((token for token in prompt if not 0 <= token < self.vocab_size), None)
        if wrong is not None:
            raise bad_parameter("prompt", f"{wrong} is no token id; they are 0 to {self.vocab_size - 1}")
        return tuple(prompt)

    def _encode(self, text: str) -> tuple[int, ...]:
        if self.tokenizer is None:
            raise bad_parameter("prompt", "the model has no tokenizer.json, so it takes a list of token ids, not text")
        return self.tokenizer.encode(_unicode(text, "prompt"))

    def _conversation(self, body: ChatBody) -> tuple[int, ...]:
        if self.tokenizer is None:
            raise bad_parameter(
                "messages", "the model has no tokenizer.json; use /v1/completions with a list of token ids"
            )
        if self.template is None:
            raise bad_parameter("messages", "the model has no chat template; use /v1/completions")
        messages = [message.model_dump(exclude_none=True) for message in body.messages]
        try:
            text = self.template.render(messages)
        except ChatError as error:
            raise bad_parameter("messages", str(error)) from error
        return self.tokenizer.encode_rendered(_unicode(text, "messages"))

    def _ask(self, prompt: tuple[int, ...], body: Generation, asked: int | None, default: int) -> Ask:
        if not prompt:
            raise bad_parameter("prompt", "is empty; at least one token is needed")
        longest = self.plan.limits.max_model_length
        room = longest - len(prompt)
        if room < max(1, asked or 1):
            wanted = f"{len(prompt)} prompt tokens and {asked or 1} to generate"
            message = f"the model takes {longest} tokens a request, prompt and answer together, not {wanted}"
            raise ApiError(400, message, param="prompt", code="context_length_exceeded")
        ends = frozenset[int]() if body.ignore_eos else self.end_tokens
        return Ask(prompt, asked or min(default, room), sampling(body), ends)


def sampling(body: Generation) -> Sampling:
    """How the client wants tokens drawn; without a seed, one that no one can guess."""
    temperature = 1.0 if body.temperature is None else body.temperature
    if temperature == 0:
        return Sampling()
    seed = secrets.randbits(SEED_BITS) if body.seed is None else body.seed % 2**SEED_BITS
    return Sampling(temperature, 1.0 if body.top_p is None else body.top_p, max(body.top_k or 0, 0), seed)


def _check_likeliest(body: Generation, count: int | None, param: str) -> None:
    if count and body.temperature != 0:
        raise bad_parameter(param, "is 1 for greedy answers only (temperature 0); 0 gives the generated tokens' own")


def _unicode(text: str, param: str) -> str:
    """The text. JSON can write what no text holds: half a surrogate pair."""
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise bad_parameter(param, "holds half a surrogate pair, which is no Unicode character") from error
    return text
