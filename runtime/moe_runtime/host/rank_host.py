"""A hold on the ranks of one slot, or of all: start them, step them, learn why they ended, stop them.

    ranks = RankHost(plan, checkpoint, "cpu")     # returns at once; torch is imported by another process
    ranks.wait_ready(900)
    tokens = ranks.run_step(step)
    ranks.stop()

No torch here: the frontend starts quickly and outlives its ranks. One thread at a time may step; any may stop.
"""

import contextlib
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from moe_plan.plan import Plan
from moe_runtime.comm.peers import Peers
from moe_runtime.errors import CommunicationTimeout, RankLost, RuntimeFailure
from moe_runtime.host import figures
from moe_runtime.host.channel import Channel, Extent, Logits
from moe_runtime.host.messages import Device, Keep, Orders, Report, failure_of, manner
from moe_runtime.host.tier import Tier
from moe_runtime.host.wire import Words, busy_shards, encode_step
from moe_runtime.step import Sampled, Step

STEP_DEADLINE_S: Final = 900.0
"""Longest time for a step; a rank gives up on another well before it."""
STOP_DEADLINE_S: Final = 10.0
"""Time that the parent has to end its ranks before it is killed, and they with it."""
_HERE: Final = "127.0.0.1"
_ONE_THREAD: Final = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"), "1")


@dataclass(frozen=True, slots=True)
class Post:
    """The slot whose ranks are to be run, and where other slots reach it."""

    slot: int
    address: str


