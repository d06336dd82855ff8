"""Answers as OpenAI words them: tokens become pieces of text, and pieces become chunks of a stream or one body."""

import secrets
import time
from collections.abc import AsyncIterator, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from moe_runtime.frontend.engine import Answers
from moe_runtime.frontend.schedule import Progress
from moe_runtime.frontend.text import AnswerText
from moe_runtime.frontend.tokenizer import Tokenizer


@dataclass(frozen=True, slots=True)
class Piece:
    """What one or more tokens add to one answer."""

    index: int
    """Which of the request's answers."""
    text: str
    tokens: tuple[int, ...]
    logprobs: tuple[float, ...]
    """One a token, natural."""
    finish_reason: str | None


async def pieces(answers: Answers, tokenizer: Tokenizer | None, stops: Sequence[str]) -> AsyncIterator[Piece]:
    """The answers' pieces, one a token, as they come. Raises RuntimeFailure when the engine cannot go on."""
    index = {request.number: i for i, request in enumerate(answers.requests)}
    texts = [AnswerText(tokenizer, request.prompt, stops) if tokenizer else None for request in answers.requests]
    async for progress in answers:
        i = index[progress.request.number]
        text, reason = _read(texts[i], progress)
        if reason and not progress.finish_reason:
            answers.end(progress.request)
        yield Piece(i, text, (progress.token,), (progress.logprob,), reason)


def _read(text: AnswerText | None, progress: Progress) -> tuple[str, str | None]:
    """Text to show for a token, and whether the answer ends with it."""
    reason: str | None = progress.finish_reason
    if text is None:
        return "", reason
    # A token that ends the answer is never shown, whatever the tokenizer thinks of it.
    shown = "" if reason == "stop" else text.push(progress.token)
    if reason:
        shown += text.flush()
    return shown, "stop" if text.stopped else reason


def merge(index: int, parts: Iterable[Piece]) -> Piece:
    """One answer's pieces as one."""
    mine = [part for part in parts if part.index == index]
    tokens = tuple(token for part in mine for token in part.tokens)
    logprobs = tuple(logprob for part in mine for logprob in part.logprobs)
    return Piece(index, "".join(part.text for part in mine), tokens, logprobs, mine[-1].finish_reason)


class Wording(Protocol):
    """How one kind of request is answered."""

    @property
    def prefix(self) -> str:
        """Beginning of the id."""

    @property
    def whole_object(self) -> str:
        """What a whole answer calls itself."""

    @property
    def chunk_object(self) -> str:
        """What a stream's chunk calls itself."""

    def opening(self, index: int) -> dict[str, Any] | None:
        """The choice that opens a stream, before any token."""

    def chunk(self, piece: Piece) -> dict[str, Any]:
        """The choice of a stream's chunk."""

    def choice(self, piece: Piece) -> dict[str, Any]:
        """The choice of a whole answer."""


@dataclass(frozen=True, slots=True)
class Shown:
    """What the client wants to see of the tokens."""

    tokenizer: Tokenizer | None
    logprobs: bool
    likeliest: bool
    """The likeliest token's logprob too: the generated one's, since the answer is greedy."""
    token_ids: bool

    def name(self, token: int) -> str:
        """A token by itself."""
        return self.tokenizer.piece(token) if self.tokenizer else f"token_id:{token}"

    def ids(self, piece: Piece) -> dict[str, Any]:
        """The token ids, where they are wanted or all that there is."""
        return {"token_ids": list(piece.tokens)} if self.token_ids or self.tokenizer is None else {}


