"""Keys to reconcile: each once, when it is due, never two at a time; after an error later and later. Pure: time is given."""

import heapq
from collections.abc import Callable, Hashable
from dataclasses import dataclass, field
from typing import Generic, TypeVar

Key = TypeVar("Key", bound=Hashable)

FIRST_BACKOFF_S = 0.2
LONGEST_BACKOFF_S = 60.0
SHORTEST_BREATH_S = 0.1
LONGEST_BREATH_S = 1.0
"""A key rests as long as its last turn took, within these bounds, so that one key cannot keep the operator busy."""


@dataclass
class WorkQueue(Generic[Key]):
    """Keys with the time at which each is due, seconds of a monotonic clock."""

    random: Callable[[], float]
    """Uniform in [0, 1)."""
    _due: dict[Key, float] = field(default_factory=dict)
    _heap: list[tuple[float, int, Key]] = field(default_factory=list)
    _order: int = 0
    _busy: dict[Key, float] = field(default_factory=dict)
    """Keys in work, with the time at which each was taken."""
    _not_before: dict[Key, float] = field(default_factory=dict)
    _failures: dict[Key, int] = field(default_factory=dict)

    def add(self, key: Key, due: float) -> None:
        """Ask for a turn; of several times the earliest holds. A key in work gets its turn after it."""
        due = max(due, self._not_before.get(key, due))
        if due < self._due.get(key, float("inf")):
            self._due[key] = due
            self._order += 1
            heapq.heappush(self._heap, (due, self._order, key))

    def take(self, now: float) -> Key | None:
        """A key whose time has come, to be given back by `done` or `failed`."""
        held = []
        found = None
        while self._heap and self._heap[0][0] <= now:
            entry = heapq.heappop(self._heap)
            due, _, key = entry
            if self._due.get(key) != due:
                continue
            if key in self._busy:
                held.append(entry)
                continue
            del self._due[key]
            self._busy[key] = now
            found = key
            break
        for entry in held:
            heapq.heappush(self._heap, entry)
        return found

    def next_due(self) -> float | None:
        """When the next key that is not in work is due."""
        return min((due for key, due in self._due.items() if key not in self._busy), default=None)

    def progressed(self, key: Key, now: float) -> None:
        """A turn ended well and has changed something, so there may be more to do: the next need not wait."""
        self._failures.pop(key, None)
        del self._busy[key]
        self._rest(key, now, 0.0)

    def done(self, key: Key, now: float) -> None:
        """A turn ended well and found nothing to do."""
        self._failures.pop(key, None)
        self._rest(key, now, min(LONGEST_BREATH_S, max(SHORTEST_BREATH_S, now - self._busy.pop(key))))

    def failed(self, key: Key, now: float, at_least: float = 0.0) -> float:
        """A turn ended with an error: the next comes after a backoff, which is returned, seconds."""
        del self._busy[key]
        failures = self._failures[key] = self._failures.get(key, 0) + 1
        bound = min(LONGEST_BACKOFF_S, FIRST_BACKOFF_S * 2 ** min(failures - 1, 20))
        delay: float = max(at_least, bound * (0.5 + self.random() / 2))
        self._rest(key, now, delay)
        self.add(key, now + delay)
        return delay

    def failures(self, key: Key) -> int:
        """How many turns of a key have failed since one went well."""
        return self._failures.get(key, 0)

    def forget(self, key: Key) -> None:
        """Drop what is remembered of a key that is gone."""
        self._failures.pop(key, None)
        self._not_before.pop(key, None)

    def _rest(self, key: Key, now: float, seconds: float) -> None:
        self._not_before[key] = now + seconds
        due = self._due.pop(key, None)
        if due is not None:
            self.add(key, due)

    def __len__(self) -> int:
        return len(self._due)
