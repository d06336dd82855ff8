"""What a rank tells of its memory is what it has taken."""

import pytest
import torch

from moe_runtime.host.memory import Memory


def test_the_memory_of_a_rank_grows_by_what_it_takes() -> None:
    memory = Memory("cpu")
    before = memory.taken_bytes()
    taken = torch.ones(64 << 18)  # 64 MiB of float32
    assert memory.taken_bytes() - before == pytest.approx(taken.nbytes, rel=0.05)
