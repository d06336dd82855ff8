from collections import Counter
from collections.abc import Iterator, Sequence
from itertools import permutations, product

import pytest
from hypothesis import given
from hypothesis import strategies as st

from moe_plan.experts import copies_of, deal, owner, physical_to_logical
from moe_plan.layout import DIMENSIONS, Coordinate, Dimension, Layout
from moe_plan.plan import ExpertMap
from moe_plan.shares import busiest_load
from moe_plan.stages import balance, make_stages

degrees = st.integers(1, 6)
orders = st.sampled_from(list(permutations(DIMENSIONS)))
layouts = st.builds(Layout, ep=degrees, tp=degrees, pp=degrees, rank_order=orders)


@given(layouts)
def test_rank_and_coordinate_are_each_others_inverse(layout: Layout) -> None:
    ranks = range(layout.world)
    assert [layout.rank(layout.coordinate(rank)) for rank in ranks] == list(ranks)
    coordinates = product(range(layout.pp), range(layout.ep), range(layout.tp))
    assert sorted(layout.rank(Coordinate(*point)) for point in coordinates) == list(ranks)


@given(layouts, st.sets(st.sampled_from(DIMENSIONS)))
def test_every_rank_is_in_exactly_one_group_of_each_kind(layout: Layout, along: set[Dimension]) -> None:
    groups = layout.groups(sorted(along))
    assert Counter(rank for group in groups for rank in group) == Counter(range(layout.world))
    size = 1
    for dimension in along:
        size *= layout.degree(dimension)
    assert {len(group) for group in groups} == {size}
    others = [i for i, dimension in enumerate(DIMENSIONS) if dimension not in along]
    for group in groups:
        assert len({tuple(layout.coordinate(rank)[i] for i in others) for rank in group}) == 1


