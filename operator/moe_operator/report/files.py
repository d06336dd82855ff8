"""The report's files in their folder: none written before all are made, and no file replaced that is not a report's."""

import os
import tempfile
from collections.abc import Mapping
from pathlib import Path

MARKS = {
    "strategy.json": b'"moe-operator.dev/strategy/v1"',
    "verification.json": b'"moe-operator.dev/verification/v1"',
    "implementation_guide.md": b"<!-- moe report -->",
    "verify.py": b'"""Derives strategy.json again by code of its own',
    "report.html": b'<meta name="generator" content="moe report">',
}
"""What each file has within its first bytes, by which a report's file is known."""

_HEAD_BYTES = 600


def others_files(folder: Path) -> tuple[Path, ...]:
    """Files and folders that a report would replace and that no report wrote."""
    return tuple(path for name in MARKS if os.path.lexists(path := folder / name) and not _is_a_reports(path))


def replace_all(folder: Path, contents: Mapping[str, str]) -> None:
    """Write every file beside its place first, then put all of them there. Raises OSError."""
    with tempfile.TemporaryDirectory(prefix=".moe-report-", dir=folder) as aside:
        for name, text in contents.items():
            (Path(aside) / name).write_text(text, encoding="utf-8", newline="\n")
        for name in contents:
            (Path(aside) / name).replace(folder / name)


def _is_a_reports(path: Path) -> bool:
    if path.is_symlink() or not path.is_file():
        return False
    with path.open("rb") as file:
        return MARKS[path.name] in file.read(_HEAD_BYTES)
