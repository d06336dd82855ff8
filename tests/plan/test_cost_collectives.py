"""Collectives: which links they cross, and how long they take beside what was measured."""

from collections import Counter
from itertools import permutations

import pytest
from costs import COLLECTIVES, hardware
from hypothesis import given
from hypothesis import strategies as st

from moe_plan.cost.collectives import (
    Span,
    all_reduce_s,
    all_to_all_s,
    library_all_reduce_s,
    ranks_together,
    spans,
    staged_all_to_all_s,
)
from moe_plan.cost.constants import engine
from moe_plan.layout import DIMENSIONS, Dimension, Layout


@pytest.mark.parametrize("order", list(permutations(DIMENSIONS)))
@given(st.integers(1, 6), st.integers(1, 6), st.integers(1, 6), st.integers(1, 40), st.sampled_from(DIMENSIONS))
def test_ranks_together_are_the_fewest_that_any_rank_of_a_group_finds_beside_it(
    order: tuple[Dimension, ...], ep: int, tp: int, pp: int, block: int, dimension: Dimension
) -> None:
    layout = Layout(ep, tp, pp, order)
    beside = min(min(Counter(rank // block for rank in group).values()) for group in layout.groups([dimension]))
    stride, extent = layout.stride(dimension), layout.degree(dimension)
    assert ranks_together(layout.world, stride, extent, block) == beside


@pytest.mark.parametrize(
    ("name", "layout", "per_node", "dimension", "fanouts"),
    [
        ("seed-64gb", Layout(64, 2, 1), 8, "ep", [4, 16]),
        ("seed-64gb", Layout(64, 2, 1), 8, "tp", [2]),
        ("seed-64gb", Layout(16, 4, 2), 8, "pp", [2]),
        ("seed-64gb", Layout(8, 4, 4, ("ep", "pp", "tp")), 16, "pp", [4]),
        ("seed-64gb", Layout(8, 4, 4, ("ep", "pp", "tp")), 16, "ep", [8]),
        ("gb200-nvl72", Layout(64, 1, 1), 4, "ep", [4, 16]),
        ("gb200-nvl72", Layout(144, 1, 1), 4, "ep", [4, 18, 2]),
        ("h200-sxm", Layout(1, 1, 1), 8, "ep", []),
    ],
)
def test_a_group_is_taken_apart_by_tier(
    name: str, layout: Layout, per_node: int, dimension: Dimension, fanouts: list[int]
) -> None:
    of = hardware(name, gpusPerNode=per_node)
    assert [span.fanout for span in spans(layout, dimension, of)] == fanouts


def test_a_pipeline_across_nodes_uses_the_network() -> None:
    of = hardware("seed-64gb")
    (span,) = spans(Layout(16, 4, 2), "pp", of)
    assert span.latency_s == of.links[-1].latency_s


# NCCL 2.29.2 on H100 nodes, bfloat16, microseconds: PyPI aiconfigurator-core 0.12.0, systems/data/h100_sxm/comm/nccl.
MEASURED_ALL_REDUCE_US = [
    (2, 16_384, 7.27),
    (4, 16_384, 12.46),
    (8, 16_384, 18.98),
    (2, 33_554_432, 143.55),
    (4, 33_554_432, 175.67),
    (8, 33_554_432, 199.8),
    (2, 536_870_912, 1686.44),
    (8, 536_870_912, 2111.06),
]


@pytest.mark.parametrize(("gpus", "message_bytes", "measured_us"), MEASURED_ALL_REDUCE_US)
def test_an_all_reduce_in_a_node_is_within_half_of_what_nccl_takes(
    gpus: int, message_bytes: int, measured_us: float
) -> None:
    over = spans(Layout(1, gpus, 1), "tp", hardware("h100-sxm"))
    assert all_reduce_s(message_bytes, over, engine("moe"), COLLECTIVES) * 1e6 == pytest.approx(measured_us, rel=0.5)


# DeepEP low-latency dispatch of DeepSeek-V3 rows (hidden 7168, top 8) in float8, the same package, comm/sglang.
MEASURED_DISPATCH_US = [(8, 1, 13.2), (16, 2, 22.57), (32, 2, 27.13), (64, 2, 28.7), (64, 256, 301.1), (8, 256, 62.6)]


@pytest.mark.parametrize(("gpus", "tokens", "measured_us"), MEASURED_DISPATCH_US)
def test_a_dispatch_is_within_half_of_what_deepep_takes(gpus: int, tokens: int, measured_us: float) -> None:
    over = spans(Layout(gpus, 1, 1), "ep", hardware("h100-sxm"))
    assert all_to_all_s(tokens, 7392, 8, over, COLLECTIVES) * 1e6 == pytest.approx(measured_us, rel=0.5)


# TensorRT-LLM 1.3.0rc20 custom all-reduce on H200, bfloat16, the same package, comm/trtllm; NCCL takes 18.3 µs at 16 kB.
@pytest.mark.parametrize(
    ("gpus", "message_bytes", "measured_us"), [(8, 32_768, 3.9), (8, 262_144, 10.1), (2, 2_048, 2.76)]
)
def test_engines_with_kernels_of_their_own_reduce_small_messages_in_a_fraction_of_nccls_time(
    gpus: int, message_bytes: int, measured_us: float
) -> None:
    over = spans(Layout(1, gpus, 1), "tp", hardware())
    custom, library = (all_reduce_s(message_bytes, over, engine(name), COLLECTIVES) for name in ("vllm", "moe"))
    assert custom * 1e6 == pytest.approx(measured_us, rel=0.2)
    assert custom < library / 1.5


def test_custom_kernels_do_not_reduce_across_nodes() -> None:
    over = spans(Layout(1, 16, 1), "tp", hardware(gpusPerNode=8))
    _, cluster = over
    whole = all_reduce_s(16_384, over, engine("vllm"), COLLECTIVES)
    assert whole > library_all_reduce_s(16_384 / 8, cluster, COLLECTIVES)
    assert whole < all_reduce_s(16_384, over, engine("moe"), COLLECTIVES)


def test_collectives_of_one_rank_take_no_time() -> None:
    assert all_reduce_s(1e9, (), engine("moe"), COLLECTIVES) == all_to_all_s(1000, 1e4, 8, (), COLLECTIVES) == 0


def test_an_all_reduce_across_nodes_sends_only_a_nodes_share_over_the_network() -> None:
    node, cluster = Span(8, 1e30, 0.0), Span(2, 1e9 / 0.85, 0.0, "cluster")
    assert all_reduce_s(8e9, (node, cluster), engine("moe"), COLLECTIVES) == pytest.approx(1.0)


@given(st.integers(2, 64), st.integers(2, 64), st.floats(1, 1e5), st.integers(1, 16))
def test_a_token_crosses_the_network_once_a_node_at_most(local: int, nodes: int, tokens: float, choices: int) -> None:
    node, cluster = Span(local, 1e30, 0.0), Span(nodes, 1.0, 0.0, "cluster")
    reach = COLLECTIVES.link_efficiency["cluster"] * COLLECTIVES.staged_bandwidth
    sent = staged_all_to_all_s(tokens, 1.0, choices, (node, cluster), COLLECTIVES) * reach
    assert sent <= tokens * min(choices, nodes) * (1 + 1e-9)
    assert all_to_all_s(tokens, 1.0, choices, (node, cluster), COLLECTIVES) * reach <= sent * (1 + 1e-9)