@given(layouts, st.sampled_from(DIMENSIONS), st.integers(1, 12))
def test_a_group_crosses_nodes_exactly_when_two_of_its_ranks_lie_in_different_nodes(
    layout: Layout, dimension: Dimension, per_node: int
) -> None:
    if layout.world > per_node and layout.world % per_node:
        return  # such a layout is refused before its groups are looked at
    crossing = any(len({rank // per_node for rank in group}) > 1 for group in layout.groups([dimension]))
    assert layout.crosses_nodes(dimension, per_node) == crossing


def test_a_rank_outside_the_world_is_refused() -> None:
    with pytest.raises(ValueError, match=r"rank 8 is outside 0\.\.7"):
        Layout(ep=4, tp=2, pp=1).coordinate(8)


def test_seed_s1_has_expert_e_on_gpus_2e_and_2e_plus_1() -> None:
    layout, experts = Layout(ep=64, tp=2, pp=1), deal(logical=64, redundant=0, ep=64)
    for expert in range(64):
        (copy,) = copies_of(experts, layer=0)[expert]
        gpus = [layout.rank(Coordinate(pp=0, ep=owner(experts, copy), tp=tp)) for tp in range(2)]
        assert gpus == [2 * expert, 2 * expert + 1]


def test_seed_s3_numbers_ranks_pp_64_ep_4_tp() -> None:
    layout = Layout(ep=16, tp=4, pp=2)
    for pp, ep, tp in product(range(2), range(16), range(4)):
        assert layout.rank(Coordinate(pp, ep, tp)) == pp * 64 + ep * 4 + tp
    assert layout.group(["pp"], 5) == (5, 69)


def test_seed_s4_numbers_ranks_ep_16_pp_4_tp() -> None:
    layout = Layout(ep=8, tp=4, pp=4, rank_order=("ep", "pp", "tp"))
    for pp, ep, tp in product(range(4), range(8), range(4)):
        assert layout.rank(Coordinate(pp, ep, tp)) == ep * 16 + pp * 4 + tp
    assert layout.group(["pp", "tp"], 20) == tuple(range(16, 32))


@st.composite
def dealt_experts(draw: st.DrawFn) -> ExpertMap:
    logical, ep = draw(st.integers(1, 40)), draw(st.integers(1, 24))
    most = logical * (ep - 1)
    valid = [r for r in range(most + 1) if (logical + r) % ep == 0]
    return deal(logical, draw(st.sampled_from(valid)), ep) if valid else deal(logical * ep, 0, ep)


@given(dealt_experts())
def test_every_expert_has_a_copy_and_no_rank_holds_two_copies_of_one(experts: ExpertMap) -> None:
    copies = copies_of(experts, layer=3)
    assert sorted(p for of_one in copies for p in of_one) == list(range(experts.logical + experts.redundant))
    assert all(copies)
    for of_one in copies:
        assert len({owner(experts, physical) for physical in of_one}) == len(of_one)


@given(dealt_experts())
def test_copies_are_dealt_evenly_from_expert_0_and_every_rank_owns_as_many(experts: ExpertMap) -> None:
    counts = Counter(physical_to_logical(experts, layer=0))
    ordered = [counts[expert] for expert in range(experts.logical)]
    assert ordered == sorted(ordered, reverse=True)
    assert ordered[0] - ordered[-1] <= 1
    owned = Counter(owner(experts, physical) for physical in range(experts.logical + experts.redundant))
    assert set(owned.values()) == {experts.per_rank}


@given(dealt_experts())
def test_the_busiest_ranks_load_is_the_sum_of_its_shares_of_equally_wanted_experts(experts: ExpertMap) -> None:
    copies = [len(of_one) for of_one in copies_of(experts, layer=0)]
    load = [0.0] * ((experts.logical + experts.redundant) // experts.per_rank)
    for physical, logical in enumerate(physical_to_logical(experts, layer=0)):
        load[owner(experts, physical)] += 1 / copies[logical] / experts.logical
    assert busiest_load(experts) == pytest.approx(max(load))


def test_a_layer_with_an_exception_has_its_own_experts() -> None:
    experts = deal(logical=2, redundant=2, ep=2).model_copy(update={"exceptions": {5: (1, 0, 1, 0)}})
    assert physical_to_logical(experts, layer=5) == (1, 0, 1, 0)
    assert physical_to_logical(experts, layer=4) == (0, 1, 0, 1)
    assert copies_of(experts, layer=5) == ((1, 3), (0, 2))


costs_and_stages = st.lists(st.integers(1, 50), min_size=1, max_size=9).flatmap(
    lambda costs: st.tuples(st.just(costs), st.integers(1, len(costs)))
)


@given(costs_and_stages)
def test_stages_partition_the_layers_and_each_has_one(case: tuple[list[int], int]) -> None:
    costs, pp = case
    stages = make_stages(balance(costs, pp))
    assert [layer for s in stages for layer in range(s.first_layer, s.first_layer + s.layers)] == list(
        range(len(costs))
    )
    assert [stage.pp for stage in stages] == list(range(pp))
    assert [stage.embedding for stage in stages] == [pp == 0 for pp in range(len(stages))]
    assert [stage.head for stage in stages] == [pp == len(stages) - 1 for pp in range(len(stages))]


@given(costs_and_stages)
def test_no_other_stages_have_a_lighter_fullest_one(case: tuple[list[int], int]) -> None:
    costs, pp = case
    best = min(_fullest(costs, counts) for counts in _compositions(len(costs), pp))
    assert _fullest(costs, balance(costs, pp)) == best


def _fullest(costs: Sequence[int], counts: Sequence[int]) -> int:
    sums, first = [], 0
    for count in counts:
        sums.append(sum(costs[first : first + count]))
        first += count
    return max(sums)


def _compositions(layers: int, stages: int) -> Iterator[tuple[int, ...]]:
    if stages == 1:
        yield (layers,)
        return
    for first in range(1, layers - stages + 2):
        for rest in _compositions(layers - first, stages - 1):
            yield (first, *rest)


@pytest.mark.parametrize(
    ("layers", "pp", "counts"), [(16, 4, (4, 4, 4, 4)), (10, 4, (2, 3, 2, 3)), (5, 5, (1, 1, 1, 1, 1)), (61, 1, (61,))]
)
def test_equal_layers_are_dealt_as_evenly_as_they_can_be(layers: int, pp: int, counts: tuple[int, ...]) -> None:
    assert balance([3] * layers, pp) == counts


def test_a_heavy_head_shortens_the_last_stage() -> None:
    assert balance([1] * 15 + [5], 2) == (10, 6)
