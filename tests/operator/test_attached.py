"""What a spec keeps in ConfigMaps is read when it is named, once for some seconds, and as nothing where it is no JSON."""

import asyncio
from typing import Any

from moe_operator.attached import Attached
from moe_operator.cache import Key

KEY = Key("team", "m")


def named(section: str, source: str, name: str) -> dict[str, Any]:
    return {section: {source: {"configMapKeyRef": {"name": name, "key": "k"}}}}


class ConfigMaps:
    """ConfigMaps by name, and which were asked for."""

    def __init__(self, **held: str) -> None:
        self.held = held
        self.asked: list[str] = []

    async def get(self, version: str, kind: str, namespace: str, name: str) -> dict[str, Any] | None:
        assert (version, kind, namespace) == ("v1", "ConfigMap", "team")
        self.asked.append(name)
        return {"data": {"k": self.held[name]}} if name in self.held else None


def contents(attached: Attached, **spec: Any) -> tuple[Any, ...]:
    return asyncio.run(attached.contents(KEY, {"spec": spec}))


def test_the_model_and_the_loads_are_read_where_they_are_named() -> None:
    maps = ConfigMaps(model='{"a": 1}', loads='{"b": 2}')
    attached = Attached(maps.get)
    both = named("model", "configFrom", "model") | named("parallelism", "expertLoadsFrom", "loads")
    assert contents(attached, **both) == ({"a": 1}, {"b": 2})
    assert contents(attached, **named("parallelism", "expertLoadsFrom", "loads")) == (None, {"b": 2})
    assert maps.asked == ["model", "loads"], "what was read a moment ago is not read again"
    assert attached.read_again_s(KEY) is not None


def test_a_spec_that_names_nothing_asks_for_nothing() -> None:
    maps = ConfigMaps(model="{}")
    attached = Attached(maps.get)
    contents(attached, **named("model", "configFrom", "model"))
    assert contents(attached, model={}, parallelism=None) == (None, None)
    assert attached.read_again_s(KEY) is None
    assert maps.asked == ["model"]


def test_another_name_is_read_at_once_and_a_deployment_that_is_gone_is_forgotten() -> None:
    maps = ConfigMaps(monday='{"day": 1}', tuesday='{"day": 2}')
    attached = Attached(maps.get)
    for name in ("monday", "tuesday"):
        contents(attached, **named("parallelism", "expertLoadsFrom", name))
    assert maps.asked == ["monday", "tuesday"]
    attached.forget(KEY)
    assert attached.read_again_s(KEY) is None


def test_what_is_absent_or_no_json_object_is_none() -> None:
    attached = Attached(ConfigMaps(text="no JSON", listed="[1]").get)
    for name in ("absent", "text", "listed"):
        assert contents(attached, **named("model", "configFrom", name)) == (None, None)
