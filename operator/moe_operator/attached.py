"""What a spec keeps in ConfigMaps: a model's config.json, measured expert loads. Read again when some seconds old."""

import json
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from moe_operator.cache import Key
from moe_operator.reconcile.model import Object

READ_AGAIN_S = 10.0
SOURCES = (("model", "configFrom"), ("parallelism", "expertLoadsFrom"))
"""Section and field of each reference."""

Content = Mapping[str, Any] | None
"""A JSON object; None where it is not named, absent or not JSON."""
Reference = tuple[str, str]
"""Name of a ConfigMap, and a key of it."""
Get = Callable[[str, str, str, str], Awaitable[Object | None]]
"""Reads an object by apiVersion, kind, namespace and name."""


@dataclass
class Attached:
    """The ConfigMaps of all deployments, as far as they are named."""

    get: Get
    _read: dict[Key, dict[Reference, tuple[float, Content]]] = field(default_factory=dict)

    async def contents(self, key: Key, deployment: Object) -> tuple[Content, ...]:
        """What each of the sources holds, in their order."""
        references = [_reference(deployment, *source) for source in SOURCES]
        known, found = self._read.pop(key, {}), {}
        for reference in references:
            if reference is not None and reference not in found:
                found[reference] = await self._content(key.namespace, reference, known.get(reference))
        if found:
            self._read[key] = found
        return tuple(None if reference is None else found[reference][1] for reference in references)

    def read_again_s(self, key: Key) -> float | None:
        """Seconds after which what a deployment names is to be read again; None where it names nothing."""
        return READ_AGAIN_S if key in self._read else None

    def forget(self, key: Key) -> None:
        """A deployment is gone."""
        self._read.pop(key, None)

    async def _content(
        self, namespace: str, reference: Reference, known: tuple[float, Content] | None
    ) -> tuple[float, Content]:
        if known is not None and time.monotonic() - known[0] < READ_AGAIN_S:
            return known
        holder = await self.get("v1", "ConfigMap", namespace, reference[0])
        return time.monotonic(), _json_object(((holder or {}).get("data") or {}).get(reference[1]))


def _reference(deployment: Object, section: str, source: str) -> Reference | None:
    held = ((deployment.get("spec") or {}).get(section) or {}).get(source) or {}
    reference = held.get("configMapKeyRef") if isinstance(held, Mapping) else None
    return (str(reference.get("name")), str(reference.get("key"))) if isinstance(reference, Mapping) else None


def _json_object(text: Any) -> Content:
    try:
        value = json.loads(text)
    except (TypeError, ValueError):
        return None
    return value if isinstance(value, dict) else None
