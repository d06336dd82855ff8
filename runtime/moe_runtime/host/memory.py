"""The memory that a rank takes: of its GPU, or of the machine."""

from pathlib import Path

import torch


def memory_bytes(device: str) -> int:
    """Bytes in use on a rank's GPU, by whomever; of a CPU rank its proportional share (proc(5), Pss) of what it maps."""
    if device != "cpu":
        free, total = torch.cuda.mem_get_info(device)
        return total - free
    lines = Path("/proc/self/smaps_rollup").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("Pss:"))
