"""What a rank tells of its memory is what it has taken."""

import mmap

import pytest

from moe_runtime.host.memory import Memory

TAKEN = 64 << 20


def test_the_memory_of_a_rank_grows_by_what_it_takes() -> None:
    memory = Memory("cpu")
    before = memory.taken_bytes()
    # Not by malloc, which may hand out again what this process freed and still holds.
    with mmap.mmap(-1, TAKEN, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS) as pages:
        for start in range(0, TAKEN, mmap.PAGESIZE):
            pages[start] = 1
        assert memory.taken_bytes() - before == pytest.approx(TAKEN, rel=0.05)
