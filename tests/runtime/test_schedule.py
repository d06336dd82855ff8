"""The schedule alone: random requests and an imagined model, no processes."""

from collections.abc import Callable
from dataclasses import dataclass

import pytest
from hypothesis import given
from hypothesis import strategies as st

from moe_runtime.frontend.pages import PageAllocator, pages_for
from moe_runtime.frontend.schedule import Capacity, Request, Scheduler
from moe_runtime.step import PAGE_TOKENS, Chunk, Sampled, Sampling, Step

GREEDY = Sampling()


@dataclass
class Case:
    capacity: Capacity
    requests: list[Request]


@st.composite
def cases(draw: st.DrawFn) -> Case:
    shards = draw(st.integers(1, 4))
    pages = draw(st.integers(1, 8))
    capacity = Capacity(shards, pages, draw(st.integers(1, 40)), draw(st.integers(1, 4)))
    requests = []
    for number in range(draw(st.integers(1, 12))):
        length = draw(st.integers(2, pages * PAGE_TOKENS))
        prompt = draw(st.integers(1, length - 1))
        requests.append(Request(number, tuple(range(prompt)), length - prompt, GREEDY, frozenset({7})))
    return Case(capacity, requests)


def chunks_of(step: Step) -> list[Chunk]:
    return [chunk for micro_batch in step.micro_batches for shard in micro_batch for chunk in shard]


def model(tokens: list[int]) -> int:
    """A model whose next token follows from all tokens before it."""
    return (sum(tokens) * 31 + len(tokens)) % 97


