"""Placement: which node each slot of a replica goes to, so that the groups that talk most lie near together."""

from moe_operator.placement.nodes import Node, Taint, nodes_from_objects, pod_requests, with_slots
from moe_operator.placement.place import Placement, Unplaceable, place

__all__ = ["Node", "Placement", "Taint", "Unplaceable", "nodes_from_objects", "place", "pod_requests", "with_slots"]
