"""What the ranks of a slot share with who drives them: the step, the answers, counters, and why one ended. No torch.

The frontend, or in other slots the agent, posts a step and wakes the ranks; each shard's last-stage rank with tp 0
stores its answers; every rank says that it is through. A step is posted only when all ranks are through with the one
before, so one copy of everything is enough. The memory is a memfd: it has no name in any file system and goes with its
last process.
"""

import json
import mmap
import os
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from moe_plan.plan import Plan
from moe_runtime.comm.futex import LINE, MOST_ARRIVALS, Word
from moe_runtime.comm.peers import Peers
from moe_runtime.comm.slots import Slots
from moe_runtime.frontend.pages import pages_per_shard
from moe_runtime.host.figures import COLUMNS
from moe_runtime.host.wire import CHUNK_WORDS, WORD_BYTES, Words, decode_shard, header_words
from moe_runtime.step import Sampled, ShardBatch

_WORDS: Final = 6
_RAISED: Final = 1 << 30
_LAST_WORDS_BYTES: Final = 16384
_MOST_CHARACTERS: Final = 1200
_PEERS_BYTES: Final = 1 << 17
_PAGE: Final = 4096
ANSWER: Final = np.dtype([("request", np.int64), ("token", np.int64), ("logprob", np.float64)])
Logits = NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Extent:
    """What decides the sizes of a channel."""

    first_rank: int
    ranks: int
    members: int
    """Ranks, and the gateway where there is one."""
    ep: int
    micro_batches: int
    max_tokens: int
    """Most tokens of one shard in a step."""
    pages: int
    """KV pages of one shard."""
    vocab: int
    layers: int
    """Most layers of a stage."""
    experts_per_rank: int

    @classmethod
    def of(cls, plan: Plan, slots: Slots, members: int) -> "Extent":
        """What a plan needs in one slot."""
        return cls(
            first_rank=slots.ranks.start,
            ranks=len(slots.ranks),
            members=members,
            ep=plan.degrees.ep,
            micro_batches=plan.micro_batches,
            max_tokens=plan.limits.max_batch_tokens,
            pages=pages_per_shard(plan),
            vocab=plan.model.config["vocab_size"],
            layers=max(stage.layers for stage in plan.stages),
            experts_per_rank=plan.experts.per_rank,
        )

    @property
    def step_words(self) -> int:
        """Words of the largest step: each token may be a chunk, and a page belongs to one request."""
        chunks = self.max_tokens * (CHUNK_WORDS + 1) + self.pages
        return header_words(self.micro_batches, self.ep) + self.ep * chunks