@dataclass(frozen=True, slots=True)
class CompletionWording:
    """/v1/completions."""

    shown: Shown
    prefix: str = "cmpl"
    whole_object: str = "text_completion"
    chunk_object: str = "text_completion"

    def opening(self, index: int) -> dict[str, Any] | None:  # noqa: ARG002  # the chat's has one
        return None

    def chunk(self, piece: Piece) -> dict[str, Any]:
        return self.choice(piece)

    def choice(self, piece: Piece) -> dict[str, Any]:
        logprobs = self._logprobs(piece) if self.shown.logprobs else None
        ends = {"logprobs": logprobs, "finish_reason": piece.finish_reason}
        return {"index": piece.index, "text": piece.text, **ends, **self.shown.ids(piece)}

    def _logprobs(self, piece: Piece) -> dict[str, Any]:
        names = [self.shown.name(token) for token in piece.tokens]
        top = [{name: logprob} for name, logprob in zip(names, piece.logprobs, strict=True)]
        offsets = [sum(map(len, names[:i])) for i in range(len(names))]
        return {
            "tokens": names,
            "token_logprobs": list(piece.logprobs),
            "top_logprobs": top if self.shown.likeliest else None,
            "text_offset": offsets,
        }


@dataclass(frozen=True, slots=True)
class ChatWording:
    """/v1/chat/completions."""

    shown: Shown
    prefix: str = "chatcmpl"
    whole_object: str = "chat.completion"
    chunk_object: str = "chat.completion.chunk"

    def opening(self, index: int) -> dict[str, Any] | None:
        delta = {"role": "assistant", "content": ""}
        return {"index": index, "delta": delta, "logprobs": None, "finish_reason": None}

    def chunk(self, piece: Piece) -> dict[str, Any]:
        delta = {"content": piece.text} if piece.text else {}
        return {"index": piece.index, "delta": delta, **self._ends(piece)}

    def choice(self, piece: Piece) -> dict[str, Any]:
        message = {"role": "assistant", "content": piece.text, "refusal": None}
        return {"index": piece.index, "message": message, **self._ends(piece)}

    def _ends(self, piece: Piece) -> dict[str, Any]:
        logprobs = self._logprobs(piece) if self.shown.logprobs else None
        return {"logprobs": logprobs, "finish_reason": piece.finish_reason, **self.shown.ids(piece)}

    def _logprobs(self, piece: Piece) -> dict[str, Any]:
        return {"content": [self._logprob(*one) for one in zip(piece.tokens, piece.logprobs, strict=True)]}

    def _logprob(self, token: int, logprob: float) -> dict[str, Any]:
        name = self.shown.name(token)
        one = {"token": name, "logprob": logprob, "bytes": list(name.encode())}
        return {**one, "top_logprobs": [one] if self.shown.likeliest else []}


class Response:
    """One response: its id, model and time, and what was used so far."""

    def __init__(self, wording: Wording, model: str, answers: Answers) -> None:
        self._wording = wording
        self._prompts = [len(request.prompt) for request in answers.requests]
        self._tokens = 0
        self._head = {"id": f"{wording.prefix}-{secrets.token_hex(12)}", "created": int(time.time()), "model": model}

    def usage(self) -> dict[str, int]:
        """Tokens of the prompts and of the answers so far."""
        prompt = sum(self._prompts)
        return {"prompt_tokens": prompt, "completion_tokens": self._tokens, "total_tokens": prompt + self._tokens}

    def opening(self) -> list[dict[str, Any]]:
        """Chunks before any token."""
        choices = [self._wording.opening(index) for index in range(len(self._prompts))]
        return [self._chunk([choice]) for choice in choices if choice]

    def chunk(self, piece: Piece) -> dict[str, Any]:
        """The chunk of a piece."""
        self._tokens += len(piece.tokens)
        return self._chunk([self._wording.chunk(piece)])

    def closing(self) -> dict[str, Any]:
        """The chunk that tells what was used."""
        return {**self._chunk([]), "usage": self.usage()}

    def whole(self, parts: Sequence[Piece]) -> dict[str, Any]:
        """The body that holds all answers."""
        merged = [merge(index, parts) for index in range(len(self._prompts))]
        self._tokens = sum(len(piece.tokens) for piece in merged)
        choices = [self._wording.choice(piece) for piece in merged]
        return {**self._head, "object": self._wording.whole_object, "choices": choices, "usage": self.usage()}

    def _chunk(self, choices: list[dict[str, Any]]) -> dict[str, Any]:
        return {**self._head, "object": self._wording.chunk_object, "choices": choices}
