"""What communication through shared memory costs among 128 ranks of this machine.

    python -m moe_runtime.bench.comm [--ep 64] [--tp 2] [--hidden 64] [--top-k 2] [--calls 100]

Ranks do nothing else, so what is printed is a lower bound of what a layer spends. Wall time is that of all ranks
together; processor time that of one, waking up and going to sleep included.
"""

import argparse
import os
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from mmap import mmap

import numpy as np
import torch

from moe_plan.layout import Layout
from moe_runtime.comm.futex import LINE, Barrier, die_with_parent
from moe_runtime.comm.segment import Extent, Segment
from moe_runtime.comm.shared_memory import SharedMemory

TIMEOUT_S = 120.0
Call = Callable[[], object]
Prepare = Callable[[Segment, int], Call]


@dataclass(frozen=True, slots=True)
class Cost:
    """What one call costs, in µs: the median rank's."""

    wall_us: float
    processor_us: float


def measure(extent: Extent, prepare: Prepare, calls: int) -> Cost:
    """Fork the ranks of `extent`, have each make the call that `prepare` gives it, and time them."""
    world = extent.layout.world
    segment = Segment(extent)
    shared = mmap(-1, Barrier.LINES * LINE + 16 * world)
    times = np.frombuffer(shared, dtype=np.float64, offset=Barrier.LINES * LINE).reshape(world, 2)
    parent = os.getpid()
    pids = []
    for rank in range(world):
        pid = os.fork()
        if pid == 0:
            die_with_parent(parent)
            start = Barrier(shared, 0, world)
            call = prepare(segment, rank)
            call()
            start.arrive()
            start.wait("the ranks to start", TIMEOUT_S)
            times[rank] = _time(call, calls)
            os._exit(0)
        pids.append(pid)
    for pid in pids:
        os.waitpid(pid, 0)
    wall_s, processor_s = np.median(times, axis=0)
    return Cost(wall_s / calls * 1e6, processor_s / calls * 1e6)


def _time(call: Call, calls: int) -> tuple[float, float]:
    wall, processor = time.perf_counter(), time.process_time()
    for _ in range(calls):
        call()
    return time.perf_counter() - wall, time.process_time() - processor


def barrier(segment: Segment, rank: int) -> Call:
    """All ranks arrive, all leave."""
    world = segment.extent.layout.world
    everybody = Barrier(segment.memory, segment.stages[0].arrivals, world)

    def call() -> None:
        everybody.arrive()
        everybody.wait("the barrier", TIMEOUT_S)
        if rank == 0:
            everybody.clear()

    return call


def all_reduce(segment: Segment, rank: int) -> Call:
    """One token's hidden state is summed over tp."""
    communicator = SharedMemory(segment, rank)
    x = torch.ones(1, segment.extent.hidden, dtype=segment.extent.dtype)
    return lambda: communicator.all_reduce(x)


def moe_layer(busy: int) -> Prepare:
    """Dispatch and combine, each of the first `busy` shards with one token."""

    def prepare(segment: Segment, rank: int) -> Call:
        extent = segment.extent
        shard = extent.layout.coordinate(rank).ep
        communicator = SharedMemory(segment, rank)
        tokens = [int(other < busy) for other in range(extent.layout.ep)]
        hidden = torch.ones(tokens[shard], extent.hidden, dtype=extent.dtype)
        experts = (shard + torch.arange(extent.top_k)).remainder(extent.layout.ep)[: extent.top_k * tokens[shard]]
        experts = experts.view(tokens[shard], extent.top_k)
        weights = torch.full(experts.shape, 0.5, dtype=extent.dtype)

        def call() -> None:
            communicator.begin(tokens)
            for _ in range(extent.layers):
                arrived = communicator.dispatch(hidden, experts)
                communicator.combine(arrived.hidden, arrived, weights)
            communicator.end()

        return call

    return prepare


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description="Cost of communication through shared memory.")
    for name, default in (("ep", 64), ("tp", 2), ("hidden", 64), ("top-k", 2), ("layers", 16), ("calls", 100)):
        parser.add_argument(f"--{name}", type=int, default=default, help="(%(default)s)")
    options = parser.parse_args()
    torch.set_num_threads(1)
    torch.set_grad_enabled(mode=False)
    extent = Extent(
        layout=Layout(options.ep, options.tp, 1),
        hidden=options.hidden,
        top_k=options.top_k,
        experts_per_rank=1,
        layers=options.layers,
        max_tokens=1,
        dtype=torch.bfloat16,
    )
    steps = max(1, options.calls // extent.layers)
    _write(f"{extent.layout.world} ranks on {len(os.sched_getaffinity(0))} cores", "wall µs", "processor µs")
    _print("barrier of all ranks", measure(extent, barrier, options.calls), 1)
    _print("all_reduce over tp, one token", measure(extent, all_reduce, options.calls), 1)
    for busy in (1, extent.layout.ep):
        name = f"dispatch and combine, {busy} of {extent.layout.ep} shards busy"
        _print(name, measure(extent, moe_layer(busy), steps), extent.layers)


def _print(name: str, cost: Cost, calls: int) -> None:
    _write(name, f"{cost.wall_us / calls:.0f}", f"{cost.processor_us / calls:.1f}")


def _write(name: str, wall: str, processor: str) -> None:
    sys.stdout.write(f"{name:<48}{wall:>10}{processor:>16}\n")
    sys.stdout.flush()  # or what is buffered would be written once more by each rank that is forked


if __name__ == "__main__":
    main()
