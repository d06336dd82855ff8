"""What a frontend's /health says beyond its status: JSON of the bundled runtime; other engines say nothing of it. Pure."""

import json
from collections.abc import Mapping
from typing import Any

from moe_operator.reconcile.model import Slow

MOST_SLOTS = 1024


def detail(text: str) -> str:
    """Why it does not serve; the text itself where it is no JSON."""
    said = _fields(text)
    return str(said["detail"]) if said.get("detail") else text.strip()


def missing_slots(text: str) -> tuple[int, ...]:
    """Slots that it waits for."""
    slots = _fields(text).get("missing_slots")
    return tuple(slot for slot in slots if _is_slot(slot)) if isinstance(slots, list) else ()


def slow_slots(text: str) -> tuple[Slow, ...]:
    """Slots that compute longer than the others, by slot."""
    told = _fields(text).get("slow_slots")
    rows: list[Mapping[str, Any]] = [row for row in told if isinstance(row, Mapping)] if isinstance(told, list) else []
    found = {row["slot"]: float(row["factor"]) for row in rows if _is_slow(row.get("slot"), row.get("factor"))}
    return tuple(Slow(slot, round(factor, 1)) for slot, factor in sorted(found.items()))


def _is_slow(slot: Any, factor: Any) -> bool:
    return _is_slot(slot) and isinstance(factor, int | float) and 1 < factor < float("inf")


def _is_slot(slot: Any) -> bool:
    return isinstance(slot, int) and not isinstance(slot, bool) and 0 <= slot < MOST_SLOTS


def _fields(text: str) -> Mapping[str, Any]:
    try:
        said = json.loads(text)
    except (ValueError, RecursionError):
        return {}
    return said if isinstance(said, dict) else {}
