"""Tokens become text as they come: whole characters only, and nothing of a stop string."""

from collections.abc import Sequence
from typing import Protocol

REPLACEMENT = "\ufffd"
LONGEST_HALF = 3
"""Replacement characters that a character still to be completed may decode to: a UTF-8 one lacks a byte at three."""
CONTEXT_TOKENS = 6
"""Prompt tokens that decide how the first generated token reads, with its leading space or without."""


class Decoder(Protocol):
    """Whatever turns token ids into text."""

    def decode(self, tokens: Sequence[int]) -> str:
        """Text of the tokens; bytes that are no UTF-8 become replacement characters."""


class TextStream:
    """Incremental detokenisation: each token's text once, held back while it may be half a character."""

    def __init__(self, decoder: Decoder, prompt: Sequence[int]) -> None:
        self._decoder = decoder
        self._tokens = list(prompt[-CONTEXT_TOKENS:])
        self._read = len(self._tokens)
        self._emitted = len(decoder.decode(self._tokens))

    def push(self, token: int) -> str:
        """Text that the token completes; empty while that is half a character."""
        self._tokens.append(token)
        text = self._decoder.decode(self._tokens)
        whole = _without_half_character(text)
        new = whole[self._emitted :]
        if new and whole == text:
            self._slide()
        else:
            self._emitted = max(self._emitted, len(whole))
        return new

    def flush(self) -> str:
        """What was held back, when no token follows."""
        text = self._decoder.decode(self._tokens)
        new, self._emitted = text[self._emitted :], len(text)
        return new

    def _slide(self) -> None:
        """Keep only the tokens since the last whole character but one: a decoder needs no more context."""
        self._tokens = self._tokens[self._read :]
        self._read = len(self._tokens)
        self._emitted = len(self._decoder.decode(self._tokens))


class StopStrings:
    """Passes text on up to the first stop string, and holds back what may be the beginning of one."""

    def __init__(self, stops: Sequence[str]) -> None:
        self._stops = stops
        self._held = ""
        self.found = False

    def push(self, text: str) -> str:
        """Text that is certain not to belong to a stop string; `found` tells whether one has come."""
        if self.found:
            return ""
        held = self._held + text
        ends = [position for stop in self._stops if (position := held.find(stop)) >= 0]
        if ends:
            self.found, self._held = True, ""
            return held[: min(ends)]
        keep = max((_overlap(held, stop) for stop in self._stops), default=0)
        self._held = held[len(held) - keep :]
        return held[: len(held) - keep]

    def flush(self) -> str:
        """What was held back, when no text follows."""
        held, self._held = self._held, ""
        return held


class AnswerText:
    """The text of one answer: tokens in, text to show out."""

    def __init__(self, decoder: Decoder, prompt: Sequence[int], stops: Sequence[str]) -> None:
        self._stream = TextStream(decoder, prompt)
        self._stops = StopStrings(stops)

    @property
    def stopped(self) -> bool:
        """Whether a stop string has come: nothing after it is shown."""
        return self._stops.found

    def push(self, token: int) -> str:
        """Text to show for the token."""
        return self._stops.push(self._stream.push(token))

    def flush(self) -> str:
        """Text to show when no token follows."""
        shown = self._stops.push(self._stream.flush())
        return shown + self._stops.flush()


def _without_half_character(text: str) -> str:
    whole = text.rstrip(REPLACEMENT)
    return text[: max(len(whole), len(text) - LONGEST_HALF)]


def _overlap(text: str, stop: str) -> int:
    """Length of the longest end of the text that a stop string begins with."""
    lengths = range(min(len(text), len(stop) - 1), 0, -1)
    return next((length for length in lengths if text.endswith(stop[:length])), 0)
