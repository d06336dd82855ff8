"""Collectives give what a plain loop gives: in any layout, with idle shards and ranks without rows, at any speed."""

import pickle
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from worlds import Job, expected

from moe_plan.layout import DIMENSIONS, Layout
from moe_runtime.comm.slots import Slots

Results = list[list[torch.Tensor]]
RunJob = Callable[[Job], Results]

ONLY = settings(deadline=None, max_examples=8, suppress_health_check=[HealthCheck.function_scoped_fixture])


@pytest.fixture(scope="module")
def run_job() -> Iterator[RunJob]:
    """Runs jobs in worlds forked from one process of its own."""
    script = Path(__file__).with_name("worlds.py")
    with subprocess.Popen([sys.executable, script], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdin
        assert process.stdout

        def run(job: Job) -> Results:
            pickle.dump(job, process.stdin)
            process.stdin.flush()
            answer = pickle.load(process.stdout)
            assert not isinstance(answer, str), answer
            return answer

        yield run
        process.stdin.close()


def assert_right(job: Job, results: Results) -> None:
    """Every last-stage rank has the loop's numbers, and all tp ranks of a shard the same bits."""
    numbers = [number for number, tokens in enumerate(job.micro_batches) if any(tokens)]
    for rank in range(job.layout.world):
        here = job.layout.coordinate(rank)
        if here.pp < job.layout.pp - 1:
            assert results[rank] == []
            continue
        first = results[job.layout.rank(here._replace(tp=0))]
        for number, result, same in zip(numbers, results[rank], first, strict=True):
            assert torch.equal(result, same)
            want = expected(job, number, here.ep)
            torch.testing.assert_close(result.double(), want, rtol=_tolerance(job), atol=_tolerance(job))


def _tolerance(job: Job) -> float:
    return 1e-5 if job.dtype == "float32" else 3e-2 * job.layers * job.layout.pp


@st.composite
def jobs(draw: st.DrawFn, communicator: str) -> Job:
    """Worlds of at most 8 ranks with up to 3 micro-batches, some shards idle."""
    degrees = [(ep, tp, pp) for ep in (1, 2, 3, 4, 8) for tp in (1, 2, 3) for pp in (1, 2) if ep * tp * pp <= 8]
    ep, tp, pp = draw(st.sampled_from(degrees))
    tokens = st.tuples(*[st.integers(0, 5)] * ep)
    micro_batches = draw(st.lists(tokens, min_size=1, max_size=3).filter(lambda batches: any(map(any, batches))))
    experts_per_rank = draw(st.integers(1, 3))
    return Job(
        communicator,
        Layout(ep, tp, pp, tuple(draw(st.permutations(DIMENSIONS)))),
        tuple(micro_batches),
        top_k=draw(st.integers(1, min(3, ep * experts_per_rank))),
        experts_per_rank=experts_per_rank,
        layers=draw(st.integers(1, 3)),
        dtype=draw(st.sampled_from(["float32", "float32", "bfloat16"])),
        seed=draw(st.integers(0, 1000)),
    )


@pytest.mark.slow
@ONLY
@given(job=jobs("shared"))
def test_shared_memory_computes_what_a_plain_loop_computes(run_job: RunJob, job: Job) -> None:
    assert_right(job, run_job(job))


@st.composite
def parted(draw: st.DrawFn) -> Job:
    """Worlds of several slots, a shard's tp ranks in one of them."""
    job = draw(jobs("shared").filter(lambda job: job.layout.world > 1))
    world = job.layout.world
    possible = [
        slots
        for slots in range(2, world + 1)
        if world % slots == 0 and not Slots(job.layout, world // slots, 0).parts_tensor_groups
    ]
    assume(possible)
    return replace(job, slots=draw(st.sampled_from(possible)))


@pytest.mark.slow
@ONLY
@given(job=parted())
def test_ranks_in_several_slots_have_the_same_bits_as_in_one(run_job: RunJob, job: Job) -> None:
    results = run_job(job)
    assert_right(job, results)
    assert_same_bits(results, run_job(replace(job, slots=1)))


def assert_same_bits(results: Results, others: Results) -> None:
    for of_rank, of_other in zip(results, others, strict=True):
        assert all(torch.equal(one, other) for one, other in zip(of_rank, of_other, strict=True))


def test_slots_exchange_tokens_outputs_and_hidden_states(run_job: RunJob) -> None:
    job = Job("shared", Layout(2, 2, 2), ((1, 2), (0, 3), (2, 0)), slots=4)
    assert_right(job, run_job(job))


@pytest.mark.slow
@pytest.mark.parametrize(("layout", "slots"), [(Layout(4, 2, 1), 4), (Layout(2, 2, 2, ("ep", "pp", "tp")), 2)], ids=str)
def test_no_gateway_overtakes_a_slow_rank(run_job: RunJob, layout: Layout, slots: int) -> None:
    for seed in range(2):
        job = Job("shared", layout, changing_shards(layout.ep), layers=4, seed=seed, longest_nap_s=0.002, slots=slots)
        assert_right(job, run_job(job))


@pytest.mark.slow
@ONLY
@given(job=jobs("gloo"))
def test_gloo_computes_what_a_plain_loop_computes(run_job: RunJob, job: Job) -> None:
    assert_right(job, run_job(job))


@pytest.mark.slow
@pytest.mark.parametrize("layout", [Layout(4, 2, 1), Layout(2, 2, 2)], ids=str)
def test_no_store_overtakes_a_slow_reader(run_job: RunJob, layout: Layout) -> None:
    """Hundreds of layers with ranks napping at random, busy shards changing from micro-batch to micro-batch."""
    for seed in range(3):
        job = Job("shared", layout, changing_shards(layout.ep), layers=4, seed=seed, longest_nap_s=0.002)
        assert_right(job, run_job(job))


def changing_shards(ep: int) -> tuple[tuple[int, ...], ...]:
    """Tokens of 40 micro-batches, half of the shards idle, never the same."""
    shards = torch.randint(0, 4, (40, ep), generator=torch.Generator().manual_seed(1))
    shards[torch.rand(shards.shape, generator=torch.Generator().manual_seed(2)) < 0.5] = 0
    return tuple(tuple(row) for row in shards.tolist())


@pytest.mark.parametrize("tp", [2, 3])
def test_all_reduces_follow_each_other_without_mixing(run_job: RunJob, tp: int) -> None:
    job = Job("shared", Layout(1, tp, 1), ((64,),) * 4, hidden=512, reduces=100)
    assert_right(job, run_job(job))


@pytest.mark.slow
def test_128_ranks_talk(run_job: RunJob) -> None:
    layout = Layout(64, 2, 1)
    job = Job("shared", layout, ((1,) * 64, (1,) + (0,) * 63), experts_per_rank=1, layers=16)
    in_one_slot = run_job(job)
    assert_right(job, in_one_slot)
    assert_same_bits(run_job(replace(job, slots=16)), in_one_slot)


def test_tensors_larger_than_the_exchange_buffer_go_in_pieces(run_job: RunJob) -> None:
    job = Job("shared", Layout(1, 2, 1), ((300,),), hidden=1024, layers=1, experts_per_rank=2)
    assert_right(job, run_job(job))
