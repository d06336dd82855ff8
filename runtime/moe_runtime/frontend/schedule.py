"""The schedule: which request computes which tokens on which shard in the next step. Pure: requests in, steps out.

Requests are admitted in the order of arrival, each to the shard with the fewest pages promised, once the pages of its
prompt and of its longest answer are free there. A step gives every shard its decodes first, then prefill in chunks,
at most `batch_tokens` together; `complete` takes what the ranks answered, `restart` forgets what lost ranks knew.
"""

from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass, field
from itertools import chain, islice
from typing import Literal

from moe_plan.plan import Plan
from moe_runtime.frontend.pages import PageAllocator, pages_for, pages_per_shard
from moe_runtime.step import Chunk, MicroBatch, Sampled, Sampling, Step

FinishReason = Literal["stop", "length"]


@dataclass(frozen=True, slots=True)
class Capacity:
    """What the ranks can take at once."""

    shards: int
    """ep coordinates."""
    pages: int
    """KV pages of one shard."""
    batch_tokens: int
    """Most tokens of one shard in one step."""
    micro_batches: int
    """Most micro-batches of a step."""


def capacity(plan: Plan) -> Capacity:
    """Capacity of one replica; a single stage has nothing to overlap and so takes each step whole."""
    degrees = plan.degrees
    micro_batches = plan.micro_batches if degrees.pp > 1 else 1
    return Capacity(degrees.ep, pages_per_shard(plan), plan.limits.max_batch_tokens, micro_batches)


@dataclass(slots=True, eq=False)
class Request:
    """What is asked for, and how far it is."""

    number: int
    """Order of arrival."""
    prompt: tuple[int, ...]
    """Token ids."""
    max_tokens: int
    """Most tokens to generate."""
    sampling: Sampling
    end_tokens: frozenset[int] = frozenset()
    """Tokens after which nothing follows."""
    tokens: list[int] = field(default_factory=list)
    """Generated so far."""
    computed: int = 0
    """Tokens of prompt and answer whose keys and values the ranks hold."""
    shard: int = -1
    """Where it runs; -1 while it waits."""
    pages: list[int] = field(default_factory=list)

    @property
    def pending(self) -> int:
        """Tokens known and not yet computed: 1 for a decode."""
        return len(self.prompt) + len(self.tokens) - self.computed

    @property
    def reservation(self) -> int:
        """Pages of the prompt and the longest answer."""
        return pages_for(len(self.prompt) + self.max_tokens)

    def next_tokens(self, count: int) -> tuple[int, ...]:
        """The next tokens to compute."""
        if self.computed >= len(self.prompt):
            start = self.computed - len(self.prompt)
            return tuple(self.tokens[start : start + count])
        known = chain(islice(self.prompt, self.computed, None), self.tokens)
        return tuple(islice(known, count))

    def finish_reason(self) -> FinishReason | None:
        """Why nothing follows the last token; None when something does."""
        if self.tokens and self.tokens[-1] in self.end_tokens:
            return "stop"
        return "length" if len(self.tokens) >= self.max_tokens else None


@dataclass(frozen=True, slots=True)
class Progress:
    """A request's new token."""

    request: Request
    token: int
    logprob: float
    finish_reason: FinishReason | None


class Shard:
    """The requests that run on one ep coordinate, in the order of arrival, and their pages."""

    def __init__(self, pages: int) -> None:
        self.pages = PageAllocator(pages)
        self.running: list[Request] = []

    def admit(self, request: Request, index: int) -> None:
        """Promise the request its pages and run it."""
        self.pages.reserve(request.reservation)
        request.shard = index
        self.running.append(request)

    def remove(self, request: Request) -> None:
        """Take the request off the shard, with its pages and what was computed of it."""
        self.running.remove(request)
        self.pages.release(request.pages, request.reservation)
        request.pages, request.computed, request.shard = [], 0, -1

    def chunks(self, batch_tokens: int) -> list[Chunk]:
        """The shard's part of the next step: decodes, then prefill by arrival, at most `batch_tokens` together."""
        chunks = []
        for request in sorted(self.running, key=lambda request: request.pending > 1):
            count = min(request.pending, batch_tokens)
            if count:
                chunks.append(self._chunk(request, count))
                batch_tokens -= count
        return chunks

    def _chunk(self, request: Request, count: int) -> Chunk:
        missing = pages_for(request.computed + count) - len(request.pages)
        request.pages.extend(self.pages.take() for _ in range(missing))
        sampling = request.sampling if count == request.pending else None
        tokens = request.next_tokens(count)
        return Chunk(request.number, tokens, request.computed, tuple(request.pages), sampling)


