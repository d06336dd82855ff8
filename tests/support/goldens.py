"""Golden files: texts that a change must give again, byte by byte."""

from collections.abc import Callable
from pathlib import Path

Golden = Callable[[Path, str], None]
"""Compares a text with a file."""
