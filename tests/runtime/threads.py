"""Ranks as threads of one process: the plainest communicator there can be, and a loop that generates with it."""

import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import torch
from torch import Tensor

from moe_plan.layout import Layout
from moe_plan.plan import Plan
from moe_runtime.checkpoint import Weights
from moe_runtime.comm.base import Dispatched
from moe_runtime.executor import Executor
from moe_runtime.step import PAGE_TOKENS, Chunk, Sampled, Sampling, ShardBatch

DEADLINE_S = 60

torch.set_num_threads(1)  # ranks are threads already


class Exchange:
    """A board on which ranks post values for each other, group by group and call by call."""

    def __init__(self) -> None:
        self._board: dict[Any, Any] = {}
        self._changed = threading.Condition()
        self.failed = False

    def post(self, key: Any, value: Any) -> None:
        with self._changed:
            self._board[key] = value
            self._changed.notify_all()

    def await_all(self, keys: Sequence[Any]) -> list[Any]:
        with self._changed:
            arrived = self._changed.wait_for(
                lambda: self.failed or all(key in self._board for key in keys), timeout=DEADLINE_S
            )
            if not arrived or self.failed:
                raise TimeoutError(f"waited in vain for {keys}")
            return [self._board[key] for key in keys]

    def fail(self) -> None:
        with self._changed:
            self.failed = True
            self._changed.notify_all()


class ThreadCommunicator:
    """What comm/base.py promises, in the fewest words."""

    def __init__(self, plan: Plan, rank: int, exchange: Exchange) -> None:
        layout = Layout(plan.degrees.ep, plan.degrees.tp, plan.degrees.pp, plan.rank_order)
        self._rank, self._exchange, self._calls = rank, exchange, {}
        here = layout.coordinate(rank)
        self._ep, self._tp_degree, self._per_rank = here.ep, layout.tp, plan.experts.per_rank
        self._tp_group = [layout.rank(here._replace(tp=tp)) for tp in range(layout.tp)]
        self._ep_group = [layout.rank(here._replace(ep=ep)) for ep in range(layout.ep)]
        self._stage = [layout.rank(here._replace(ep=ep, tp=tp)) for ep in range(layout.ep) for tp in range(layout.tp)]
        self.rows = 0
        """Rows that its experts have had."""
        self._before = layout.rank(here._replace(pp=here.pp - 1)) if here.pp else None

    def _number(self, kind: str) -> int:
        self._calls[kind] = self._calls.get(kind, -1) + 1
        return self._calls[kind]

    def _share(self, kind: str, value: Any, group: Sequence[int]) -> list[Any]:
        number = self._number(kind)
        self._exchange.post((kind, number, self._rank), value)
        return self._exchange.await_all([(kind, number, rank) for rank in group])

    def begin(self, tokens: Sequence[int]) -> None:
        assert any(tokens)

    def end(self) -> None:
        pass

    def all_reduce(self, x: Tensor) -> Tensor:
        return torch.stack(self._share("all_reduce", x.clone(), self._tp_group)).sum(0)

    def all_gather(self, x: Tensor) -> Tensor:
        return torch.cat(self._share("all_gather", x.clone(), self._tp_group), -1)

    def dispatch(self, hidden: Tensor, experts: Tensor) -> Dispatched:
        assert len(hidden) == len(experts)
        assert all(len(set(row)) == len(row) for row in experts.tolist()), "experts of a token are distinct"
        shards = self._share("dispatch", (hidden.clone(), experts.clone()), self._ep_group)
        rows, counts, sources = [], [], []
        for expert in range(self._ep * self._per_rank, (self._ep + 1) * self._per_rank):
            found = [
                (s, *place) for s, (_, chosen) in enumerate(shards) for place in (chosen == expert).nonzero().tolist()
            ]
            counts.append(len(found))
            sources += found
            rows += [shards[s][0][token] for s, token, _ in found]
        self.rows += len(rows)
        return Dispatched(torch.stack(rows) if rows else hidden[:0], counts, sources)

    def combine(self, output: Tensor, dispatched: Dispatched, weights: Tensor) -> Tensor:
        mine = {source: row.clone() for source, row in zip(dispatched.handle, output, strict=True)}
        made = self._share("combine", mine, self._stage)
        combined = output.new_zeros(len(weights), output.shape[-1])
        for token, k in ((token, k) for token in range(len(weights)) for k in range(weights.shape[1])):
            parts = [found[self._ep, token, k] for found in made if (self._ep, token, k) in found]
            assert len(parts) == self._tp_degree, "each tp rank of one expert answers"
            combined[token] += weights[token, k] * torch.stack(parts).sum(0)
        return combined

    def send(self, x: Tensor) -> None:
        self._exchange.post(("send", self._number("send"), self._rank), x.clone())

    def receive(self, tokens: int) -> Tensor:
        (x,) = self._exchange.await_all([("send", self._number("receive"), self._before)])
        assert len(x) == tokens
        return x.clone()

    def close(self) -> None:
        pass