class Scheduler:
    """Request state and the next step. Not thread-safe: one thread asks, answers and cancels."""

    def __init__(self, capacity: Capacity) -> None:
        self.capacity = capacity
        self.waiting: deque[Request] = deque()
        self.shards = [Shard(capacity.pages) for _ in range(capacity.shards)]
        self.holds = False
        """Whether waiting requests go on waiting: ranks are about to go, and running requests are finished first."""
        self._running: dict[int, Request] = {}
        self._step: Step | None = None
        self._steps = 0

    @property
    def running(self) -> int:
        """Requests that hold pages."""
        return len(self._running)

    @property
    def pages_used(self) -> int:
        """KV pages in use, over all shards."""
        return sum(shard.pages.used for shard in self.shards)

    def add(self, request: Request) -> None:
        """Queue a request. It must fit an empty shard."""
        assert request.reservation <= self.capacity.pages, "a request was accepted that no shard can hold"
        assert request.prompt, "a request without a prompt was accepted"
        assert request.max_tokens > 0, "a request for no tokens was accepted"
        self.waiting.append(request)

    def cancel(self, request: Request) -> None:
        """End a request, wherever it is; the answer of a step that it is part of will be ignored."""
        if request.number in self._running:
            self._end(request)
        elif request in self.waiting:
            self.waiting.remove(request)

    def next_step(self) -> Step | None:
        """What the ranks compute next; None when there is nothing to do."""
        assert self._step is None, "the previous step is not complete"
        self._admit()
        chunks = [shard.chunks(self.capacity.batch_tokens) for shard in self.shards]
        if any(chunks):
            self._step = Step(self._steps, _micro_batches(chunks, self.capacity.micro_batches))
            self._steps += 1
        return self._step

    def complete(self, sampled: Iterable[Sampled]) -> list[Progress]:
        """Take the ranks' answer to the last step; finished requests leave their shard."""
        assert self._step is not None, "an answer came to no step"
        chunks, self._step = list(_chunks(self._step)), None
        for chunk in chunks:
            if request := self._running.get(chunk.request):
                request.computed = chunk.start + len(chunk.tokens)
        answers = {one.request: one for one in sampled}
        assert answers.keys() == {chunk.request for chunk in chunks if chunk.sampling}, "the answer is to another step"
        return [self._grow(self._running[number], one) for number, one in answers.items() if number in self._running]

    def restart(self) -> None:
        """The ranks lost their KV caches: every running request waits again, in front and in order of arrival."""
        again = list(self._running.values())
        for request in again:
            self._end(request)
        self.waiting = deque(sorted([*again, *self.waiting], key=lambda request: request.number))
        self._step = None

    def _admit(self) -> None:
        while self.waiting and not self.holds:
            index = self._shard_for(self.waiting[0])
            if index is None:
                return
            request = self.waiting.popleft()
            self.shards[index].admit(request, index)
            self._running[request.number] = request

    def _shard_for(self, request: Request) -> int | None:
        """The least loaded shard with room; None when none has."""

        def has_room(shard: Shard) -> bool:
            # Each running request may want a token in the same step.
            return shard.pages.fits(request.reservation) and len(shard.running) < self.capacity.batch_tokens

        room = [index for index, shard in enumerate(self.shards) if has_room(shard)]
        return min(room, key=lambda index: (self.shards[index].pages.reserved, index), default=None)

    def _grow(self, request: Request, one: Sampled) -> Progress:
        request.tokens.append(one.token)
        reason = request.finish_reason()
        if reason is not None:
            self._end(request)
        return Progress(request, one.token, one.logprob, reason)

    def _end(self, request: Request) -> None:
        self.shards[request.shard].remove(request)
        del self._running[request.number]


def _chunks(step: Step) -> Iterable[Chunk]:
    return (chunk for micro_batch in step.micro_batches for shard in micro_batch for chunk in shard)


def _micro_batches(chunks: list[list[Chunk]], most: int) -> tuple[MicroBatch, ...]:
    """Deal each shard's chunks over micro-batches of about equal tokens; no more of them than chunks."""
    count = min(most, max(len(of_shard) for of_shard in chunks))
    dealt = [_deal(of_shard, count) for of_shard in chunks]
    return tuple(zip(*dealt, strict=True))


def _deal(chunks: list[Chunk], count: int) -> list[tuple[Chunk, ...]]:
    """The longest chunk first, each to the micro-batch with the fewest tokens."""
    parts: list[list[Chunk]] = [[] for _ in range(count)]
    tokens = [0] * count
    for chunk in sorted(chunks, key=lambda chunk: -len(chunk.tokens)):
        lightest = tokens.index(min(tokens))
        parts[lightest].append(chunk)
        tokens[lightest] += len(chunk.tokens)
    return [tuple(part) for part in parts]
