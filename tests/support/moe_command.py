"""The `moe` command: called in this process, which is quick, or run as a process of its own, as a user runs it."""

import contextlib
import io
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn
from unittest import mock

from moe_operator.cli import main

ROOT = Path(__file__).parents[2]
DEADLINE_S = 120

Moe = Callable[..., subprocess.CompletedProcess[str]]
"""Takes the arguments of `moe`, and `stdin`, the text on standard input."""


def call(*arguments: object, stdin: str = "") -> subprocess.CompletedProcess[str]:
    """Calls the entry point of `moe ARGUMENTS…` in the checkout; what it raises beyond SystemExit is a bug and goes on."""
    words = ["moe", *map(str, arguments)]
    printed, complained = _stream(), _stream()
    with (
        mock.patch.multiple(sys, argv=words, stdin=_stream(stdin)),
        mock.patch.object(os, "execv", _become_another),
        mock.patch.dict(os.environ, COLUMNS="80"),  # as where the output is no terminal
        contextlib.chdir(ROOT),
        contextlib.redirect_stdout(printed),
        contextlib.redirect_stderr(complained),
    ):
        status = _exit_status()
    return subprocess.CompletedProcess(words, status, _text(printed), _text(complained))


def run(*arguments: object, stdin: str = "") -> subprocess.CompletedProcess[str]:
    """Runs `moe ARGUMENTS…` in the checkout as its own process."""
    command = [Path(sys.executable).with_name("moe"), *map(str, arguments)]
    return subprocess.run(
        command, input=stdin, capture_output=True, text=True, check=False, cwd=ROOT, timeout=DEADLINE_S
    )


def _exit_status() -> int:
    try:
        main()
    except SystemExit as ended:
        return ended.code if isinstance(ended.code, int) else 0
    return 0


def _become_another(program: str, arguments: list[str]) -> NoReturn:
    raise AssertionError(f"{program} {arguments} would take the place of the tests: use moe_process")


def _stream(text: str = "") -> io.TextIOWrapper:
    return io.TextIOWrapper(io.BytesIO(text.encode()), encoding="utf-8")


def _text(stream: io.TextIOWrapper) -> str:
    stream.seek(0)
    return stream.read()
