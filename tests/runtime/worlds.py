"""Ranks of a small world, forked from one process that has torch: a toy model runs on any communicator.

As a script it reads pickled jobs from standard input and answers each with what its ranks returned. The toy has what
a model asks of a communicator and nothing else: its numbers come from seeds, so that a plain loop can check them.
"""

import os
import pickle
import random
import signal
import socket
import sys
import time
import traceback
from dataclasses import dataclass
from typing import Any

import torch
from torch.distributed import TCPStore

from moe_plan.layout import Layout
from moe_runtime.comm.distributed import Distributed, Rendezvous
from moe_runtime.comm.gateway import Gateway
from moe_runtime.comm.peers import Peers, listen_at, meet
from moe_runtime.comm.segment import Extent, Segment
from moe_runtime.comm.shared_memory import SharedMemory
from moe_runtime.comm.slots import Slots


@dataclass(frozen=True)
class Job:
    """A step of the toy model."""

    communicator: str
    layout: Layout
    micro_batches: tuple[tuple[int, ...], ...]
    """Tokens by shard, of each micro-batch."""
    hidden: int = 8
    top_k: int = 2
    experts_per_rank: int = 2
    layers: int = 2
    reduces: int = 1
    """All-reduces of a layer, one after another; each turns the sign, so that one mistaken for the next shows."""
    dtype: str = "float32"
    seed: int = 0
    longest_nap_s: float = 0.0
    """Ranks sleep for up to so long between calls."""
    slots: int = 1
    """Slots that the ranks are dealt over, each with a memory of its own and a gateway."""

    @property
    def extent(self) -> Extent:
        return Extent(
            layout=self.layout,
            hidden=self.hidden,
            top_k=self.top_k,
            experts_per_rank=self.experts_per_rank,
            layers=self.layers,
            max_tokens=max(max(tokens) for tokens in self.micro_batches),
            dtype=getattr(torch, self.dtype),
        )


def noise(job: Job, *key: int) -> torch.Generator:
    return torch.Generator().manual_seed(hash((job.seed, *key)) & 0x7FFFFFFF)


def embedded(job: Job, number: int, shard: int) -> torch.Tensor:
    """[tokens, H] that enter the first stage."""
    tokens = job.micro_batches[number][shard]
    return torch.randn(tokens, job.hidden, generator=noise(job, number, shard)).to(job.extent.dtype)


