"""Reading a config.json field by field: every problem is noted and a harmless value goes on, so all are told at once."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from moe_plan.errors import Violation
from moe_plan.spec import MAX_DEGREE

MAX_LAYERS = 4096
"""Most layers that are read: no model has a tenth of them, and a layer costs memory here."""


@dataclass(frozen=True, slots=True)
class Fields:
    """A section of a config.json. The first of several keys that is present and not null counts."""

    values: Mapping[str, Any]
    path: str
    """Where the section stands in the manifest, such as spec.model.config.text_config."""
    violations: list[Violation]
    """Problems noted so far; shared among the sections of a config."""

    def note(self, key: str, code: str, message: str, remedy: str = "") -> None:
        """Note a problem with a field."""
        self.violations.append(Violation(f"{self.path}.{key}", code, message, remedy))

    def sound(self, *keys: str) -> bool:
        """Whether no problem was noted with these fields, so that they may be held against each other."""
        paths = {f"{self.path}.{key}" for key in keys}
        return not any(violation.field in paths for violation in self.violations)

    def has(self, key: str) -> bool:
        """Whether the field is given, and not as null."""
        return self.values.get(key) is not None

    def count(self, *keys: str, at_least: int = 1, at_most: int = MAX_DEGREE) -> int:
        """An integer that must be given."""
        key = self._present(keys)
        if key is None:
            self.note(keys[0], "MissingField", "is missing from the config.json")
            return at_least
        return self._checked(key, at_least, at_most)

    def count_or(self, default: int, *keys: str, at_least: int = 1, at_most: int = MAX_DEGREE) -> int:
        """An integer, or the default where absent or null."""
        key = self._present(keys)
        return default if key is None else self._checked(key, at_least, at_most)

    def flag(self, key: str, default: bool) -> bool:  # noqa: FBT001  a default is data here, not a switch
        """A boolean, or the default where absent or null."""
        value = self.values.get(key)
        if value is None or isinstance(value, bool):
            return default if value is None else value
        self.note(key, "WrongType", f"must be true or false, not {_shown(value)}")
        return default

    def word(self, key: str, allowed: Collection[str], default: str) -> str:
        """One of the allowed words, or the default where absent or null."""
        value = self.values.get(key)
        if value is None:
            return default
        if isinstance(value, str) and value in allowed:
            return value
        self.note(key, "WrongValue", f"must be one of {', '.join(sorted(allowed))}, not {_shown(value)}")
        return default

    def words(self, key: str, allowed: Collection[str], length: int) -> tuple[str, ...] | None:
        """A list of at least `length` allowed words, cut to `length`; None where absent or wrong."""
        listed = self._listed(key)
        if listed is None:
            return None
        wrong = [entry for entry in listed if not (isinstance(entry, str) and entry in allowed)]
        if wrong:
            self.note(key, "WrongValue", f"may hold {', '.join(sorted(allowed))}, not {_shown(wrong[0])}")
            return None
        return tuple(listed[:length]) if self._long_enough(key, listed, length) else None

    def counts(self, key: str, length: int = 0) -> tuple[int, ...] | None:
        """A list of at least `length` integers of at least 0; None where absent or wrong."""
        listed = self._listed(key)
        if listed is None:
            return None
        wrong = [entry for entry in listed if not _is_integer(entry) or not 0 <= entry <= MAX_DEGREE]
        if wrong:
            self.note(key, "WrongValue", f"must hold integers of at least 0, not {_shown(wrong[0])}")
            return None
        return tuple(listed) if self._long_enough(key, listed, length) else None

    def section(self, key: str) -> "Fields | None":
        """A nested object; None where absent or no object."""
        value = self.values.get(key)
        if value is not None and not isinstance(value, Mapping):
            self.note(key, "WrongType", f"must be an object, not {_shown(value)}")
            return None
        return None if value is None else Fields(value, f"{self.path}.{key}", self.violations)

    def _present(self, keys: Sequence[str]) -> str | None:
        return next((key for key in keys if self.has(key)), None)

    def _checked(self, key: str, at_least: int, at_most: int) -> int:
        value = self.values[key]
        if not _is_integer(value):
            self.note(key, "WrongType", f"must be an integer, not {_shown(value)}")
        elif not at_least <= value <= at_most:
            self.note(key, "OutOfRange", f"must be from {at_least} to {at_most}, not {_shown(value)}")
        else:
            return int(value)
        return at_least

    def _listed(self, key: str) -> list[Any] | None:
        value = self.values.get(key)
        if value is not None and not isinstance(value, list):
            self.note(key, "WrongType", f"must be a list, not {_shown(value)}")
            return None
        return value

    def _long_enough(self, key: str, listed: Sequence[Any], length: int) -> bool:
        if len(listed) < length:
            self.note(key, "WrongLength", f"has {len(listed)} entries where the model has {length} layers")
        return len(listed) >= length


def _is_integer(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _shown(value: Any) -> str:
    try:
        text = repr(value)
    except ValueError:  # an integer of more digits than Python prints
        text = "a number of thousands of digits"
    return text if len(text) <= 40 else f"{text[:37]}..."
