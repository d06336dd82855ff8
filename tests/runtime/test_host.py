"""The processes of a host: ranks that die are named, failures arrive as a sentence, and nothing is left behind."""

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tiny_plans import TINY_CONFIG, tiny_plan

from moe_plan.plan import Plan
from moe_runtime.errors import RankLost, RanksFailed
from moe_runtime.host.messages import manner
from moe_runtime.host.rank_host import RankHost
from moe_runtime.host.wire import decode_shard, encode_step
from moe_runtime.step import Chunk, Sampling, Step

READY_S = 240
GONE_S = 60


def plan_of(**layout: object) -> Plan:
    return tiny_plan(TINY_CONFIG, **layout)


def decode_step(number: int, shards: int, busy: int | None = None) -> Step:
    """One token of one request on each of the first `busy` shards; on all unless that is given."""
    chunks = tuple((Chunk(shard, (7 + shard,), number, (0,), Sampling()),) for shard in range(shards))
    idle = shards - (shards if busy is None else busy)
    return Step(number, (chunks[: shards - idle] + ((),) * idle,))


def children(pid: int) -> list[int]:
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def alive(pid: int) -> bool:
    """Whether a process runs; one that waits to be reaped does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False


def assert_gone(pids: list[int]) -> None:
    until(lambda: not any(map(alive, pids)), f"{pids} to be gone")


def until(holds: Callable[[], bool], what: str) -> None:
    give_up = time.monotonic() + GONE_S
    while not holds():
        assert time.monotonic() < give_up, f"waited in vain for {what}"
        time.sleep(0.01)


@contextmanager
def running(plan: Plan, checkpoint: Path | None = None) -> Iterator[tuple[RankHost, list[int]]]:
    """A host that is ready, and the processes of its ranks, by rank."""
    host = RankHost(plan, checkpoint, "cpu")
    try:
        host.wait_ready(READY_S)
        ranks = children(host.parent_pid)
        assert len(ranks) == plan.degrees.world
        yield host, ranks
    finally:
        host.stop()
        assert_gone([host.parent_pid])
    assert_gone(ranks)


@pytest.fixture(scope="module")
def whole() -> Iterator[tuple[RankHost, list[int]]]:
    """Ranks that tests leave as they are: EP2·TP2."""
    with running(plan_of(ep=2, tp=2)) as host_and_ranks:
        yield host_and_ranks


@pytest.mark.slow
def test_the_load_of_experts_is_told_of_the_layers_that_have_them() -> None:
    with running(tiny_plan({**TINY_CONFIG, "num_hidden_layers": 3, "mlp_only_layers": [1]}, pp=1)) as (host, _):
        host.run_step(decode_step(0, 1))
        until(lambda: host.expert_tokens().sum() == 2 * 2, "the rank to be through")
        assert host.expert_tokens().sum(1).tolist() == [2, 0, 2]


def step_on(host: RankHost, shards: int) -> None:
    for number in range(10_000):
        host.run_step(decode_step(number % 16, shards))


def test_every_busy_shard_answers_and_counters_tell_of_the_work(whole: tuple[RankHost, list[int]]) -> None:
    host, _ = whole
    computed = host.expert_tokens().sum()
    for number in range(3):
        assert [token.request for token in host.run_step(decode_step(number, 2))] == [0, 1]
    assert [token.request for token in host.run_step(decode_step(3, 2, busy=1))] == [0]
    # Seven tokens through two experts in each of two layers; ranks count when they are through with a step.
    until(lambda: host.expert_tokens().sum() == computed + 7 * 2 * 2, "the last rank to be through")
    assert host.expert_tokens().shape == (2, 8)
    ((in_steps, in_communication),) = host.stage_times_s()
    assert 0 < in_communication < in_steps


def test_ctrl_c_in_the_terminal_is_left_to_the_frontend(whole: tuple[RankHost, list[int]]) -> None:
    host, ranks = whole
    for pid in (host.parent_pid, *ranks):
        os.kill(pid, signal.SIGINT)
    assert len(host.run_step(decode_step(0, 2))) == 2


def test_what_ranks_share_has_no_name_that_could_be_left_behind(whole: tuple[RankHost, list[int]]) -> None:
    host, ranks = whole
    assert not any("/dev/shm" in Path(f"/proc/{pid}/maps").read_text() for pid in (host.parent_pid, *ranks))


@pytest.mark.slow
def test_a_killed_rank_is_named_and_no_rank_survives_it() -> None:
    with running(plan_of(ep=4, tp=2)) as (host, ranks):
        host.run_step(decode_step(0, 4))
        os.kill(ranks[5], signal.SIGKILL)
        with pytest.raises(RankLost, match="rank 5 was killed by SIGKILL") as lost:
            step_on(host, 4)
        assert lost.value.rank == 5
        assert_gone(ranks)


@pytest.mark.slow
def test_a_rank_that_dies_in_the_middle_of_a_step_does_not_leave_the_others_waiting() -> None:
    with running(plan_of(ep=4, tp=2)) as (host, ranks):
        host.run_step(decode_step(0, 4))
        os.kill(ranks[6], signal.SIGSTOP)
        killing = threading.Timer(0.5, os.kill, (ranks[6], signal.SIGKILL))
        killing.start()
        with pytest.raises(RankLost, match="rank 6"):
            host.run_step(decode_step(1, 4))
        killing.join()


@pytest.mark.slow
def test_a_rank_that_fails_says_how_and_is_named() -> None:
    with running(plan_of(ep=2)) as (host, _):
        beyond = Chunk(0, (7,), 0, (10**9,), Sampling())
        with pytest.raises(RankLost, match="rank 1 stopped: IndexError"):
            host.run_step(Step(0, (((), (beyond,)),)))


@pytest.mark.slow
def test_the_parents_death_takes_all_ranks_and_is_told() -> None:
    with running(plan_of(ep=2)) as (host, ranks):
        os.kill(host.parent_pid, signal.SIGKILL)
        with pytest.raises(RankLost, match="parent process was killed by SIGKILL"):
            step_on(host, 2)
        assert_gone(ranks)


FRONTEND = """
import sys
from tiny_plans import TINY_CONFIG, tiny_plan
from test_host import children, plan_of
from moe_runtime.host.rank_host import RankHost
host = RankHost(plan_of(ep=4), None, "cpu")
if sys.argv[1] == "ready":
    host.wait_ready(240)