class RankHost:
    """The ranks of one slot of a replica; without a post all of its ranks, on this machine."""

    def __init__(
        self, plan: Plan, checkpoint: Path | None, device: Device, keep: Keep = "tokens", post: Post | None = None
    ) -> None:
        self.plan = plan
        slot, address = (post.slot, post.address) if post else (None, _HERE)
        self._tier = Tier.of(plan, slot, device)
        self._failure: RuntimeFailure | None = None
        self._on_loss: Callable[[], None] = _ignore
        self._lock = threading.Lock()
        channel_fd = os.memfd_create("moe-step-channel")
        plan_fd = os.memfd_create("moe-plan")
        try:
            os.write(plan_fd, plan.model_dump_json().encode())
            os.lseek(plan_fd, 0, os.SEEK_SET)
            self._channel = Channel(channel_fd, Extent.of(plan, self._tier.slots, self._tier.members))
            weights = str(checkpoint) if checkpoint else None
            orders = Orders(plan_fd, channel_fd, weights, device, keep, slot, address)
            self._parent = subprocess.Popen(  # noqa: S603  # the interpreter that runs this, and our own module
                [sys.executable, "-m", "moe_runtime.host.parent", orders.to_json()],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                pass_fds=(plan_fd, channel_fd),
                env={**os.environ, **_ONE_THREAD},
            )
        finally:
            os.close(channel_fd)
            os.close(plan_fd)
        self._watcher = threading.Thread(target=self._watch, name="ranks' parent", daemon=True)
        self._watcher.start()

    def wait_listening(self, deadline_s: float) -> int:
        """Port at which this slot waits for the others; 0 where it does not. Raises as wait_ready."""
        with self._losing("did not begin"):
            return self._channel.await_port(deadline_s)

    def introduce(self, peers: Peers) -> None:
        """Tell the ranks where those of other slots are."""
        self._channel.introduce(peers)

    def wait_ready(self, deadline_s: float) -> None:
        """Return once every rank holds its weights.

        Raises RanksFailed when they cannot serve what they were given, RankLost when one ended or time is up.
        """
        with self._losing("are not ready"):
            self._channel.await_ready(deadline_s)

    def run_step(self, step: Step) -> list[Sampled]:
        """Compute a step: the tokens drawn, shard by shard. Raises RankLost."""
        busy = busy_shards(step)
        self.wait_finished()
        self.post(encode_step(step, busy), len(busy))
        return self.wait_answers()

    def wait_finished(self) -> None:
        """Return when all ranks are through with the last step. Raises RankLost."""
        with self._losing("did not finish a step"):
            self._channel.await_finished(STEP_DEADLINE_S)

    def post(self, words: Words, answers: int) -> None:
        """Have the ranks compute an encoded step, in which so many shards answer here; the last is finished."""
        self._channel.post(words, answers)

    def wait_answers(self) -> list[Sampled]:
        """The tokens drawn here, shard by shard. Raises RankLost."""
        with self._losing("did not answer a step"):
            self._channel.await_answers(STEP_DEADLINE_S)
        return self._channel.answers()

    def logits(self) -> Logits:
        """Logits of the last step's tokens, row by row, `[tokens, vocabulary]`; with keep="logits" only."""
        return self._channel.logits()

    def expert_rows(self) -> NDArray[np.int64]:
        """Rows that each rank's experts have computed so far, `[ranks, layer of the stage, local expert]`."""
        return self._channel.expert_rows

    def figures(self) -> NDArray[np.int64]:
        """What each rank counts of itself, as host/figures.py has it, `[ranks, columns]`."""
        return self._channel.figures

    def expert_tokens(self) -> NDArray[np.int64]:
        """See figures.expert_tokens; where all ranks are here."""
        return figures.expert_tokens(self.plan, self._channel.expert_rows)

    def stage_times_s(self) -> NDArray[np.float64]:
        """See figures.stage_times_s; where all ranks are here."""
        return figures.stage_times_s(self.plan, self._channel.figures)

    def memory_bytes(self) -> NDArray[np.int64]:
        """Memory that each rank takes, `[ranks]`; 0 where not yet known."""
        return self._channel.figures[:, figures.MEMORY_BYTES]

    def paces(self) -> Mapping[int, float]:
        """None: ranks of one machine have nobody to be slower than."""
        return {}

    def slow_slots(self) -> Mapping[int, float]:
        """None, likewise."""
        return {}

    def missing_slots(self) -> Sequence[int]:
        """None: all ranks are here."""
        return ()

    def leaving_slots(self) -> Sequence[int]:
        """None, likewise."""
        return ()

    def release(self, slots: Sequence[int]) -> None:
        """Nothing: there is nobody to let go."""

    def check(self) -> None:
        """Raise RankLost if the ranks were lost while nobody asked them anything."""
        self._raise_failure()

    @property
    def failure(self) -> RuntimeFailure | None:
        """Why the ranks cannot go on."""
        return self._failure

    def on_loss(self, call: Callable[[], None]) -> None:
        """Call, from another thread, when the ranks are lost; at once if they are."""
        self._on_loss = call
        if self._failure is not None:
            call()

    def give_up(self, failure: RuntimeFailure) -> None:
        """Have whoever waits for these ranks, now or later, meet a failure that came from elsewhere."""
        self._failure = self._failure or failure
        self._channel.raise_alarm()

    def _lose(self, failure: RuntimeFailure) -> None:
        self.give_up(failure)
        self._on_loss()

    def stop(self) -> None:
        """End every rank. Safe to call twice and from another thread; a step in progress raises RankLost there."""
        with self._lock:
            if self._parent.poll() is None:
                self._parent.terminate()
            try:
                self._parent.wait(STOP_DEADLINE_S)
            except subprocess.TimeoutExpired:
                self._parent.kill()
                self._parent.wait()
            assert self._parent.stdin
            self._parent.stdin.close()
        self._watcher.join(STOP_DEADLINE_S)

    @property
    def parent_pid(self) -> int:
        """Process id of the ranks' parent."""
        return self._parent.pid

    @contextlib.contextmanager
    def _losing(self, what: str) -> Iterator[None]:
        try:
            yield
        except CommunicationTimeout as late:
            self.stop()
            raise RankLost(None, f"the ranks {what}: {late}") from None
        self._raise_failure()

    def _raise_failure(self) -> None:
        if self._failure is not None:
            raise self._failure

    def _watch(self) -> None:
        """Learn from the parent, or from its end, that the ranks cannot go on."""
        assert self._parent.stdout
        with self._parent.stdout as reports:
            line = reports.readline()
        self._lose(failure_of(Report.from_json(line)) if line else RankLost(None, self._end()))

    def _end(self) -> str:
        status = self._parent.wait(STOP_DEADLINE_S)
        return f"the ranks' parent process {manner(status)}" if status else "the ranks were stopped"


def _ignore() -> None:
    """Nobody wants to know before it is asked for."""
