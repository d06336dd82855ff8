import json
import math
import os
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from moe_plan.audit import Audit, Verdict, audit_document, audit_rows, find_contradictions
from moe_plan.audit.evaluate import NotArithmeticError, evaluate, parse
from moe_plan.catalogue.models import load_model
from moe_plan.config import read_config
from moe_plan.errors import PlanError
from moe_plan.experts import deal
from moe_plan.layout import Layout
from moe_plan.memory import rank_params
from moe_plan.model import ModelShape
from moe_plan.spec import WeightDtype
from moe_plan.stages import balance, make_stages

STRATEGIES = Path(__file__).parents[2] / "examples" / "strategies"
GOLDEN = Path(__file__).parent / "audit_golden"
SEEDS = ("S1-ep64-tp2-guide", "S1-ep64-tp2-summary", "S2-ep64-tp2-optimized", "S3-ep16-tp4-pp2", "S4-ep8-tp4-pp4")

FIFTH = """# Serving Mixtral on one node

The model has 32 layers, 8 experts in each layer and top-2 routing over SwiGLU experts.

## Hardware configuration
- **Number of GPUs**: 8, all in one node
- **GPU Memory**: 80 GB
- **Peak compute**: 989 TFLOPS
- **Memory bandwidth**: 3.35 TB/s

## Model configuration
| field | value |
|---|---|
| hidden size | 4096 |
| FFN width | 14336 |
| attention heads | 32 |
| precision | BF16 |

```yaml
batch_size: 64
sequence_length: 2048
```

## Layout
Expert parallelism: 4, tensor parallelism: 2.
Each GPU holds 2 experts. 4 × 2 = 9 GPUs.

## Memory
- Attention weights: 4.3 GB
- Expert weights: 11.27 GB
- Total: 95 GB per GPU

## Results
- Throughput: 2,000,000 tokens/s
- Latency: 1 ms per token
- About 25% of the experts active
"""


def audit_of(name: str) -> Audit:
    return audit_document(f"{name}.md", (STRATEGIES / f"{name}.md").read_text(encoding="utf-8"))


def verdict_on(audit: Audit, quantity: str, basis: str = "model", line: int | None = None) -> Verdict:
    found = [v for v in audit.verdicts if (v.quantity, v.basis) == (quantity, basis) and line in (None, v.line)]
    assert found, f"no verdict on {quantity} by {basis}"
    return found[0]


def shape_of(name: str) -> ModelShape:
    return read_config(load_model(name).config, name, WeightDtype.AUTO)


def rounded(value: Any) -> Any:
    if isinstance(value, float):
        return float(f"{value:.6g}") if math.isfinite(value) else str(value)
    if isinstance(value, dict):
        return {key: rounded(entry) for key, entry in value.items()}
    return [rounded(entry) for entry in value] if isinstance(value, list | tuple) else value


