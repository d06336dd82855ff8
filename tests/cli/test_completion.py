"""Completion of `moe` in bash: the script that docs/first-deployment.md has people source, and what it offers then."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

BASH = shutil.which("bash")


def offered(line: str, tmp_path: Path) -> list[str]:
    """What bash offers after a line, with the project's script sourced."""
    words = line.split(" ")
    script = f"""
eval "$(moe --show-completion bash)"
COMP_WORDS=({" ".join(word or "''" for word in words)})
COMP_CWORD={len(words) - 1}
_moe_completion moe
printf '%s\\n' "${{COMPREPLY[@]}}"
"""
    environment = {**os.environ, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}", "HOME": str(tmp_path)}
    assert BASH is not None
    done = subprocess.run(
        [BASH, "--norc", "-c", script], env=environment, capture_output=True, text=True, check=True, timeout=60
    )
    return done.stdout.split()


@pytest.mark.slow
@pytest.mark.skipif(BASH is None, reason="no bash on this machine")
def test_bash_completes_commands_and_options(tmp_path: Path) -> None:
    assert offered("moe pl", tmp_path) == ["plan"]
    assert "--filename" in offered("moe plan --f", tmp_path)