class ThreadedRanks:
    """All ranks of a plan, stepped together."""

    def __init__(self, plan: Plan, weights: Weights, device: str = "cpu") -> None:
        self.plan = plan
        self._pool = ThreadPoolExecutor(plan.degrees.world)
        self._exchange = Exchange()
        self._layout = Layout(plan.degrees.ep, plan.degrees.tp, plan.degrees.pp, plan.rank_order)
        self.communicators = [ThreadCommunicator(plan, rank, self._exchange) for rank in range(plan.degrees.world)]
        self.executors = self._on_all(lambda rank: Executor(plan, rank, self.communicators[rank], weights, device))

    def _on_all(self, work: Callable[[int], Any]) -> list[Any]:
        def guarded(rank: int) -> Any:
            try:
                return work(rank)
            except BaseException:
                self._exchange.fail()
                raise

        futures = [self._pool.submit(guarded, rank) for rank in range(self.plan.degrees.world)]
        failures = [e for future in futures if (e := future.exception()) is not None]
        for failure in sorted(failures, key=lambda e: isinstance(e, TimeoutError)):
            raise failure
        return [future.result() for future in futures]

    def step(self, micro_batches: Sequence[Sequence[Sequence[Chunk]]]) -> list[Sampled]:
        """One step, `[micro-batch][shard][chunk]`."""

        def run(rank: int) -> list[Sampled]:
            shard = self._layout.coordinate(rank).ep
            return self.executors[rank].run(
                [batch for batch in shard_batches(micro_batches, shard) if any(batch.tokens)]
            )

        return [sampled for found in self._on_all(run) for sampled in found]

    def close(self) -> None:
        self._pool.shutdown()


def shard_batches(micro_batches: Sequence[Sequence[Sequence[Chunk]]], shard: int) -> list[ShardBatch]:
    """What a shard is given of micro-batches, `[micro-batch][shard][chunk]`."""
    return [
        ShardBatch(tuple(sum(len(chunk.tokens) for chunk in chunks) for chunks in shards), tuple(shards[shard]))
        for shards in micro_batches
    ]


def generate(
    step: Callable[[Any], list[Sampled]],
    plan: Plan,
    prompts: Sequence[Sequence[int]],
    new_tokens: int,
    chunk_tokens: int = 1 << 30,
) -> list[list[int]]:
    """Greedy tokens of each prompt: dealt over shards and micro-batches in turn, in pieces of `chunk_tokens`."""
    ep = plan.degrees.ep
    most_pages = -(-(max(map(len, prompts)) + new_tokens) // PAGE_TOKENS)
    tokens = [list(prompt) for prompt in prompts]
    done = [0] * len(prompts)
    while any(len(t) - len(p) < new_tokens for t, p in zip(tokens, prompts, strict=True)):
        batches: list[list[list[Chunk]]] = [[[] for _ in range(ep)] for _ in range(plan.micro_batches)]
        for request, known in enumerate(tokens):
            if len(known) - len(prompts[request]) >= new_tokens:
                continue
            piece = tuple(known[done[request] : done[request] + chunk_tokens])
            # Pages of a request are scattered, as they are after others have come and gone.
            pages = tuple((request // ep) + page * (-(-len(prompts) // ep)) for page in range(most_pages))
            whole = done[request] + len(piece) == len(known)
            chunk = Chunk(request, piece, done[request], pages, Sampling() if whole else None)
            batches[(request // ep) % plan.micro_batches][request % ep].append(chunk)
            done[request] += len(piece)
        for sampled in step(batches):
            tokens[sampled.request].append(sampled.token)
    return [t[len(p) :] for t, p in zip(tokens, prompts, strict=True)]
