"""Chunks become tensors: each token once, in the row, page and group where the layers look for it."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_plans import tiny_plan

from moe_runtime.models.batch import PIECE_TOKENS, Batch, make_batch
from moe_runtime.models.layers import LayerExperts
from moe_runtime.models.rope import Rope, RopeSpec
from moe_runtime.models.stage import layer_experts
from moe_runtime.step import PAGE_TOKENS, Chunk, Sampling

OFFSET = 10_000
"""Token ids tell the request by their multiple of this, and the position by the rest."""

ROPE = Rope(RopeSpec(4, 100.0, 4096, "default", ()), torch.float32, "cpu")


@st.composite
def chunk_lists(draw: st.DrawFn) -> list[Chunk]:
    """Chunks of one shard, none of whose pages belongs to two."""
    extents = draw(st.lists(st.tuples(st.integers(0, 700), st.integers(1, 600), st.booleans()), min_size=1, max_size=6))
    pages = list(range(sum(-(-(start + length) // PAGE_TOKENS) for start, length, _ in extents)))
    draw(st.randoms(use_true_random=False)).shuffle(pages)
    chunks = []
    for request, (start, length, whole) in enumerate(extents):
        tokens = tuple((request * OFFSET + position) for position in range(start, start + length))
        own = tuple(pages.pop() for _ in range(-(-(start + length) // PAGE_TOKENS)))
        chunks.append(Chunk(request, tokens, start, own, Sampling() if whole else None))
    return chunks


def made(chunks: list[Chunk]) -> Batch:
    return make_batch(chunks, ROPE, 3, "cpu")


@settings(max_examples=25, deadline=None)
@given(chunk_lists())
def test_every_token_has_one_row_with_its_position_and_slot(chunks: list[Chunk]) -> None:
    batch = made(chunks)
    rows = sorted(zip(batch.tokens.tolist(), batch.positions.tolist(), batch.slots.tolist(), strict=True))
    assert rows == sorted(
        (token, position, chunk.pages[position // PAGE_TOKENS] * PAGE_TOKENS + position % PAGE_TOKENS)
        for chunk in chunks
        for position, token in enumerate(chunk.tokens, chunk.start)
    )


@settings(max_examples=25, deadline=None)
@given(chunk_lists())
def test_groups_follow_each_other_and_see_their_own_pages_alone(chunks: list[Chunk]) -> None:
    batch, reached = made(chunks), 0
    for group in batch.groups:
        assert group.rows.start == reached
        reached = group.rows.stop
        assert reached - group.rows.start <= PIECE_TOKENS
        tables = group.pages.view(group.pieces, -1).tolist()
        requests = batch.tokens[group.rows].view(group.pieces, -1)
        for pages, tokens, positions in zip(tables, requests.tolist(), group.positions.tolist(), strict=True):
            chunk = chunks[tokens[0] // OFFSET]
            needed = positions[-1] // PAGE_TOKENS + 1
            assert tuple(pages[:needed]) == chunk.pages[:needed]
            assert len(pages) * PAGE_TOKENS == group.context
    assert reached == len(batch.tokens)


@settings(max_examples=25, deadline=None)
@given(chunk_lists())
def test_the_token_drawn_follows_the_last_of_its_chunk(chunks: list[Chunk]) -> None:
    batch = made(chunks)
    assert [chunk for chunk, _ in batch.drawing] == [chunk for chunk in chunks if chunk.sampling]
    assert batch.tokens[batch.last].tolist() == [chunk.tokens[-1] for chunk, _ in batch.drawing]


@pytest.mark.parametrize("window", [None, 1, 5])
def test_a_query_sees_itself_and_what_came_before_within_the_window(window: int | None) -> None:
    group = made([Chunk(0, tuple(range(7)), 13, (0, 1), None)]).groups[0]
    mask = group.mask(window, 2, torch.float32)
    assert mask.shape == (1, 1, 2 * 7, group.context)
    for row, seen in enumerate((mask[0, 0] == 0).tolist()):
        position = 13 + row % 7
        first = 0 if window is None else max(0, position - window + 1)
        assert [key for key, is_seen in enumerate(seen) if is_seen] == list(range(first, position + 1))


def test_a_rank_holds_the_experts_that_the_plan_deals_it() -> None:
    config = {"model_type": "mixtral", "num_local_experts": 4, "num_hidden_layers": 2}
    plan = tiny_plan(config, ep=2, redundant=2, exceptions={1: (3, 0, 1, 2, 3, 1)})
    assert layer_experts(plan, 0, 1) == LayerExperts(((0, 4), (1, 5), (2,), (3,)), (3, 0, 1))
    assert layer_experts(plan, 1, 0) == LayerExperts(((1,), (2, 5), (3,), (0, 4)), (3, 0, 1))
