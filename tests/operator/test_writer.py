"""Writes on a real API server, and what the operator knows after them."""

import asyncio

import pytest
from control_plane import ControlPlane

from moe_operator.access import from_kubeconfig
from moe_operator.api import Api
from moe_operator.cache import Cache, Change, Key
from moe_operator.reconcile.children import deletion
from moe_operator.reconcile.model import Object, Write
from moe_operator.resources import resource, watched
from moe_operator.writer import Writer

pytestmark = pytest.mark.slow

MADE: Object = {
    "apiVersion": "v1",
    "kind": "ConfigMap",
    "metadata": {"name": "made", "namespace": "default", "labels": {"moe-operator.dev/deployment": "m"}},
}


def test_what_is_deleted_is_told_at_once_since_the_watch_brings_no_news_of_it(plane: ControlPlane) -> None:
    told: list[tuple[str, Change]] = []

    async def make_and_delete() -> None:
        async with Api(from_kubeconfig(plane.kubeconfig)) as api:
            cache = Cache(watched(frozenset()))
            writer = Writer(api, cache, lambda: True, lambda kind, change: told.append((kind, change)))
            await writer.write([Write("apply", MADE)])
            known = cache.find(MADE)
            assert known is not None
            await writer.write([deletion(known)])
            assert cache.find(MADE) is None
            late = int(known["metadata"]["resourceVersion"]) + 1
            assert cache[resource("ConfigMap")].remove(Key("default", "made"), late) is None, "the watch's word of it"

    asyncio.run(make_and_delete())
    assert [(kind, change.after) for kind, change in told] == [("ConfigMap", None)]
