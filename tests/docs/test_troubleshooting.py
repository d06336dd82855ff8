"""Every reason that a condition, an event or a violation can carry has its section, and every section its reason."""

import ast
import re
import tomllib
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "troubleshooting.md"
WORD = re.compile(r"[A-Z][A-Za-z0-9]+$")

POSITIONS = {"Violation": (1,), "Finding": (0, 2), "Failure": (0,), "_event": (1,), "note": (1,)}
"""Which arguments of these calls are reasons."""
TABLES = {"causes.py": {"_DISRUPTIONS"}}
"""Module-level tables that hold reasons."""
WORDINGS = ROOT / "operator" / "moe_operator" / "reconcile" / "wordings.toml"
"""What others say, each with its reason."""
PASSED_ON = {
    "audit": "verdicts of moe audit, which are no reasons",
    "code": "of a tuple (reason, message) of the rules, collected as a tuple; or an argument passed on",
    "reason": "of a table or of _event's own argument",
    "cause": "a Failure's, kept; or Restarting",
    "row.reason": "of the table of wordings",
    "found.reason": "of the table of wordings, or a Finding's",
    "refusal.reason": "of the table of wordings",
    "trouble.reason": "a Failure's",
    "outcome.trouble.reason": "a Failure's",
    "failure.reason": "a Failure's",
    "record.last_reason": "a Failure's, kept",
    "record.failed": "a Failure's, kept",
    "reason(picture.refusal)": "a Violation's",
    "reason(picture.gangless)": "a Violation's",
    "now['reason']": "a Finding's, in an event",
    "violation.code": "a Violation's",
    "v.code": "a Violation's",
}
"""Reasons that are not written where they are used, and whence they come: anything else fails, so that none is missed."""


def reasons() -> set[str]:
    found: set[str] = {str(row["reason"]) for row in tomllib.loads(WORDINGS.read_text())["wording"]}
    for path in sorted((ROOT / "operator").rglob("*.py")):
        if "audit" not in path.parts:
            found |= set(_reasons(path))
    return found


def _reasons(path: Path) -> Iterator[str]:
    tree = ast.parse(path.read_text())
    constants = {
        target.id: node.value
        for node in tree.body
        if isinstance(node, ast.Assign)
        for target in node.targets
        if isinstance(target, ast.Name)
    }
    assigned = _assigned(tree)
    for name in TABLES.get(path.name, set()):
        yield from _of_table(constants[name])
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and _called(node) in POSITIONS:
            for position in POSITIONS[_called(node)]:
                if len(node.args) > position:
                    yield from _words(node.args[position], constants | assigned, path)
        elif isinstance(node, ast.Tuple) and path.name == "rules.py" and len(node.elts) == 2:
            first = node.elts[0]
            if isinstance(first, ast.Constant) and WORD.match(str(first.value)):
                yield str(first.value)


def _assigned(tree: ast.Module) -> dict[str, ast.expr]:
    """What is assigned to a name by a choice of words."""
    return {
        node.targets[0].id: node.value
        for node in ast.walk(tree)
        if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name) and isinstance(node.value, ast.IfExp)
    }


def _called(node: ast.Call) -> str:
    return node.func.id if isinstance(node.func, ast.Name) else getattr(node.func, "attr", "")


def _words(given: ast.expr, constants: dict[str, ast.expr], path: Path) -> Iterator[str]:
    if isinstance(given, ast.IfExp):
        yield from _words(given.body, constants, path)
        yield from _words(given.orelse, constants, path)
    elif isinstance(given, ast.Constant):
        yield str(given.value)
    elif isinstance(given, ast.Name) and isinstance(constants.get(given.id), ast.Constant | ast.IfExp):
        yield from _words(constants[given.id], constants, path)
    else:
        assert ast.unparse(given) in PASSED_ON, f"{path}:{given.lineno}: {ast.unparse(given)} is no reason as written"


def _of_table(table: ast.expr) -> Iterator[str]:
    assert isinstance(table, ast.Dict)
    for value in table.values:
        first = value.elts[0] if isinstance(value, ast.Tuple) else value
        assert isinstance(first, ast.Constant)
        yield str(first.value)


def sections() -> list[str]:
    return re.findall(r"^### (\w+)$", PAGE.read_text(), re.MULTILINE)


def test_every_reason_has_a_section_and_every_section_a_reason() -> None:
    written = sections()
    assert len(written) == len(set(written)), "a reason has two sections"
    known = reasons()
    assert len(known) > 80, "the reasons are not found in the code any more"
    assert sorted(known - set(written)) == [], "reasons without a section in docs/troubleshooting.md"
    assert sorted(set(written) - known) == [], "sections of reasons that nothing gives any more"


def test_every_section_says_what_it_means_and_what_to_do() -> None:
    parts = re.split(r"^### (\w+)$", PAGE.read_text(), flags=re.MULTILINE)
    for name, text in zip(parts[1::2], parts[2::2], strict=True):
        body = text.partition("\n## ")[0].strip()
        assert len(body) > 40, f"{name} is hardly explained"
