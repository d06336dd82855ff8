"""Outlives its parent to clean up after it: run with a pipe as standard input, it waits until the other end closes.

    python reaper.py PLAN.json    # {"cgroups": [DIR…], "sysctls": {PATH: VALUE…}, "folders": [DIR…]}

So what the kernel does not take away with a process is gone also where that process was killed.
"""

import json
import shutil
import sys
import time
from contextlib import suppress
from pathlib import Path

DEADLINE_S = 30


def main() -> None:
    """Wait for the end of the parent, then put everything back."""
    plan = json.loads(Path(sys.argv[1]).read_text())
    sys.stdin.read()
    for path, value in plan["sysctls"].items():
        with suppress(OSError):
            Path(path).write_text(value)
    for cgroup in plan["cgroups"]:
        _remove_cgroup(Path(cgroup))
    for folder in plan["folders"]:
        shutil.rmtree(folder, ignore_errors=True)


def _remove_cgroup(top: Path) -> None:
    """Remove a cgroup with all below it, as soon as the kernel has ended its processes."""
    give_up = time.monotonic() + DEADLINE_S
    while top.exists() and time.monotonic() < give_up:
        for folder in sorted(top.rglob("*/"), reverse=True):
            with suppress(OSError):
                folder.rmdir()
        with suppress(OSError):
            top.rmdir()
            return
        time.sleep(0.05)


if __name__ == "__main__":
    main()