class Channel:
    """The mapped memory. Frontend, parent and ranks each have one, of the same memory."""

    def __init__(self, fd: int, extent: Extent) -> None:
        assert extent.members <= MOST_ARRIVALS
        self.extent = extent
        ranks, ep, rows = extent.ranks, extent.ep, extent.max_tokens
        sizes = (
            _WORDS * LINE,
            LINE,
            _PEERS_BYTES,
            extent.members * _LAST_WORDS_BYTES,
            ranks * COLUMNS * WORD_BYTES,
            ranks * extent.layers * extent.experts_per_rank * WORD_BYTES,
            extent.step_words * WORD_BYTES,
            ep * WORD_BYTES,
            ep * rows * ANSWER.itemsize,
            ep * rows * extent.vocab * 4,
        )
        starts = [0]
        for size in sizes:
            starts.append(-(-(starts[-1] + size) // _PAGE) * _PAGE)
        os.ftruncate(fd, starts[-1])
        self._memory = mmap.mmap(fd, starts[-1])
        self._step, self._ready, self._answered, self._finished, self._listening, self._introduced = (
            Word(self._memory, LINE * index) for index in range(_WORDS)
        )
        _, numbers, peers, last_words, figures, load, step, counts, answers, logits = starts[: len(sizes)]
        self._numbers = self._array(numbers, np.int64, 2)
        self._peers = memoryview(self._memory)[peers : peers + _PEERS_BYTES]
        self._last_words = last_words
        self.figures = self._array(figures, np.int64, ranks, COLUMNS)
        """What each rank counts of itself, as host/figures.py has it, `[ranks, COLUMNS]`."""
        self.expert_rows = self._array(load, np.int64, ranks, extent.layers, extent.experts_per_rank)
        """Rows computed by each local expert of each rank with tp 0, `[ranks, layer of the stage, expert]`."""
        self._words = memoryview(self._memory)[step : step + extent.step_words * WORD_BYTES].cast("q")
        self._counts = self._array(counts, np.int64, ep)
        self._answers = self._array(answers, ANSWER, ep, rows)
        self._logits = self._array(logits, np.float32, ep, rows, extent.vocab)
        self._posted = 0

    def _array(self, offset: int, dtype: Any, *shape: int) -> NDArray[Any]:
        count = int(np.prod(shape))
        return np.frombuffer(self._memory, dtype=dtype, count=count, offset=offset).reshape(shape)

    # The side of who drives the ranks.

    def await_port(self, timeout_s: float) -> int:
        """Port at which this slot waits for the others, or 0; or the alarm was raised. Raises CommunicationTimeout."""
        self._listening.wait(1, "the ranks' parent to listen", timeout_s)
        return int(self._numbers[0])

    def introduce(self, peers: Peers) -> None:
        """Tell where the other slots listen. Raises ValueError when they are too many."""
        text = peers.to_json().encode()
        if len(text) > _PEERS_BYTES:
            raise ValueError(f"addresses of {len(peers.addresses)} slots take {len(text)} bytes, of {_PEERS_BYTES}")
        self._peers[: len(text)] = text
        self._introduced.add_and_wake()

    def await_ready(self, timeout_s: float) -> None:
        """Return when every rank is ready, or the alarm was raised. Raises CommunicationTimeout."""
        self._ready.wait(self.extent.members, "the ranks to start", timeout_s)

    def await_finished(self, timeout_s: float) -> None:
        """Return when every rank is through with the last step, or the alarm was raised."""
        if self._posted:
            self._finished.wait(self.extent.ranks, "the ranks to finish a step", timeout_s)

    def is_ready(self) -> bool:
        """Whether every rank is ready."""
        return self._ready.reached(self.extent.members)

    def post(self, words: Words, answers: int) -> None:
        """Hand an encoded step to the ranks, of which so many answer. Raises ValueError when it is too large."""
        if len(words) > len(self._words):
            raise ValueError(f"a step has {len(words)} words, and the plan's limits admit {len(self._words)}")
        self._words[: len(words)] = memoryview(words)
        self._counts[:] = 0
        self._numbers[1] = answers
        self._answered.write(0)
        self._finished.write(0)
        self._posted += 1
        self._step.add_and_wake()

    def await_answers(self, timeout_s: float) -> None:
        """Return when all that are to answer have, or the alarm was raised. Raises CommunicationTimeout."""
        self._answered.wait(int(self._numbers[1]), "the answers of a step", timeout_s)

    def answers(self) -> list[Sampled]:
        """The tokens of the step, shard by shard."""
        return [
            Sampled(*answer)
            for shard in np.flatnonzero(self._counts)
            for answer in self._answers[shard, : self._counts[shard]].tolist()
        ]

    def logits(self) -> Logits:
        """Logits of `answers`, row by row, `[answers, vocabulary]`: a copy. Only where ranks show them."""
        return np.concatenate([self._logits[shard, :count] for shard, count in enumerate(self._counts)])

    def raise_alarm(self) -> None:
        """Let every wait of who drives the ranks return: they are gone, or of no use any more."""
        for word in (self._listening, self._ready, self._answered, self._finished):
            word.write(_RAISED)
            word.wake()

    # The ranks' side.

    def say_port(self, port: int) -> None:
        """This slot waits for the others there. Made by the ranks' parent, once."""
        self._numbers[0] = port
        self._listening.add_and_wake()

    def await_peers(self, timeout_s: float) -> Peers:
        """Where the other slots listen. Raises CommunicationTimeout."""
        self._introduced.wait(1, "the other slots to start", timeout_s)
        return Peers.from_json(bytes(self._peers).rstrip(b"\0"))

    def say_ready(self) -> None:
        """This rank has its weights, or this gateway its connections."""
        self._ready.arrive(self.extent.members)

    def next_step(self, seen: int, shard: int) -> list[ShardBatch]:
        """Sleep until more than `seen` steps were posted; the shard's part of the newest."""
        while not self._step.wait_change(seen, timeout_s=3600):
            pass  # an idle replica; the rank dies with its parent
        return decode_shard(self._words, shard, self.extent.ep)

    def answer(self, shard: int, sampled: list[Sampled]) -> None:
        """Store the tokens of a shard. Made by its last-stage rank with tp 0."""
        self._answers[shard, : len(sampled)] = [(token.request, token.token, token.logprob) for token in sampled]
        self._counts[shard] = len(sampled)
        self._answered.arrive(int(self._numbers[1]))

    def show_logits(self, shard: int, logits: Logits) -> None:
        """Store the logits of what the shard is about to answer, `[answers, vocabulary]`."""
        self._logits[shard, : len(logits)] = logits

    def finish(self) -> None:
        """This rank is through with the step."""
        self._finished.arrive(self.extent.ranks)

    # Last words.

    def leave_last_words(self, member: int, words: dict[str, str]) -> None:
        """Store why a member of the slot ends, for its parent: ranks are numbered from the slot's first."""
        # JSON writes a character in at most six bytes.
        text = json.dumps({key: value[-_MOST_CHARACTERS:] for key, value in words.items()}).encode()
        start = self._last_words + member * _LAST_WORDS_BYTES
        self._memory[start : start + len(text)] = text

    def last_words(self, member: int) -> dict[str, str]:
        """Why a member said it ended; empty when it could not say."""
        start = self._last_words + member * _LAST_WORDS_BYTES
        text = self._memory[start : start + _LAST_WORDS_BYTES].rstrip(b"\0")
        return dict(json.loads(text)) if text else {}
