"""What a person may have meant: the labels and devices that nodes have, nearest to those that none has."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from difflib import get_close_matches

from moe_operator.placement.nodes import Node

SHOWN = 3
_ALIKE = 0.5
"""Similarity of two names that may be taken for one another: difflib's ratio."""


def no_device(resource: str, nodes: Sequence[Node]) -> str:
    """That no node offers a resource, and which devices they do offer."""
    offered = sorted({name for node in nodes for name, amount in node.allocatable.items() if amount and "/" in name})
    if not offered:
        return f"no node offers {resource}: is its device plugin running?"
    return f"no node offers {resource}; nodes offer {', '.join(offered[:SHOWN])}: see spec.hardware.resourceName"


def no_label(selector: Mapping[str, str], nodes: Sequence[Node]) -> Iterator[str]:
    """Labels of a selector that not a single node has, each with the nearest that there are."""
    for key, value in selector.items():
        if not nodes or any(node.labels.get(key) == value for node in nodes):
            continue
        others = {f"{key}={node.labels[key]}" for node in nodes if key in node.labels}
        carried = others or {f"{name}={text}" for node in nodes for name, text in node.labels.items()}
        yield f"no node has the label {key}={value}{nearest(f'{key}={value}', carried)}"


def nearest(name: str, carried: Iterable[str]) -> str:
    """The names most like one that is not there, as the end of a sentence; empty where none is."""
    alike = get_close_matches(name, sorted(carried), SHOWN, _ALIKE)
    return f"; the nearest that nodes have: {', '.join(alike)}" if alike else ""
