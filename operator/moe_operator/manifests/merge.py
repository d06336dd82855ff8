"""Strategic merge: an override laid over a pod, element by element where a list has a merge key.

null removes a field. The directives are those of Kubernetes: `$patch: replace` and `$patch: delete` in a mapping or a
list's element. https://kubernetes.io/docs/tasks/manage-kubernetes-objects/update-api-object-kubectl-patch/
"""

import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

_DATA = tomllib.loads(Path(__file__).with_name("merge_keys.toml").read_text())
_KEYS: Mapping[str, str] = _DATA["keys"]
_UNIONS = frozenset(_DATA["unions"]["lists"])

PATCH = "$patch"


class MergeError(ValueError):
    """The override does not fit. `path` is the field, below what was merged."""

    def __init__(self, path: str, why: str) -> None:
        self.path = path
        self.why = why
        super().__init__(f"{path}: {why}")


def merge(base: Mapping[str, Any], override: Mapping[str, Any], path: str = "") -> dict[str, Any]:
    """The base with the override laid over it; neither is changed. Raises MergeError."""
    directive = override.get(PATCH, "merge")
    if directive not in ("merge", "replace"):
        raise MergeError(path or PATCH, f"{PATCH} must be replace, delete or merge, not {directive!r}")
    merged = {} if directive == "replace" else dict(base)
    for key, value in override.items():
        if key == PATCH:
            continue
        if value is None or _deletes(value):
            merged.pop(key, None)
        else:
            merged[key] = _merged(merged.get(key), value, key, f"{path}.{key}" if path else key)
    return merged


def _merged(old: Any, new: Any, key: str, path: str) -> Any:
    if isinstance(new, Mapping):
        if not isinstance(old, Mapping | None):
            raise MergeError(path, f"must be {_kind(old)}, not a mapping")
        return merge(old or {}, new, path)
    if old is not None and _kind(old) != _kind(new):
        raise MergeError(path, f"must be {_kind(old)}, not {_kind(new)}")
    if isinstance(new, list) and key in _KEYS:
        return _merge_list(old or [], new, key, path)
    return new


def _merge_list(base: Sequence[Any], override: Sequence[Any], field: str, path: str) -> list[Any]:
    """Elements in the base's order, then the new ones in theirs."""
    key = _KEYS[field]
    found = {element[key]: element for element in base}
    for i, element in enumerate(override):
        where = f"{path}[{i}]"
        if isinstance(element, Mapping) and element.get(PATCH) == "replace" and key not in element:
            found.clear()
            continue
        name = _name(element, key, where)
        if _deletes(element):
            found.pop(name, None)
        elif field in _UNIONS and name in found and not element.keys() & found[name].keys() - {key}:
            found[name] = merge({}, element, where)
        else:
            found[name] = merge(found.get(name, {}), element, where)
    return list(found.values())


def _name(element: Any, key: str, path: str) -> Any:
    if not isinstance(element, Mapping):
        raise MergeError(path, f"must be a mapping, not {_kind(element)}")
    name = element.get(key)
    if not isinstance(name, str | int):
        raise MergeError(path, f"needs {key}, which tells the elements of the list apart")
    return name


def _deletes(value: Any) -> bool:
    return isinstance(value, Mapping) and value.get(PATCH) == "delete"


def _kind(value: Any) -> str:
    if isinstance(value, Mapping):
        return "a mapping"
    if isinstance(value, list):
        return "a list"
    return "a single value"
