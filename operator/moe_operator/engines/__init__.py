"""Serving engines behind one resource: what starts them, tells that they serve, and says how fast, as data."""

from moe_operator.engines.command import Place, arguments, environment, files
from moe_operator.engines.engine import Engine, Images, Metrics, default_image, engine, own_images
from moe_operator.engines.violations import violations

__all__ = [
    "Engine",
    "Images",
    "Metrics",
    "Place",
    "arguments",
    "default_image",
    "engine",
    "environment",
    "files",
    "own_images",
    "violations",
]
