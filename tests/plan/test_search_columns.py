"""Each column that a search computes equals, candidate by candidate, what a plan computes of one layout."""

import random
from itertools import permutations
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from manifests import manifest

from moe_plan import spec
from moe_plan.catalogue.hardware import resolve_hardware
from moe_plan.cost.collectives import spans
from moe_plan.experts import deal
from moe_plan.layout import DIMENSIONS, Dimension, Layout
from moe_plan.memory import kv_cache
from moe_plan.search.arrays import Floats
from moe_plan.search.choice import Choice, fits, work_out
from moe_plan.search.front import beaten, front
from moe_plan.search.layouts import busiest_columns, deal_columns, layouts
from moe_plan.search.network import Order, fanouts, in_orders, tp_is_parted
from moe_plan.search.pipeline import balance_columns
from moe_plan.search.space import space
from moe_plan.shares import busiest_load
from moe_plan.stages import balance
from moe_plan.subject import Subject, resolve

ORDERS: tuple[Order, ...] = tuple(permutations(DIMENSIONS))


def subject(architecture: str, accelerator: str, **sections: Any) -> Subject:
    return resolve(manifest({"ep": 8}, architecture, accelerator, **sections), None)


@st.composite
def pipelines(draw: st.DrawFn) -> tuple[list[list[int]], list[int]]:
    layers = draw(st.integers(1, 24))
    cost = st.integers(1, 30) | st.sampled_from([10**9, 3 * 10**9])
    costs = draw(st.lists(st.lists(cost, min_size=layers, max_size=layers), min_size=1, max_size=5))
    return costs, [draw(st.integers(1, layers)) for _ in costs]


@given(pipelines())
def test_stages_are_balanced_as_those_of_one_plan(given_pipelines: tuple[list[list[int]], list[int]]) -> None:
    costs, stages = given_pipelines
    ends = balance_columns(np.array(costs), np.array(stages))
    for row, (row_costs, count) in enumerate(zip(costs, stages, strict=True)):
        assert tuple(np.diff(ends[row][: count + 1])) == balance(row_costs, count)
        assert set(ends[row][count:]) == {len(row_costs)}


@settings(max_examples=150)
@given(
    st.sampled_from(["h200-sxm", "gb200-nvl72", "mi300x"]),
    st.integers(1, 80),
    st.sampled_from([1, 2, 3, 4, 8, 16]),
    st.integers(1, 12),
    st.sampled_from(ORDERS),
)
def test_links_are_those_that_one_plan_spans(accelerator: str, ep: int, tp: int, pp: int, order: Order) -> None:
    hardware = resolve_hardware(spec.Hardware(accelerator=accelerator))
    layout = Layout(ep, tp, pp, order)
    if layout.world > hardware.gpus_per_node and layout.world % hardware.gpus_per_node:
        return
    degrees: dict[Dimension, Any] = {"ep": np.array([ep]), "tp": np.array([tp]), "pp": np.array([pp])}
    over = fanouts(order, degrees, hardware)
    for dimension in DIMENSIONS:
        told = [int(fanout) for fanout in over[dimension][:, 0] if fanout > 1]
        assert told == [span.fanout for span in spans(layout, dimension, hardware)]
    assert tp_is_parted(order, degrees, hardware.gpus_per_node)[0] == layout.crosses_nodes("tp", hardware.gpus_per_node)


def test_orders_that_change_nothing_are_left_out_and_no_tp_group_is_parted() -> None:
    hardware = resolve_hardware(spec.Hardware(accelerator="h200-sxm"))
    degrees: dict[Dimension, Any] = {"ep": np.array([16, 4]), "tp": np.array([2, 2]), "pp": np.array([1, 4])}
    pairs = in_orders(ORDERS, degrees, hardware, "never")
    told = [(int(row), ORDERS[order]) for row, order in zip(pairs.candidate, pairs.order, strict=True)]
    assert told == [(0, ("pp", "ep", "tp")), (1, ("pp", "ep", "tp")), (1, ("ep", "pp", "tp"))]


