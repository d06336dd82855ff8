"""SIGINT and SIGTERM of a server, counted from its first moment: none is lost while it still imports.

A handler that raises would not do: what a signal raises in the midst of an import or a destructor may be swallowed.
"""

import asyncio
import signal
from typing import Self

NUMBERS = (signal.SIGINT, signal.SIGTERM)


class Signals:
    """A context in which the two signals do nothing but count."""

    def __init__(self) -> None:
        self._early = 0
        self._first = asyncio.Event()
        self._second = asyncio.Event()

    def __enter__(self) -> Self:
        self._before = {number: signal.signal(number, self._on_early_signal) for number in NUMBERS}
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def events(self) -> tuple[asyncio.Event, asyncio.Event]:
        """Events of the first and of the second signal, on the running event loop."""
        for number in NUMBERS:
            asyncio.get_running_loop().add_signal_handler(number, self._on_signal)
        for _ in range(self._early):
            self._on_signal()
        return self._first, self._second

    def _on_early_signal(self, _number: int, _frame: object) -> None:
        self._early += 1

    def _on_signal(self) -> None:
        (self._second if self._first.is_set() else self._first).set()