@pytest.mark.parametrize("name", SEEDS)
def test_every_verdict_on_the_published_strategies_is_as_checked_by_hand(name: str) -> None:
    found = rounded(asdict(audit_of(name)))
    path = GOLDEN / f"{name}.json"
    if os.environ.get("REWRITE_GOLDEN"):
        path.write_text(json.dumps(found, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    assert found == json.loads(path.read_text(encoding="utf-8"))


@pytest.mark.parametrize("name", SEEDS)
def test_no_number_of_the_published_strategies_is_passed_over(name: str) -> None:
    assert audit_of(name).unread == ()


def test_more_than_sixty_numbers_are_judged() -> None:
    judged = {(name, v.line, v.quantity, v.claimed) for name in SEEDS for v in audit_of(name).verdicts}
    assert len(judged) > 60


@pytest.mark.parametrize(
    ("name", "line", "quantity", "basis", "said"),
    [
        ("S1-ep64-tp2-guide", 59, "attention_weights", "model", "off ×4, too low"),
        ("S1-ep64-tp2-guide", 60, "expert_weights", "model", "holds"),
        ("S1-ep64-tp2-guide", 72, "compute_share", "model", "off ×1,085, too high"),
        ("S1-ep64-tp2-guide", 72, "compute_share", "own", "holds"),
        ("S1-ep64-tp2-summary", 53, "attention_weights", "model", "off ×33.6, too low"),
        ("S1-ep64-tp2-summary", 56, "memory_total", "own", "holds"),
        ("S2-ep64-tp2-optimized", 8, "ep", "layout", "impossible ×4"),
        ("S2-ep64-tp2-optimized", 91, "arithmetic", "arithmetic", "off ×3.99, too low"),
        ("S2-ep64-tp2-optimized", 164, "token_latency", "model", "off ×7.83, too high"),
        ("S3-ep16-tp4-pp2", 39, "ep_peers", "layout", "off"),
        ("S3-ep16-tp4-pp2", 136, "batch_time", "own", "off ×10.7, too low"),
        ("S4-ep8-tp4-pp4", 69, "memory_total", "own", "holds"),
        ("S4-ep8-tp4-pp4", 69, "memory_share", "own", "holds"),
        ("S4-ep8-tp4-pp4", 89, "active_share", "model", "off ×8, too high"),
        ("S4-ep8-tp4-pp4", 97, "bubble", "model", "off ×1.71, too low"),
        ("S4-ep8-tp4-pp4", 128, "throughput", "own parameters", "impossible ×2.87, too high"),
        ("S4-ep8-tp4-pp4", 186, "total_flops", "model", "impossible ×77, too high"),
    ],
)
def test_the_best_known_claims_are_judged(name: str, line: int, quantity: str, basis: str, said: str) -> None:
    assert verdict_on(audit_of(name), quantity, basis, line).verdict == said


def test_documents_on_one_deployment_that_contradict_each_other_are_named() -> None:
    said = [str(found) for found in find_contradictions([audit_of(name) for name in SEEDS])]
    assert (
        "attention weights on a GPU is both 8.39 MB (S1-ep64-tp2-guide.md:59) and 1 MB (S1-ep64-tp2-summary.md:53), ×8.39"
        in said
    )
    assert any("83.9 %" in one and "0.02 %" in one for one in said)
    assert not any("S1" in one and "S4" in one for one in said)


def test_a_document_of_other_numbers_and_form_is_understood() -> None:
    audit = audit_document("fifth.md", FIFTH)
    facts = {fact.quantity: fact.value for fact in audit.facts}
    assert {name: facts[name] for name in ("layers", "experts", "top_k", "hidden", "ffn", "heads", "matrices")} == {
        "layers": 32,
        "experts": 8,
        "top_k": 2,
        "hidden": 4096,
        "ffn": 14336,
        "heads": 32,
        "matrices": 3,
    }
    assert (facts["gpu_memory"], facts["peak_flops"], facts["bandwidth"]) == (80e9, 989e12, 3.35e12)
    assert (facts["batch"], facts["seq"], facts["weight_bytes"], facts["ep"], facts["tp"]) == (64, 2048, 2, 4, 2)
    assert audit.unread == ()


@pytest.mark.parametrize(
    ("quantity", "basis", "judgement", "factor"),
    [
        ("gpus", "model", "holds", 1),
        ("experts_per_gpu", "model", "holds", 1),
        ("expert_weights", "model", "holds", 1),
        ("attention_weights", "model", "off", 4.3e9 / (32 * 4 * 4096**2 / 2 * 2)),
        ("memory_total", "model", "impossible", 95 / 80),
        ("active_share", "model", "holds", 1),
        ("arithmetic", "arithmetic", "off", 9 / 8),
        ("token_latency", "model", "impossible", 32 * (4 * 4096**2 + 3 * 4096 * 14336) / 3.35e12 / 1e-3),
    ],
)
def test_claims_of_another_document_are_recomputed(quantity: str, basis: str, judgement: str, factor: float) -> None:
    verdict = verdict_on(audit_document("fifth.md", FIFTH), quantity, basis)
    assert verdict.judgement == judgement
    assert verdict.factor == pytest.approx(factor, rel=0.01)


def test_throughput_above_the_roofline_is_impossible_by_its_factor() -> None:
    verdict = verdict_on(audit_document("fifth.md", FIFTH), "throughput")
    active = 32 * (4 * 4096**2 + 2 * 3 * 4096 * 14336)
    roofline = 8 * 989e12 / (2 * active + 2 * 32 * 2048 * 4096)
    assert (verdict.judgement, verdict.factor) == ("impossible", pytest.approx(2e6 / roofline))
    assert "peak 989 TFLOPS" in verdict.formula


@pytest.mark.parametrize(
    ("seed", "stated", "ep", "tp", "pp", "redundant"),
    [
        ("seed-s1", (16, 64, 1024, 2048), 64, 2, 1, 0),
        ("seed-s2", (16, 16, 4096, 16384), 64, 2, 1, 48),
        ("seed-s4", (16, 64, 1024, 2048), 8, 4, 4, 0),
    ],
)
def test_parameters_on_a_gpu_are_those_of_the_planner(
    seed: str, stated: tuple[int, ...], ep: int, tp: int, pp: int, redundant: int
) -> None:
    shape, layout, (layers, experts, hidden, ffn) = shape_of(seed), Layout(ep, tp, pp), stated
    assert len(shape.layers) == layers
    stage = make_stages(balance([1] * layers, pp))[pp - 1 if pp == 1 else 1]
    planned = rank_params(shape, layout, deal(experts, redundant, ep), stage)
    text = f"SwiGLU experts\nlayers: {layers}\nexperts per layer: {experts}\nhidden size: {hidden}\nFFN width: {ffn}\n"
    text += f"EP{ep} TP{tp} PP{pp}\nredundant experts: {redundant}\n1.0B parameters per GPU"
    computed = verdict_on(audit_document("x", text), "gpu_params").computed_value
    assert computed == pytest.approx(planned.attention + planned.experts + planned.redundant_experts, rel=0.01)


@pytest.mark.parametrize(
    ("claim", "judgement"),
    [
        ("1.02%", "holds"),
        ("1.00%", "holds"),
        ("1%", "holds"),
        ("~1.10%", "holds"),
        ("1.10%", "off"),
        ("<2%", "holds"),
        ("< 0.9%", "off"),
        (">0.9%", "holds"),
        ("0.5-2%", "holds"),
        ("2-3%", "off"),
    ],
)
def test_a_claim_holds_within_two_per_cent_its_precision_or_its_comparison(claim: str, judgement: str) -> None:
    text = f"PP2\n98 micro-batches\nPipeline bubble: {claim}"
    verdict = verdict_on(audit_document("x", text), "bubble")
    assert verdict.computed_value is not None
    assert (verdict.judgement, verdict.computed_value) == (judgement, pytest.approx(1 / 99))


def test_megabytes_may_be_powers_of_two_and_the_formula_says_so() -> None:
    text = "layers: 16\nhidden size: 1024\nTP2\nprecision: FP8\n- Attention weights: 32.0 MB"
    verdict = verdict_on(audit_document("x", text), "attention_weights")
    assert verdict.judgement == "holds"
    assert verdict.formula.endswith("MB and GB read as powers of two")


def test_shared_kv_heads_make_attention_lighter() -> None:
    text = "layers: 10\nhidden size: 4096\nheads: 32\nKV heads: 8\nprecision: BF16\n- Attention weights: 838.9 MB"
    verdict = verdict_on(audit_document("x", text), "attention_weights")
    assert (verdict.judgement, verdict.computed_value) == ("holds", 10 * (2 * 4096**2 + 2 * 4096 * 1024) * 2)


def test_what_a_document_leaves_out_is_named_and_assumed_only_to_its_favour() -> None:
    missing = verdict_on(audit_document("x", "TP2 layers: 16\nAttention weights: 1 MB"), "attention_weights")
    assert (missing.judgement, missing.computed) == ("unverifiable", "")
    assert missing.formula == "not stated: hidden"
    audit = audit_of("S1-ep64-tp2-guide")
    assumed = {fact.quantity: fact.value for fact in audit.facts if fact.origin == "assumed"}
    assert (assumed["top_k"], assumed["matrices"]) == (1, 2)
    assert "assumed: matrices an expert 2" in verdict_on(audit, "expert_weights").formula


def test_a_fact_that_the_reader_knows_makes_more_claims_verifiable() -> None:
    text = (STRATEGIES / "S2-ep64-tp2-optimized.md").read_text(encoding="utf-8")
    assert verdict_on(audit_document("s2", text), "compute_share").judgement == "unverifiable"
    known = verdict_on(audit_document("s2", text, {"peak_flops": 400e12}), "compute_share")
    assert (known.judgement, known.computed) == ("off", "11.6 %")


@pytest.mark.parametrize("given", [{"peak": 1.0}, {"throughput": 1.0}, {"peak_flops": 0.0}, {"peak_flops": math.nan}])
def test_a_given_fact_that_is_none_is_refused_with_the_names_that_are(given: dict[str, float]) -> None:
    with pytest.raises(PlanError, match=r"is not a fact that an audit knows.*peak_flops"):
        audit_document("x", "", given)


@pytest.mark.parametrize("text", ["", "\n\n", "Plain words only.", "```\n", "#", "- \n  - "])
def test_a_document_without_claims_says_so(text: str) -> None:
    audit = audit_document("x.md", text)
    assert (audit.verdicts, audit.unread) == ((), ())
    assert audit.summary == "x.md: no claim found that can be recomputed"


def test_a_number_that_nothing_reads_is_shown_as_not_read() -> None:
    audit = audit_document("x.md", "We tried 17 flavours.")
    assert [(one.line, one.number) for one in audit.unread] == [(1, "17")]


def test_a_document_too_long_to_be_a_strategy_is_refused() -> None:
    with pytest.raises(PlanError, match="characters; a strategy document has at most"):
        audit_document("x.md", "a" * 10_000_000)


def test_absurd_degrees_are_judged_without_enumerating_ranks() -> None:
    audit = audit_document("x.md", "EP999999999 TP999999999 PP999999999\nexperts: 7\nEP0: GPUs [0-15]\nlayers: 3")
    assert verdict_on(audit, "ep", "layout").judgement == "impossible"
    assert verdict_on(audit, "ep_members", "layout").judgement == "unverifiable"


def test_a_table_has_a_row_for_each_verdict() -> None:
    audit = audit_of("S4-ep8-tp4-pp4")
    rows = audit_rows(audit)
    assert len(rows) == len(audit.verdicts)
    assert next(row for row in rows if row.line == 97).verdict == "off ×1.71, too low"


@pytest.mark.parametrize(
    "text", ["__import__('os')", "a.b", "1 if 2 else 3", "9**9**9", "1/0", "(" * 5000, "x", "1e999", "1 < 2", "10GB"]
)
def test_only_arithmetic_is_evaluated(text: str) -> None:
    with pytest.raises((NotArithmeticError, KeyError)):
        evaluate(parse(text), {}.__getitem__)


VOCABULARY = """
EP TP GPU GPUs experts layers per # - ** ``` : = × * ( ) < ~ 0 1 64 9999999999 0.0 1e9 MB GB % ms tokens/second bubble
hidden size batch micro-batches memory utilization TFLOPS compute capacity
"""
WORDS = st.sampled_from([*VOCABULARY.split(), "\n", " ", " ", " "])


@settings(max_examples=150, deadline=None)
@given(
    st.one_of(
        st.text(max_size=300), st.lists(WORDS, max_size=60).map("".join), st.lists(WORDS, max_size=60).map(" ".join)
    )
)
def test_no_text_makes_the_audit_fail(text: str) -> None:
    audit = audit_document("fuzz", text)
    assert audit == audit_document("fuzz", text)
    assert all(row.verdict and row.formula for row in audit_rows(audit))
    json.dumps(rounded(asdict(audit)), allow_nan=False)


def test_the_page_on_the_audit_gives_the_counts_of_the_examples() -> None:
    page = (STRATEGIES.parents[1] / "docs" / "audit.md").read_text(encoding="utf-8")
    for audit in map(audit_of, SEEDS):
        kinds = ("holds", "off", "impossible", "unverifiable")
        counts = " | ".join(str(count) for count in (len(audit.verdicts), *map(audit.count, kinds)))
        assert f"| {audit.document} | {counts} |" in page
