"""Events are read only of deployments with stuck pods, once in a while, and what cannot be read is done without."""

import asyncio
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from moe_operator import pod_events
from moe_operator.api import RefusedError
from moe_operator.cache import Key
from moe_operator.pod_events import PodEvents

NOW = datetime(2026, 11, 21, 12, tzinfo=UTC)
KEY = Key("team", "m")
EVENT = {"regarding": {"uid": "stuck"}, "reason": "FailedMount", "note": "no such volume"}


class Api:
    """An API server that counts how often it is asked."""

    def __init__(self, error: Exception | None = None) -> None:
        self.asked: list[str] = []
        self.error = error

    async def pod_warnings(self, namespace: str) -> tuple[dict[str, Any], ...]:
        self.asked.append(namespace)
        if self.error:
            raise self.error
        return (EVENT, {**EVENT, "regarding": {"uid": "of another"}})


def pod(uid: str, seconds: float) -> dict[str, Any]:
    """A pod that was bound so many seconds ago and has no containers yet."""
    since = (NOW - timedelta(seconds=seconds)).isoformat()
    bound = {"type": "PodScheduled", "status": "True", "lastTransitionTime": since}
    return {"metadata": {"uid": uid, "name": uid}, "status": {"phase": "Pending", "conditions": [bound]}}


def ask(events: PodEvents, *pods: dict[str, Any]) -> Any:
    return asyncio.run(events.of(KEY, pods, NOW))


def test_nobody_is_asked_while_no_pod_is_stuck() -> None:
    api = Api()
    assert ask(PodEvents(api), pod("young", 3)) == {}  # type: ignore[arg-type]  # as far as it is used
    assert api.asked == []


def test_one_list_serves_all_stuck_pods_for_some_seconds(monkeypatch: pytest.MonkeyPatch) -> None:
    api, clock = Api(), [100.0]
    monkeypatch.setattr(pod_events.time, "monotonic", lambda: clock[0])
    events = PodEvents(api)  # type: ignore[arg-type]  # likewise
    for _ in range(5):
        assert ask(events, pod("stuck", 20), pod("also", 20)) == {"stuck": ("FailedMount: no such volume",)}
    assert api.asked == ["team"]
    clock[0] += 10
    ask(events, pod("stuck", 30))
    assert api.asked == ["team", "team"]
    assert ask(events, pod("young", 1)) == {}, "what is past is forgotten"


def test_an_operator_that_may_not_read_events_goes_on_without(caplog: pytest.LogCaptureFixture) -> None:
    refused = RefusedError(403, 'events is forbidden: User "moe" cannot list resource "events"')
    assert ask(PodEvents(Api(refused)), pod("stuck", 20)) == {}  # type: ignore[arg-type]  # likewise
    assert "team/m: events of its pods cannot be read: events is forbidden" in caplog.text