@given(st.integers(1, 64), st.integers(1, 40), st.data())
def test_the_busiest_rank_is_that_of_one_plan(logical: int, ep: int, data: st.DataObject) -> None:
    per_rank = data.draw(st.integers(-(-logical // ep), logical))
    found = busiest_columns(logical, np.array([ep]), np.array([per_rank]))
    assert found[0] == busiest_load(deal(logical, ep * per_rank - logical, ep))


@pytest.mark.parametrize(
    ("architecture", "accelerator", "mode"),
    [
        ("qwen3-235b-a22b", "h200-sxm", "serving"),
        ("deepseek-v3", "b200-sxm", "serving"),
        ("gpt-oss-120b", "h100-sxm", "serving"),
        ("qwen3.5-397b-a17b", "gb200-nvl72", "serving"),
        ("llama-4-maverick", "h200-sxm", "training"),
        ("kimi-k3", "b200-sxm", "serving"),
    ],
)
def test_a_layout_fits_and_holds_requests_as_its_plan_says(architecture: str, accelerator: str, mode: str) -> None:
    of = subject(architecture, accelerator, workload={"inputTokens": 2000, "mode": mode})
    candidates = layouts(of, space(of, 256, ()))
    dealt = deal_columns(of, candidates)
    for row in random.Random(3).sample(range(len(candidates)), 25):
        ep, tp, pp, per_rank = (
            int(column[row]) for column in (candidates.ep, candidates.tp, candidates.pp, candidates.per_rank)
        )
        draft = work_out(of, Choice(Layout(ep, tp, pp), ep * per_rank - of.experts))
        assert dealt.fits[row] == fits(of, draft)
        if dealt.fits[row]:
            about = (of.limits, of.spec.workload, of.kv_cache_dtype)
            cache = kv_cache(of.shape, draft.choice.layout, draft.stages, draft.memory, *about)
            assert dealt.kv_requests[row] == cache.requests_per_shard


figure = st.integers(1, 6) | st.integers(1, 10**6)


@given(st.lists(st.tuples(figure, figure, figure), max_size=40))
def test_the_front_holds_exactly_what_nothing_beats(points: list[tuple[int, int, int]]) -> None:
    columns = [np.array([point[axis] for point in points], dtype=np.float64) for axis in range(3)]

    def beats(other: int, one: int) -> bool:
        (rate, tpot, ttft), (rate1, tpot1, ttft1) = points[other], points[one]
        no_worse = rate >= rate1 and tpot <= tpot1 and ttft <= ttft1
        return no_worse and (points[other] != points[one] or other < one)

    expected = [one for one in range(len(points)) if not any(beats(other, one) for other in range(len(points)))]
    found = front(*columns).tolist()
    assert sorted(found) == expected
    assert [points[i][0] for i in found] == sorted((points[i][0] for i in found), reverse=True)


def test_the_front_of_many_candidates_is_that_of_all_pairs() -> None:
    drawn = np.random.default_rng(7)
    rate, tpot, ttft = drawn.integers(1, 400, size=(3, 3000)).astype(np.float64)
    rate[::5] *= 1 + 1e-12  # the same to nine digits: the first of them is kept
    near = np.rint(rate)

    def is_beaten(one: int) -> bool:
        no_worse = (near >= near[one]) & (tpot <= tpot[one]) & (ttft <= ttft[one])
        same = (near == near[one]) & (tpot == tpot[one]) & (ttft == ttft[one])
        return bool((no_worse & (~same | (np.arange(len(rate)) < one))).any())

    assert sorted(front(rate, tpot, ttft).tolist()) == [one for one in range(len(rate)) if not is_beaten(one)]


@given(st.lists(st.tuples(figure, figure, figure), max_size=8), st.lists(st.tuples(figure, figure, figure), max_size=8))
def test_a_point_beats_what_it_is_as_good_as_in_each_figure(
    points: list[tuple[int, int, int]], others: list[tuple[int, int, int]]
) -> None:
    def columns(of: list[tuple[int, int, int]]) -> tuple[Floats, Floats, Floats]:
        rate, tpot, ttft = np.array(of, dtype=np.float64).reshape(-1, 3).T
        return rate, tpot, ttft

    expected = [any(p[0] >= o[0] and p[1] <= o[1] and p[2] <= o[2] for p in points) for o in others]
    assert beaten(*columns(others), columns(points)).tolist() == expected
