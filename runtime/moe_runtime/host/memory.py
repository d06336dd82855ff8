"""The memory that a rank takes: of its GPU, or of the machine."""

import os
from pathlib import Path
from typing import Final

import torch

_PAGE_BYTES: Final = os.sysconf("SC_PAGE_SIZE")


class Memory:
    """A rank's memory; made by the rank before it takes any."""

    def __init__(self, device: str) -> None:
        self._device = device
        self._inherited = _anonymous_bytes() if device == "cpu" else 0

    def taken_bytes(self) -> int:
        """Bytes in use on its GPU, by whomever; of a CPU rank what it has taken for itself since it was forked.

        On CPUs that is without what it shares with others: PyTorch, the checkpoint's files, the memory ranks talk in.
        """
        if self._device == "cpu":
            return max(0, _anonymous_bytes() - self._inherited)
        free, total = torch.cuda.mem_get_info(self._device)
        return total - free


def _anonymous_bytes() -> int:
    """Resident pages less those of files and shared memory (proc(5), statm: tens of µs, where Pss takes tens of ms)."""
    _, resident, shared, *_ = Path("/proc/self/statm").read_text().split()
    return (int(resident) - int(shared)) * _PAGE_BYTES