class ImaginedRanks:
    """Keeps what each page holds, and answers only from pages: what a page lost, the answer lacks."""

    def __init__(self, capacity: Capacity) -> None:
        self.pages: list[dict[int, list[int]]] = [{} for _ in range(capacity.shards)]

    def run(self, step: Step) -> list[Sampled]:
        answers = []
        for micro_batch in step.micro_batches:
            for pages, chunks in zip(self.pages, micro_batch, strict=True):
                answers += [self._run(pages, chunk) for chunk in chunks if self._write(pages, chunk)]
        return answers

    def _write(self, pages: dict[int, list[int]], chunk: Chunk) -> bool:
        for position, token in enumerate(chunk.tokens, chunk.start):
            page = pages.setdefault(chunk.pages[position // PAGE_TOKENS], [0] * PAGE_TOKENS)
            page[position % PAGE_TOKENS] = token
        return chunk.sampling is not None

    def _run(self, pages: dict[int, list[int]], chunk: Chunk) -> Sampled:
        known = [token for page in chunk.pages for token in pages[page]][: chunk.start + len(chunk.tokens)]
        return Sampled(chunk.request, model(known), 0.0)


def alone(request: Request) -> list[int]:
    tokens: list[int] = []
    while len(tokens) < request.max_tokens and tokens[-1:] != [7]:
        tokens.append(model([*request.prompt, *tokens]))
    return tokens


def run_to_end(scheduler: Scheduler, ranks: ImaginedRanks, check: Callable[[Step], None] | None = None) -> None:
    for _ in range(100_000):
        step = scheduler.next_step()
        if step is None:
            return
        if check:
            check(step)
        scheduler.complete(ranks.run(step))
    pytest.fail("the schedule does not end")


@given(cases())
def test_every_request_gets_the_tokens_it_gets_alone(case: Case) -> None:
    scheduler = Scheduler(case.capacity)
    for request in case.requests:
        scheduler.add(request)
    run_to_end(scheduler, ImaginedRanks(case.capacity))
    assert [request.tokens for request in case.requests] == [alone(request) for request in case.requests]
    assert not scheduler.running
    assert not scheduler.waiting
    assert scheduler.pages_used == 0
    assert all(shard.pages.reserved == 0 for shard in scheduler.shards)


@given(cases())
def test_no_step_exceeds_tokens_pages_or_micro_batches_and_no_page_has_two_owners(case: Case) -> None:
    scheduler = Scheduler(case.capacity)
    for request in case.requests:
        scheduler.add(request)

    def check(step: Step) -> None:
        assert 1 <= len(step.micro_batches) <= case.capacity.micro_batches
        assert all(any(micro_batch) for micro_batch in step.micro_batches)
        for shard in range(case.capacity.shards):
            chunks = [chunk for micro_batch in step.micro_batches for chunk in micro_batch[shard]]
            owned = [page for request in scheduler.shards[shard].running for page in request.pages]
            assert sum(len(chunk.tokens) for chunk in chunks) <= case.capacity.batch_tokens
            assert len(set(owned)) == len(owned)
            assert all(0 <= page < case.capacity.pages for page in owned)
            assert all(len(chunk.pages) >= pages_for(chunk.start + len(chunk.tokens)) for chunk in chunks)

    run_to_end(scheduler, ImaginedRanks(case.capacity), check)


@given(cases())
def test_requests_start_in_the_order_they_arrived(case: Case) -> None:
    scheduler = Scheduler(case.capacity)
    for request in case.requests:
        scheduler.add(request)
    started: list[int] = []

    def check(_step: Step) -> None:
        running = sorted(request.number for shard in scheduler.shards for request in shard.running)
        started.extend(number for number in running if number not in started)

    run_to_end(scheduler, ImaginedRanks(case.capacity), check)
    assert started == sorted(started)


@given(cases(), st.sets(st.integers(0, 60), max_size=4))
def test_lost_ranks_change_no_token(case: Case, losses: set[int]) -> None:
    scheduler = Scheduler(case.capacity)
    for request in case.requests:
        scheduler.add(request)
    ranks = ImaginedRanks(case.capacity)
    for number in range(61):
        if scheduler.next_step() and number in losses:
            ranks = ImaginedRanks(case.capacity)
            scheduler.restart()
        elif scheduler._step:
            scheduler.complete(ranks.run(scheduler._step))
    run_to_end(scheduler, ranks)
    assert [request.tokens for request in case.requests] == [alone(request) for request in case.requests]


@given(cases(), st.sets(st.integers(0, 11)), st.integers(0, 20))
def test_cancelled_requests_end_and_the_others_do_not_notice(case: Case, gone: set[int], steps: int) -> None:
    scheduler = Scheduler(case.capacity)
    for request in case.requests:
        scheduler.add(request)
    ranks = ImaginedRanks(case.capacity)
    for _ in range(steps):
        if step := scheduler.next_step():
            scheduler.complete(ranks.run(step))
    last = scheduler.next_step()
    for request in case.requests:
        if request.number in gone:
            scheduler.cancel(request)
    if last:
        scheduler.complete(ranks.run(last))
    run_to_end(scheduler, ranks)
    left = [request for request in case.requests if request.number not in gone]
    assert [request.tokens for request in left] == [alone(request) for request in left]
    assert scheduler.pages_used == 0


def test_decodes_go_before_prefill() -> None:
    scheduler = Scheduler(Capacity(shards=1, pages=100, batch_tokens=8, micro_batches=1))
    scheduler.add(Request(0, (1, 2), 20, GREEDY))
    ranks = ImaginedRanks(scheduler.capacity)
    first = scheduler.next_step()
    assert first is not None
    scheduler.complete(ranks.run(first))
    scheduler.add(Request(1, tuple(range(30)), 5, GREEDY))
    second = scheduler.next_step()
    assert second is not None
    assert {chunk.request: len(chunk.tokens) for chunk in chunks_of(second)} == {0: 1, 1: 7}


def test_requests_spread_over_idle_shards() -> None:
    scheduler = Scheduler(Capacity(shards=4, pages=10, batch_tokens=8, micro_batches=1))
    for number in range(4):
        scheduler.add(Request(number, (1, 2, 3), 4, GREEDY))
    step = scheduler.next_step()
    assert step is not None
    assert [len(shard) for shard in step.micro_batches[0]] == [1, 1, 1, 1]


def test_micro_batches_share_the_tokens_evenly() -> None:
    scheduler = Scheduler(Capacity(shards=1, pages=100, batch_tokens=100, micro_batches=2))
    for number, length in enumerate((10, 30, 20)):
        scheduler.add(Request(number, tuple(range(length)), 4, GREEDY))
    step = scheduler.next_step()
    assert step is not None
    assert [sum(len(chunk.tokens) for chunk in batch[0]) for batch in step.micro_batches] == [30, 30]


def test_only_the_last_piece_of_a_prompt_is_sampled() -> None:
    scheduler = Scheduler(Capacity(shards=1, pages=10, batch_tokens=4, micro_batches=1))
    scheduler.add(Request(0, tuple(range(10)), 3, GREEDY))
    ranks = ImaginedRanks(scheduler.capacity)
    sampled = []
    for _ in range(3):
        step = scheduler.next_step()
        assert step is not None
        sampled.append([chunk.sampling for chunk in chunks_of(step)])
        scheduler.complete(ranks.run(step))
    assert sampled == [[None], [None], [GREEDY]]


def test_freed_pages_are_used_again_before_fresh_ones() -> None:
    pages = PageAllocator(4)
    pages.reserve(2)
    taken = [pages.take(), pages.take()]
    pages.release(taken, 2)
    pages.reserve(3)
    assert {pages.take(), pages.take()} == set(taken)
    assert pages.take() not in taken
