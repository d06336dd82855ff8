from pathlib import Path

import pytest
from moe_command import Moe

ROOT = Path(__file__).parents[2]
STRATEGIES = ROOT / "examples" / "strategies"


def test_each_claim_stands_beside_its_computed_value_verdict_and_formula(moe: Moe) -> None:
    done = moe("audit", "-", stdin="# EP8 TP1\n- Total GPUs: 16\n- Expert Parallelism: 8\n- Tensor Parallelism: 1\n")
    assert done.returncode == 0, done.stderr
    assert "Total GPUs: 16" in done.stdout
    assert "off ×2, too high" in done.stdout
    assert "ep 8 × tp 1" in done.stdout


def test_the_seeds_are_audited_within_100_columns_and_their_contradictions_named(moe: Moe) -> None:
    done = moe("audit", *(path.relative_to(ROOT) for path in sorted(STRATEGIES.glob("S1*.md"))))
    assert done.returncode == 0, done.stderr
    assert max(map(len, done.stdout.splitlines())) <= 100
    contradictions = done.stdout.partition("contradictions between claims")[2]
    assert "8.39 MB" in contradictions
    assert "83.9 %" in contradictions
    assert "0.02 %" in contradictions


def test_a_document_without_claims_says_so(moe: Moe) -> None:
    done = moe("audit", "-", stdin="nothing to see\n")
    assert (done.returncode, done.stdout.strip()) == (0, "<stdin>\n\n<stdin>: no claim found that can be recomputed")


@pytest.mark.parametrize(("arguments", "status"), [(("audit",), 2), (("audit", "no-such-file.md"), 2)])
def test_wrong_use_of_audit_exits_2(moe: Moe, arguments: tuple[str, ...], status: int) -> None:
    done = moe(*arguments)
    assert done.returncode == status
    assert "Traceback" not in done.stderr


def test_a_document_that_is_not_text_is_refused(moe: Moe, tmp_path: Path) -> None:
    document = tmp_path / "strategy.md"
    document.write_bytes(b"\xff\xfe\x00")
    done = moe("audit", document)
    assert done.returncode == 1
    assert f"{document}: is not UTF-8 text (byte 0)" in done.stderr