print(host.parent_pid, *children(host.parent_pid), flush=True)
sys.stdin.read()
"""


@pytest.mark.slow
@pytest.mark.parametrize("when", ["ready", "starting"])
def test_a_killed_frontend_leaves_no_process(when: str) -> None:
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parent)}
    with subprocess.Popen(
        [sys.executable, "-c", FRONTEND, when], stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment
    ) as frontend:
        assert frontend.stdout
        pids = [int(pid) for pid in frontend.stdout.readline().split()]
        assert len(pids) == (5 if when == "ready" else 1)
        frontend.kill()
    assert_gone(pids)


@pytest.mark.slow
def test_stop_from_another_thread_ends_a_step_in_progress() -> None:
    with running(plan_of(ep=2)) as (host, ranks):
        host.run_step(decode_step(0, 2))
        os.kill(ranks[0], signal.SIGSTOP)
        stopping = threading.Timer(0.5, host.stop)
        stopping.start()
        with pytest.raises(RankLost, match="were stopped"):
            host.run_step(decode_step(1, 2))
        stopping.join()


@pytest.mark.slow
def test_a_checkpoint_that_cannot_be_served_arrives_as_one_sentence(tmp_path: Path) -> None:
    host = RankHost(plan_of(ep=2), tmp_path, "cpu")
    with pytest.raises(RanksFailed, match=r"config\.json") as failed:
        host.wait_ready(READY_S)
    host.stop()
    assert "\n" not in str(failed.value)


@pytest.mark.slow
@pytest.mark.skipif(torch.cuda.is_available(), reason="there are GPUs")
def test_a_rank_that_cannot_start_says_why_in_one_sentence() -> None:
    host = RankHost(plan_of(ep=2), None, "cuda")
    with pytest.raises(RanksFailed, match="GPUs on this machine, and it has 0"):
        host.wait_ready(READY_S)
    host.stop()


def test_ranks_that_are_not_ready_in_time_are_ended() -> None:
    host = RankHost(plan_of(ep=2), None, "cpu")
    with pytest.raises(RankLost, match="not ready"):
        host.wait_ready(0.05)
    assert_gone([host.parent_pid])


@pytest.mark.slow
def test_128_ranks_step_and_stop() -> None:
    with running(plan_of(ep=32, tp=4, redundant=24)) as (host, _):
        for number in range(3):
            assert len(host.run_step(decode_step(number, 32))) == 32


def test_the_way_a_process_ended_is_said_in_words() -> None:
    assert manner(3) == "ended with exit status 3"
    assert manner(-signal.SIGSEGV) == "was killed by SIGSEGV"
    assert "memory" in manner(-signal.SIGKILL)


numbers = st.integers(0, 2**40)
samplings = st.builds(Sampling, st.floats(0, 10), st.floats(0, 1), st.integers(0, 2**31), st.integers(0, 2**63 - 1))
chunks = st.builds(
    Chunk,
    request=numbers,
    tokens=st.lists(numbers, min_size=1, max_size=4).map(tuple),
    start=numbers,
    pages=st.lists(numbers, max_size=4).map(tuple),
    sampling=st.none() | samplings,
)


@given(st.integers(1, 4).flatmap(lambda ep: st.lists(st.tuples(*[st.lists(chunks, max_size=3).map(tuple)] * ep))))
def test_a_step_reads_back_shard_by_shard(micro_batches: list[tuple[tuple[Chunk, ...], ...]]) -> None:
    shards = len(micro_batches[0]) if micro_batches else 1
    words = memoryview(encode_step(Step(3, tuple(micro_batches)), range(shards)))
    busy = [batch for batch in micro_batches if any(batch)]
    for shard in range(shards):
        batches = decode_shard(words, shard, shards)
        assert [batch.chunks for batch in batches] == [batch[shard] for batch in busy]
        assert [batch.tokens for batch in batches] == [
            tuple(sum(len(chunk.tokens) for chunk in chunks) for chunks in batch) for batch in busy
        ]
