"""Copies go where the load is, and are packed so that no rank has much more than the others."""

from collections import Counter
from itertools import product

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from moe_plan.packing import Floats, Ints, copies_by_load, fullest_share, in_rounds, least_loaded, pack_by_load

NEARLY = 1e-9


@st.composite
def layers(draw: st.DrawFn) -> tuple[Floats, int, int]:
    """Shares of some layers' tokens, and redundant experts and ranks that divide."""
    experts, ranks = draw(st.integers(1, 12)), draw(st.integers(1, 8))
    most = experts * (ranks - 1)
    valid = [r for r in range(most + 1) if (experts + r) % ranks == 0]
    counts = st.lists(st.integers(0, 1000) | st.sampled_from([0, 1, 10**6]), min_size=experts, max_size=experts)
    drawn = draw(st.lists(counts.filter(any), min_size=1, max_size=3))
    found = np.asarray(drawn, dtype=np.float64)
    return found / found.sum(axis=1, keepdims=True), draw(st.sampled_from(valid)) if valid else 0, ranks


def physical_by_load(shares: Floats, redundant: int, ranks: int) -> tuple[Ints, Floats]:
    """Experts rank after rank, and the load of the fullest rank, layer by layer."""
    packing = pack_by_load(shares, redundant, ranks)
    return packing.physical(), packing.packed.fullest


def valid(case: tuple[Floats, int, int]) -> bool:
    shares, redundant, ranks = case
    return (shares.shape[1] + redundant) % ranks == 0


cases = layers().filter(valid)


@given(cases)
def test_every_expert_is_held_and_no_rank_holds_one_twice(case: tuple[Floats, int, int]) -> None:
    shares, redundant, ranks = case
    physical, _ = physical_by_load(shares, redundant, ranks)
    for row in physical.tolist():
        assert set(row) == set(range(shares.shape[1]))
        assert len(row) == shares.shape[1] + redundant
        for held in np.split(np.asarray(row), ranks):
            assert max(Counter(held.tolist()).values()) == 1


@given(cases)
def test_the_fullest_rank_is_told_as_its_experts_loads_add_up(case: tuple[Floats, int, int]) -> None:
    shares, redundant, ranks = case
    physical, fullest = physical_by_load(shares, redundant, ranks)
    for loads, row, told in zip(shares, physical.tolist(), fullest, strict=True):
        copies = Counter(row)
        ranks_held = np.split(np.asarray(row), ranks)
        assert max(sum(loads[e] / copies[e] for e in held.tolist()) for held in ranks_held) == pytest.approx(told)
    assert fullest_share(shares, physical, ranks) == pytest.approx(fullest)


@given(cases)
def test_the_fullest_rank_exceeds_the_mean_by_no_more_than_the_loads_of_copies_differ(
    case: tuple[Floats, int, int],
) -> None:
    shares, redundant, ranks = case
    each = shares / copies_by_load(shares, redundant, ranks)
    _, fullest = physical_by_load(shares, redundant, ranks)
    assert (fullest <= 1 / ranks + each.max(axis=1) - each.min(axis=1) + NEARLY).all()


@given(cases)
def test_rounds_part_ranks_by_no_more_than_the_loads_of_copies_differ(case: tuple[Floats, int, int]) -> None:
    shares, redundant, ranks = case
    experts, loads = sorted_copies(shares, redundant, ranks)
    packed = in_rounds(experts, loads, ranks)
    for row, rank in zip(loads, packed.rank, strict=True):
        totals = np.bincount(rank, weights=row, minlength=ranks)
        assert totals.max() - totals.min() <= row[0] - row[-1] + NEARLY
        assert set(Counter(rank.tolist()).values()) == {len(row) // ranks}


@given(st.lists(st.integers(0, 30), min_size=1, max_size=4).filter(any), st.integers(1, 4), st.integers(0, 6))
def test_no_other_copies_make_the_largest_load_of_a_copy_smaller(counts: list[int], ranks: int, redundant: int) -> None:
    experts, redundant = len(counts), min(redundant, len(counts) * (ranks - 1))
    shares = np.asarray([counts], dtype=np.float64)
    (copies,) = copies_by_load(shares, redundant, ranks).tolist()
    assert sum(copies) == experts + redundant
    assert min(copies) >= 1
    assert max(copies) <= max(ranks, 1)
    ways = (way for way in product(range(1, ranks + 1), repeat=experts) if sum(way) == experts + redundant)
    best = min(max(load / n for load, n in zip(counts, way, strict=True)) for way in ways)
    assert max(load / n for load, n in zip(counts, copies, strict=True)) == pytest.approx(best)


def test_an_even_load_is_packed_evenly_with_and_without_copies() -> None:
    shares = np.full((2, 16), 1 / 16)
    assert physical_by_load(shares, 0, 8)[1] == pytest.approx([1 / 8, 1 / 8])
    assert physical_by_load(shares, 16, 8)[1] == pytest.approx([1 / 8, 1 / 8])


def test_with_many_places_a_rank_the_least_loaded_takes_the_next() -> None:
    loads = [30.0, 9, 8, 7, 6, 5, 4, 3, 2, 1, 1, 1]
    shares = np.asarray([loads]) / sum(loads)
    _, (fullest,) = physical_by_load(shares, 0, 3)
    assert fullest * sum(loads) == pytest.approx(33), "the 30 with the three smallest"


def test_where_the_least_loaded_ranks_leave_no_place_for_a_copy_rounds_are_kept() -> None:
    loads, experts = np.asarray([[0.5, 0.1, 0.1, 0.1, 0.1, 0.1]]), np.asarray([[0, 1, 2, 3, 4, 4]])
    assert np.isinf(least_loaded(experts, loads, 2).fullest).all(), "both places left are on the rank of expert 0"
    shares = np.asarray([[0.5, 0.1, 0.1, 0.1, 0.2]])
    physical, fullest = physical_by_load(shares, 1, 2)
    assert fullest == pytest.approx(in_rounds(*sorted_copies(shares, 1, 2), 2).fullest)
    assert all(len(set(held)) == 3 for held in physical.reshape(2, 3).tolist())


def sorted_copies(shares: Floats, redundant: int, ranks: int) -> tuple[np.ndarray, Floats]:
    """Copies by falling load, those of one expert beside each other."""
    copies = copies_by_load(shares, redundant, ranks)
    rows = []
    for loads, counts in zip(shares, copies, strict=True):
        order = sorted(range(len(loads)), key=lambda e: (-loads[e] / counts[e], e))
        rows.append([e for e in order for _ in range(counts[e])])
    experts = np.asarray(rows)
    return experts, np.take_along_axis(shares / copies, experts, axis=1)
