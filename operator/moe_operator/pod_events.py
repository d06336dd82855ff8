"""What events say of pods that are stuck before their containers: read only while there are such pods, and seldom.

A kubelet that cannot mount a volume or make a network leaves the pod's status as it is and posts an event.
"""

import logging
import time
from collections import defaultdict
from collections.abc import Iterable, Mapping
from datetime import datetime

from moe_operator.api import Api, ApiError
from moe_operator.cache import Key
from moe_operator.reconcile.delays import LOOK_AGAIN_S, Warnings, stuck
from moe_operator.reconcile.model import Object
from moe_operator.reconcile.objects import uid

log = logging.getLogger(__name__)

_SOON_S = 1.0
"""A look that comes this much too early counts as due."""


class PodEvents:
    """Warnings about the stuck pods of each deployment."""

    def __init__(self, api: Api) -> None:
        self._api = api
        self._known: dict[Key, tuple[float, Warnings]] = {}

    async def of(self, key: Key, pods: Iterable[Object], now: datetime) -> Warnings:
        """Warnings about those of a deployment's pods that are stuck; one list for all of them, if any."""
        uids = {uid(pod) for pod in pods if stuck(pod, now)}
        if not uids:
            self.forget(key)
            return {}
        read_at, known = self._known.get(key, (float("-inf"), {}))
        if time.monotonic() - read_at >= LOOK_AGAIN_S - _SOON_S:
            try:
                known = newest_first(await self._api.pod_warnings(key.namespace), uids)
            except (ApiError, TimeoutError) as error:
                log.warning("%s/%s: events of its pods cannot be read: %s", *key, error)
            self._known[key] = (time.monotonic(), known)
        return known

    def forget(self, key: Key) -> None:
        """Drop what is remembered of a deployment."""
        self._known.pop(key, None)


def newest_first(events: Iterable[Object], uids: Iterable[str]) -> Warnings:
    """Of the events about some pods "REASON: note", by uid. Events are those of events.k8s.io/v1."""
    wanted = set(uids)
    told: defaultdict[str, list[tuple[str, str]]] = defaultdict(list)
    for event in events:
        about = str((event.get("regarding") or {}).get("uid") or "")
        if about in wanted:
            told[about].append((_last_seen(event), f"{event.get('reason')}: {event.get('note') or ''}"))
    return {about: tuple(text for _, text in sorted(found, reverse=True)) for about, found in told.items()}


def _last_seen(event: Mapping[str, object]) -> str:
    """When an event was last seen; kubelets still count as core/v1 does: https://kubernetes.io/docs/reference/kubernetes-api/cluster-resources/event-v1/."""
    series = event.get("series")
    latest = series.get("lastObservedTime") if isinstance(series, Mapping) else None
    return str(latest or event.get("deprecatedLastTimestamp") or event.get("eventTime") or "")
