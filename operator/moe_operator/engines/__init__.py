"""Serving engines behind one resource: what starts them, tells that they serve, and says how fast, as data."""

from moe_operator.engines.command import Place, arguments, environment, files
from moe_operator.engines.engine import Engine, Metrics, engine
from moe_operator.engines.violations import violations

__all__ = ["Engine", "Metrics", "Place", "arguments", "engine", "environment", "files", "violations"]
