"""The plan's memory is what ranks allocate."""

import pytest

from moe_plan.plan import Plan
from moe_runtime.bench.memory import allocated, cases, planned

CASES = dict(cases())


def test_there_are_six_layouts_at_least() -> None:
    assert len(CASES) >= 6
    assert len({plan.model.family for plan in CASES.values()}) == 2


@pytest.mark.parametrize("plan", CASES.values(), ids=CASES)
def test_weights_and_cache_of_a_rank_are_within_three_per_cent_of_what_is_planned(plan: Plan) -> None:
    for stage in plan.memory:
        counted, found = planned(plan, stage), allocated(plan, stage.pp)
        assert counted.weights == pytest.approx(found.weights, rel=0.03)
        assert counted.kv_cache == pytest.approx(found.kv_cache, rel=0.03)
