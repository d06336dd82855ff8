"""Words in shared memory: no arrival is lost, no sleeper forgotten, no wait without an end."""

import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from mmap import PAGESIZE, mmap
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from moe_plan.layout import Layout
from moe_runtime.comm.futex import LINE, MOST_ARRIVALS, Word
from moe_runtime.comm.segment import Extent, Segment
from moe_runtime.errors import CommunicationTimeout

PROCESSES = 4
WORD = 2**32


def resident_bytes() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * PAGESIZE


@pytest.fixture
def word() -> Word:
    return Word(mmap(-1, PAGESIZE), LINE)


def in_processes(fd: int, script: str, processes: int = PROCESSES) -> list[subprocess.Popen]:
    """Start processes that share `memory`."""
    preamble = f"from mmap import mmap\nfrom moe_runtime.comm.futex import *\nmemory = mmap({fd}, {PAGESIZE})\n"
    return [subprocess.Popen([sys.executable, "-c", preamble + script], pass_fds=[fd]) for _ in range(processes)]


@pytest.fixture
def shared() -> Iterator[int]:
    fd = os.memfd_create("test")
    os.ftruncate(fd, PAGESIZE)
    yield fd
    os.close(fd)


def test_no_addition_is_lost_among_processes(shared: int) -> None:
    adds = 20_000
    for process in in_processes(shared, f"word = Word(memory, 0)\nfor _ in range({adds}): word.add()"):
        assert process.wait(60) == 0
    assert Word(mmap(shared, PAGESIZE), 0).read() == PROCESSES * adds


def test_nobody_leaves_a_barrier_before_all_have_arrived(shared: int) -> None:
    """Each process counts itself before it arrives, so behind the barrier all are counted, and none twice."""
    script = f"""
barrier, turns = Barrier(memory, 0, {PROCESSES}), Word(memory, 1024)
def meet():
    barrier.arrive()
    barrier.wait("the others", 30)
    if LEADS:
        barrier.clear()
for turn in range(2000):
    assert turns.read() == turn * {PROCESSES}
    meet()
    turns.add()
    meet()
"""
    processes = in_processes(shared, script.replace("LEADS", "True"), 1)
    processes += in_processes(shared, script.replace("LEADS", "False"), PROCESSES - 1)
    assert [process.wait(60) for process in processes] == [0] * PROCESSES


def test_a_sleeper_is_woken_by_the_last_arrival(word: Word) -> None:
    woken = threading.Event()

    def sleep() -> None:
        word.wait(3, "three arrivals", 30)
        woken.set()

    sleeper = threading.Thread(target=sleep)
    sleeper.start()
    word.arrive(3)
    word.arrive(3)
    assert not woken.is_set()
    word.arrive(3)
    sleeper.join(30)
    assert woken.is_set()


def test_who_is_awaited_in_vain_is_named(word: Word) -> None:
    word.add()
    with pytest.raises(CommunicationTimeout, match="waited 0 s for the others; 2 arrivals were missing"):
        word.wait(3, "the others", 0.01)


def test_waiting_for_a_change_ends(word: Word) -> None:
    assert not word.wait_change(0, 0.01)
    word.add_and_wake()
    assert word.wait_change(0, 30)


@given(start=st.integers(0, WORD - 1), adds=st.integers(1, MOST_ARRIVALS))
def test_counts_go_on_past_the_end_of_the_word(start: int, adds: int) -> None:
    word = Word(mmap(-1, PAGESIZE), 0)
    word.write(start)
    assert word.reached(start)
    assert not word.reached((start + adds) % WORD)
    word.add(adds)
    assert word.read() == (start + adds) % WORD
    assert word.reached((start + adds) % WORD)


def test_a_segment_for_large_steps_takes_no_memory_until_it_is_used() -> None:
    extent = Extent(Layout(64, 2, 1), 1024, 8, 4, 16, 8192, torch.bfloat16)
    before = resident_bytes()
    segment = Segment(extent)
    assert len(segment.memory) > 10e9
    assert resident_bytes() - before < 50e6


def test_areas_of_a_segment_do_not_overlap() -> None:
    extent = Extent(Layout(2, 2, 2), 8, 2, 2, 2, 4, torch.float32)
    segment = Segment(extent)
    offsets = [getattr(area, name) for area in segment.stages for name in area.__slots__]
    offsets += [getattr(area, name) for area in segment.shards.values() for name in area.__slots__]
    assert len(set(offsets)) == len(offsets)
    assert max(offsets) < len(segment.memory)
