"""The frontend's hold on the ranks of this machine: start them, step them, learn why they ended, stop them.

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
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from moe_plan.layout import Coordinate, Layout
from moe_plan.plan import Plan
from moe_runtime.errors import CommunicationTimeout, RankLost, RanksFailed, RuntimeFailure
from moe_runtime.host.channel import Channel, Extent, Logits
from moe_runtime.host.messages import Device, Keep, Orders, Report, manner
from moe_runtime.step import Sampled, Step

STEP_DEADLINE_S: Final = 900.0
"""Longest time for a step; a rank gives up on another well before it."""
STOP_DEADLINE_S: Final = 10.0
"""Time that the parent has to end its ranks before it is killed, and they with it."""
_ONE_THREAD: Final = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"), "1")


class RankHost:
    """All ranks of one replica, on this machine."""

    def __init__(self, plan: Plan, checkpoint: Path | None, device: Device, keep: Keep = "tokens") -> None:
        self.plan = plan
        self._failure: RuntimeFailure | None = None
        self._lock = threading.Lock()
        channel_fd = os.memfd_create("moe-step-channel")
        plan_fd = os.memfd_create("moe-plan")
        try:
            os.write(plan_fd, plan.model_dump_json().encode())
            os.lseek(plan_fd, 0, os.SEEK_SET)
            self._channel = Channel(channel_fd, Extent.of(plan))
            orders = Orders(plan_fd, channel_fd, str(checkpoint) if checkpoint else None, device, keep)
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

    def wait_ready(self, deadline_s: float) -> None:
        """Return once every rank holds its weights.

        Raises RanksFailed when they cannot serve what they were given, RankLost when one ended or time is up.
        """
        with self._losing("are not ready"):
            self._channel.await_ready(deadline_s)

    def run_step(self, step: Step) -> list[Sampled]:
        """Compute a step: the tokens drawn, shard by shard. Raises RankLost."""
        with self._losing("did not finish a step"):
            self._channel.await_finished(STEP_DEADLINE_S)
            self._raise_failure()
            shards = self._channel.post(step)
            self._raise_failure()
            self._channel.await_answers(shards, STEP_DEADLINE_S)
        return self._channel.answers()

    def logits(self) -> Logits:
        """Logits of the last step's tokens, row by row, `[tokens, vocabulary]`; with keep="logits" only."""
        return self._channel.logits()

    def expert_tokens(self) -> NDArray[np.int64]:
        """Tokens that each physical expert has computed so far, `[layers, experts]`; zero in dense layers."""
        plan, rows = self.plan, self._channel.expert_rows
        layout = self._layout
        tokens = np.zeros((sum(stage.layers for stage in plan.stages), layout.ep, plan.experts.per_rank), np.int64)
        for stage in plan.stages:
            for ep in range(layout.ep):
                rank = layout.rank(Coordinate(stage.pp, ep, 0))
                tokens[stage.first_layer : stage.first_layer + stage.layers, ep] = rows[rank, : stage.layers]
        return tokens.reshape(len(tokens), -1)

    def stage_times_s(self) -> NDArray[np.float64]:
        """Mean over its ranks of the time each stage has spent in steps, and of that in communication, `[pp, 2]`."""
        times = np.zeros((self._layout.pp, 2))
        for rank, spent in enumerate(self._channel.times_ns):
            times[self._layout.coordinate(rank).pp] += spent
        return times / (self._layout.ep * self._layout.tp) / 1e9

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

    @property
    def _layout(self) -> Layout:
        degrees = self.plan.degrees
        return Layout(degrees.ep, degrees.tp, degrees.pp, self.plan.rank_order)

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
        self._failure = _failure(Report.from_json(line)) if line else RankLost(None, self._end())
        self._channel.raise_alarm()

    def _end(self) -> str:
        status = self._parent.wait(STOP_DEADLINE_S)
        return f"the ranks' parent process {manner(status)}" if status else "the ranks were stopped"


def _failure(report: Report) -> RuntimeFailure:
    return RanksFailed(report.cause) if report.kind == "failed" else RankLost(report.rank, report.cause)
