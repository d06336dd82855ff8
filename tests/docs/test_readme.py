import re
from pathlib import Path

import pytest
from moe_command import Moe

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]


def readme_manifest() -> str:
    (manifest,) = re.findall(r"```yaml\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    return str(manifest)


def consoles() -> list[str]:
    return re.findall(
        r"```console\n\$ [^\n]*moe plan -f moedeployment.yaml\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL
    )


def test_the_readme_shows_the_plan_of_its_manifest(moe: Moe) -> None:
    assert moe("plan", "-f", "-", stdin=readme_manifest()).stdout == consoles()[0]


def test_the_readme_shows_the_refusal_of_its_broken_manifest(moe: Moe) -> None:
    broken = readme_manifest().replace("ep: 16, tp: 2", "ep: 24, tp: 3")
    done = moe("plan", "-f", "-", stdin=broken)
    assert done.returncode == 1
    assert done.stderr.replace("<stdin>", "moedeployment.yaml") == consoles()[1]


def test_the_readme_names_every_command(moe: Moe) -> None:
    help_text = moe("--help").stdout
    commands = re.findall(r"^│ (\w+) ", help_text, re.MULTILINE)
    assert commands
    readme = (ROOT / "README.md").read_text()
    assert [name for name in commands if f"`moe {name}" not in readme] == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page: Path) -> None:
    links = re.findall(r"\]\((?!https?://|#)([^)#]+)", page.read_text())
    assert [link for link in links if not (page.parent / link).exists()] == []
