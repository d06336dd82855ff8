"""What a client may ask for: the bodies of /v1/completions and /v1/chat/completions, as OpenAI words them.

Types are strict and unknown parameters are errors, so that a misspelt one is not silently ignored. Parameters that
the runtime does not execute are accepted at the value that changes nothing.
"""

from collections.abc import Callable
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, StrictBool, StrictInt, StrictStr

MAX_PROMPTS = 256
"""Prompts of one request."""
MAX_STOPS = 16
MAX_STOP_LENGTH = 1024


def only(*values: Any) -> AfterValidator:
    """A parameter that is accepted at these values (and null) alone."""

    def check(value: Any) -> Any:
        if value is not None and not any(value is one or (value == one and type(value) is type(one)) for one in values):
            raise ValueError("is not supported" + (f" at any value but {values[0]!r}" if values else ""))
        return value

    return AfterValidator(check)


def _one_or_many(is_one: Callable[[Any], bool], meaning: str) -> BeforeValidator:
    """Read one thing or a non-empty list of them as a list. `meaning` is what the error says is wanted."""

    def check(value: Any) -> Any:
        if is_one(value):
            return [value]
        if not (isinstance(value, list) and value and all(map(is_one, value))):
            raise ValueError(f"must be {meaning}")
        return value

    return BeforeValidator(check)


def _is_prompt(value: Any) -> bool:
    if isinstance(value, list):
        return bool(value) and all(type(token) is int for token in value)
    return isinstance(value, str)


def _is_stop(value: Any) -> bool:
    return isinstance(value, str) and 0 < len(value) <= MAX_STOP_LENGTH


Prompts = Annotated[
    list[Any],
    _one_or_many(_is_prompt, "a string, a list of token ids, or a list of these"),
    Field(max_length=MAX_PROMPTS),
]
Stops = Annotated[
    list[str],
    _one_or_many(_is_stop, f"a string of 1 to {MAX_STOP_LENGTH} characters, or a list of them"),
    Field(max_length=MAX_STOPS),
]
Ignored = Any


class Body(BaseModel):
    """A part of a request: closed, with strict types."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)


class StreamOptions(Body):
    """What a stream carries beside its text."""

    include_usage: StrictBool | None = None
    include_obfuscation: Ignored = None


class Generation(Body):
    """Parameters that both kinds of request share."""

    model: StrictStr | None = None
    """Name of the served model; it may be left out, since there is one."""
    max_tokens: Annotated[StrictInt, Field(ge=1)] | None = None
    temperature: Annotated[float, Field(ge=0, le=2, allow_inf_nan=False)] | None = None
    """0 is greedy; 1 when absent."""
    top_p: Annotated[float, Field(gt=0, le=1, allow_inf_nan=False)] | None = None
    top_k: Annotated[StrictInt, Field(ge=-1, le=2**31 - 1)] | None = None
    """0 and -1 mean no limit."""
    seed: StrictInt | None = None
    """The same seed draws the same tokens for the same prompt."""
    stop: Stops | None = None
    stream: StrictBool | None = None
    stream_options: StreamOptions | None = None
    ignore_eos: StrictBool = False
    """Go on to max_tokens even after a token that ends answers."""
    return_token_ids: StrictBool = False
    """Give the ids of the generated tokens beside their text."""
    n: Annotated[Any, only(1)] = None
    frequency_penalty: Annotated[Any, only(0, 0.0)] = None
    presence_penalty: Annotated[Any, only(0, 0.0)] = None
    logit_bias: Annotated[Any, only({})] = None
    user: Ignored = None


class CompletionBody(Generation):
    """Body of POST /v1/completions."""

    prompt: Prompts
    logprobs: Annotated[StrictInt, Field(ge=0, le=1)] | None = None
    """0: of the generated tokens; 1: of the likeliest too, which greedy answers generate."""
    echo: Literal[False] | None = None
    best_of: Annotated[Any, only(1)] = None
    suffix: Annotated[Any, only("")] = None


class TextPart(Body):
    """A piece of a message."""

    type: Literal["text"]
    text: StrictStr


def _joined_text(value: Any) -> Any:
    """The text of a message given in parts."""
    if not isinstance(value, list):
        return value
    return "\n".join(TextPart.model_validate(part).text for part in value)


class Message(Body):
    """One turn of a conversation."""

    role: Literal["system", "developer", "user", "assistant", "tool"]
    content: Annotated[StrictStr, BeforeValidator(_joined_text)]
    """Text, or a list of text parts."""
    name: StrictStr | None = None


class ChatBody(Generation):
    """Body of POST /v1/chat/completions."""

    messages: Annotated[list[Message], Field(min_length=1)]
    max_completion_tokens: Annotated[StrictInt, Field(ge=1)] | None = None
    """Newer name of max_tokens, and stronger."""
    logprobs: StrictBool | None = None
    top_logprobs: Annotated[StrictInt, Field(ge=0, le=1)] | None = None
    """0, or 1 for greedy answers."""
    tools: Annotated[Any, only([])] = None
    tool_choice: Annotated[Any, only("none", "auto")] = None
    functions: Annotated[Any, only([])] = None
    function_call: Annotated[Any, only("none", "auto")] = None
    response_format: Annotated[Any, only({"type": "text"})] = None
    modalities: Annotated[Any, only(["text"])] = None
    parallel_tool_calls: Ignored = None
    store: Ignored = None
    metadata: Ignored = None
    service_tier: Ignored = None
    safety_identifier: Ignored = None
    prompt_cache_key: Ignored = None