def routed(job: Job, number: int, layer: int, shard: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Physical experts and weights, both [tokens, top_k]; skewed, so that some ranks have no rows."""
    tokens = job.micro_batches[number][shard]
    generator = noise(job, number, layer, shard, 1)
    popularity = torch.rand(job.layout.ep * job.experts_per_rank, generator=noise(job, number, layer)) ** 4 + 1e-6
    experts = torch.empty(0, job.top_k, dtype=torch.int64)
    if tokens:
        experts = torch.multinomial(popularity.expand(tokens, -1), job.top_k, generator=generator)
    return experts, torch.rand(tokens, job.top_k, generator=generator)


def expert(physical: int, layer: int, tp: int) -> float:
    """An expert of the toy multiplies: by this on the given tp rank, all tp ranks together."""
    return 0.25 + 0.125 * (physical % 7) + 0.0625 * layer + 0.5 * tp


def share(job: Job, tp: int) -> float:
    """What a tp rank contributes to an all-reduce; they add up to 1."""
    return (1 + tp) * 2 / (job.layout.tp * (job.layout.tp + 1))


def toy_rank(job: Job, rank: int, communicator: Any) -> list[torch.Tensor]:
    """What one rank computes; on the last stage, the gathered result of each micro-batch, else nothing."""
    layout = job.layout
    here = layout.coordinate(rank)
    naps = random.Random(job.seed * 1000 + rank)
    results = []

    def nap() -> None:
        if job.longest_nap_s and naps.random() < 0.3:
            time.sleep(naps.random() * job.longest_nap_s)

    for number, tokens in enumerate(job.micro_batches):
        if not any(tokens):
            continue
        communicator.begin(tokens)
        x = embedded(job, number, here.ep) if here.pp == 0 else communicator.receive(tokens[here.ep])
        for layer in range(here.pp * job.layers, (here.pp + 1) * job.layers):
            nap()
            for _ in range(job.reduces):
                x = -communicator.all_reduce(x * share(job, here.tp))
            experts, weights = routed(job, number, layer, here.ep)
            nap()
            arrived = communicator.dispatch(x, experts)
            first = here.ep * job.experts_per_rank
            scales = [expert(first + local, layer, here.tp) for local in range(job.experts_per_rank)]
            scale = torch.tensor(scales).repeat_interleave(torch.tensor(arrived.counts)).to(x.dtype)
            nap()
            x = communicator.combine(arrived.hidden * scale[:, None], arrived, weights)
        if here.pp < layout.pp - 1:
            communicator.send(x)
        else:
            results.append(communicator.all_gather(x + here.tp))
        communicator.end()
    communicator.close()
    return results


def expected(job: Job, number: int, shard: int) -> torch.Tensor:
    """What the last stage gathers, computed in a plain loop without ranks, in float64."""
    tp = job.layout.tp
    x = embedded(job, number, shard).double()
    for layer in range(job.layout.pp * job.layers):
        x = x * (-sum(share(job, member) for member in range(tp))) ** job.reduces
        experts, weights = routed(job, number, layer, shard)
        scales = [[sum(expert(int(e), layer, member) for member in range(tp)) for e in row] for row in experts]
        scale = (torch.tensor(scales, dtype=torch.float64).view(weights.shape) * weights).sum(1, keepdim=True)
        x = x * scale
    return torch.cat([x + member for member in range(tp)], dim=-1)


def run(job: Job) -> list[list[torch.Tensor]]:
    """Results of every rank, by rank. Raises RuntimeError with the first rank's traceback where one fails."""
    world = job.layout.world
    meetings = _segments(job) if job.communicator == "shared" else [socket.create_server(("127.0.0.1", 0))]
    pipes = [os.pipe() for _ in range(world)]
    gateways = _start_gateways(job, meetings) if job.slots > 1 else []
    pids = []
    for rank in range(world):
        pid = os.fork()
        if pid == 0:
            _run_rank(job, rank, meetings[rank * job.slots // world], pipes[rank][1])
        pids.append(pid)
    store = None if isinstance(meetings[0], Segment) else _store(meetings[0], world)
    answers = []
    for reading, writing in pipes:
        os.close(writing)
        with os.fdopen(reading, "rb") as pipe:
            answers.append(pickle.load(pipe))
    for gateway in gateways:
        os.kill(gateway, signal.SIGKILL)
    for pid in (*pids, *gateways):
        os.waitpid(pid, 0)
    for meeting in meetings:
        if isinstance(meeting, Segment) and meeting.bell is not None:
            os.close(meeting.bell)
    del store
    failed = [answer for answer in answers if isinstance(answer, str)]
    if failed:
        raise RuntimeError(failed[0])
    return answers


def _segments(job: Job) -> list[Segment]:
    """The memory of each slot."""
    ranks = job.layout.world // job.slots
    return [Segment(job.extent, Slots(job.layout, ranks, slot)) for slot in range(job.slots)]


def _start_gateways(job: Job, segments: list[Segment]) -> list[int]:
    """Process ids of the gateways, one for each slot, at loopback addresses of their own."""
    listeners = [listen_at(f"127.0.0.{2 + slot}") for slot in range(job.slots)]
    peers = Peers(tuple(listener.getsockname() for listener in listeners), "0" * 64)
    pids = []
    for slot, segment in enumerate(segments):
        pid = os.fork()
        if pid == 0:
            try:
                Gateway(segment, [job.layers] * job.layout.pp, meet(peers, slot, listeners[slot])).serve()
            except BaseException:  # noqa: BLE001  # told where the test's output goes
                traceback.print_exc()
            os._exit(1)
        pids.append(pid)
    for listener in listeners:
        listener.close()
    return pids


def _store(listener: socket.socket, world: int) -> TCPStore:
    port = listener.getsockname()[1]
    return TCPStore(
        "127.0.0.1", port, world, is_master=True, wait_for_workers=False, master_listen_fd=listener.detach()
    )


def _run_rank(job: Job, rank: int, meeting: Segment | socket.socket, pipe: int) -> None:
    try:
        answer = toy_rank(job, rank, _communicator(job, rank, meeting))
    except BaseException:  # noqa: BLE001  # the test shows it
        answer = traceback.format_exc()
    with os.fdopen(pipe, "wb") as stream:
        stream.write(pickle.dumps(answer))
    os._exit(0)


def _communicator(job: Job, rank: int, meeting: Segment | socket.socket) -> Any:
    if isinstance(meeting, Segment):
        return SharedMemory(meeting, rank)
    return Distributed(Rendezvous(*meeting.getsockname()), job.extent, rank, "cpu")


def serve() -> None:
    """Answer jobs from standard input until it ends."""
    torch.set_num_threads(1)
    while True:
        try:
            job = pickle.load(sys.stdin.buffer)
        except EOFError:
            return
        try:
            answer = run(job)
        except RuntimeError as failed:
            answer = str(failed)
        pickle.dump(answer, sys.stdout.buffer)
        sys.stdout.buffer.flush()


if __name__ == "__main__":
    serve()
