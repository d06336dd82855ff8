"""Every command of a page's `console` blocks is run: here, by a test that tests/docs/commands.toml names, or nowhere.

Nowhere are blocks marked with what they need (```console needs-cluster). Words after `console`:
needs-cluster, needs-gpus, needs-network, needs-minutes   not run
exact       what the block shows is what the commands print; … stands for anything
exits-1     the last command is refused
"""

import os
import re
import subprocess
import sys
import tomllib
from dataclasses import dataclass
from pathlib import Path

import pytest

from moe_operator import cli
from moe_operator.kubectl import app as kubectl

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
ELSEWHERE = tomllib.loads(Path(__file__).with_name("commands.toml").read_text())["command"]
NEEDS = {"cluster", "gpus", "network", "minutes"}
WORDS = {f"needs-{need}" for need in NEEDS} | {"exact", "exits-1"}
DEADLINE_S = 90
_BLOCK = re.compile(r"^```console([^\n]*)\n(.*?)^```", re.MULTILINE | re.DOTALL)


@dataclass(frozen=True)
class Block:
    """One console block."""

    page: str
    line: int
    words: frozenset[str]
    text: str

    @property
    def commands(self) -> list[str]:
        """Commands without their comments; a backslash continues one on the next line."""
        return [re.sub(r"\s+# .*", "", line[2:]).strip() for line in self._lines if line.startswith("$ ")]

    @property
    def output(self) -> str:
        return "".join(f"{line}\n" for line in self._lines if not line.startswith("$ "))

    @property
    def _lines(self) -> list[str]:
        return re.sub(r"\\\n(> ?|\s+)?", "", self.text).splitlines()

    @property
    def is_run_here(self) -> bool:
        known = {entry["text"] for entry in ELSEWHERE}
        return not self.words & {f"needs-{need}" for need in NEEDS} and not set(self.commands) <= known


def blocks() -> list[Block]:
    found = []
    for page in PAGES:
        text = page.read_text()
        for match in _BLOCK.finditer(text):
            line = text[: match.start()].count("\n") + 1
            found.append(Block(page.name, line, frozenset(match[1].split()), match[2]))
    return found


def name_of(block: Block) -> str:
    return f"{block.page}-{block.line}"


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A folder with the checkout's examples, in which commands may write."""
    for name in ("examples", "crds"):
        (tmp_path / name).symlink_to(ROOT / name)
    return tmp_path


@pytest.mark.slow
@pytest.mark.parametrize("block", [block for block in blocks() if block.is_run_here], ids=name_of)
def test_commands_of_pages_work_as_shown(block: Block, checkout: Path) -> None:
    assert block.commands, "a console block without a command"
    script = "set -e -o pipefail\n" + "\n".join(block.commands)
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    done = subprocess.run(
        ["bash", "-c", script],
        cwd=checkout,
        env={**os.environ, "PATH": path},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
        timeout=DEADLINE_S,
    )
    assert done.returncode == ("exits-1" in block.words), done.stdout
    if "exact" in block.words:
        wanted = ".*".join(map(re.escape, block.output.split("…")))
        assert re.fullmatch(wanted, done.stdout, re.DOTALL), f"it prints\n{done.stdout}"


def test_every_command_of_ours_on_a_page_is_one() -> None:
    programs = {"moe": cli.app, "kubectl moe": kubectl.app}
    known = {name: {c.name or c.callback.__name__ for c in app.registered_commands} for name, app in programs.items()}
    known["moe"] |= {group.typer_instance.info.name for group in cli.app.registered_groups}
    for page in PAGES[1:]:
        for program, command in re.findall(r"(?:`|\$ )((?:kubectl )?moe) (\w+)", page.read_text()):
            assert command in known[program], f"{page.name}: {program} {command}"


@pytest.mark.parametrize("block", blocks(), ids=name_of)
def test_a_block_says_only_what_is_understood(block: Block) -> None:
    assert block.words <= WORDS


@pytest.mark.parametrize("entry", ELSEWHERE, ids=lambda entry: entry["text"][:40])
def test_commands_that_are_run_elsewhere_are_still_on_a_page_and_their_test_is_there(entry: dict[str, str]) -> None:
    assert any(entry["text"] in block.commands for block in blocks()), "no page has it any more"
    assert entry.get("needs") in NEEDS or (ROOT / entry["run_by"]).exists()


def test_a_new_command_that_nobody_marked_is_run() -> None:
    block = Block("new.md", 1, frozenset(), "$ moe nonsense   # a comment\nsaid\n$ a \\\n> b\n")
    assert block.is_run_here
    assert block.commands == ["moe nonsense", "a b"]
    assert block.output == "said\n"
    assert not Block("new.md", 1, frozenset({"needs-gpus"}), "$ moe nonsense\n").is_run_here
