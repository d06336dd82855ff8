"""Pods of a replica as processes of this machine: each at a loopback address of its own, with its own memory."""

import os
import signal
import socket
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import httpx
from endpoint import DEADLINE_S, Command, Endpoint, wait_until_gone

from moe_plan.plan import Plan


def in_slots(plan: Plan, slots: int) -> Plan:
    """The plan with its ranks dealt over slots."""
    return plan.model_copy(update={"slots": slots, "ranks_per_slot": plan.degrees.world // slots})


def free_port() -> int:
    with socket.create_server(("127.0.0.2", 0)) as free:
        return free.getsockname()[1]


def address(slot: int) -> str:
    return f"127.0.0.{2 + slot}"


class Pods:
    """A replica: the frontend's pod is an Endpoint, the others are Commands."""

    def __init__(self, folder: Path, plan: Plan, checkpoint: Path | None, attempt: int = 1) -> None:
        self.folder, self.plan, self.checkpoint, self.attempt = folder, plan, checkpoint, attempt
        self.port, self.agent_port = free_port(), free_port()
        self.workers: dict[int, Command] = {}
        """The newest of each slot."""
        self.started: list[Command] = []
        (folder / "plan.json").write_text(plan.model_dump_json())

    def environment(self, slot: int, host: str) -> dict[str, str]:
        """What the operator gives a pod."""
        return {
            "LWS_LEADER_ADDRESS": address(0),
            "LWS_GROUP_SIZE": str(self.plan.slots),
            "LWS_WORKER_INDEX": str(slot),
            "MASTER_ADDR": address(0),
            "MASTER_PORT": str(self.port),
            "MOE_ATTEMPT": str(self.attempt),
            "MOE_AGENT_PORT": str(self.agent_port),
            "MOE_JOIN_SECRET": "of these pods",
            "POD_IP": host,
        }

    def frontend(self) -> Endpoint:
        """Slot 0."""
        env = self.environment(0, address(0))
        endpoint = Endpoint(self.folder, self.plan, self.checkpoint, env, ["--host", address(0)])
        self.started.append(endpoint)
        return endpoint

    def worker(self, slot: int, host: str | None = None) -> Command:
        """Another slot, at the address of its number unless another is given."""
        host = host or address(slot)
        given = ["--checkpoint", str(self.checkpoint)] if self.checkpoint else []
        plan = str(self.folder / "plan.json")
        env = self.environment(slot, host)
        self.workers[slot] = Command(["serve", "--plan", plan, *given, "--host", host], env)
        self.started.append(self.workers[slot])
        return self.workers[slot]

    def probe(self, slot: int, path: str = "/agent/ready") -> httpx.Response:
        """What a kubelet would be told."""
        return httpx.get(f"http://{address(slot)}:{self.agent_port}{path}", timeout=DEADLINE_S)


@contextmanager
def running(
    folder: Path, plan: Plan, checkpoint: Path | None = None, absent: Sequence[int] = ()
) -> Iterator[tuple[Pods, Endpoint]]:
    """All pods but the absent, started; at the end they are told to stop, and nothing of them may be left."""
    pods = Pods(folder, plan, checkpoint)
    try:
        frontend = pods.frontend()
        for slot in range(1, plan.slots):
            if slot not in absent:
                pods.worker(slot)
        yield pods, frontend
        end(pods)
    except BaseException:
        _tell(pods)
        raise
    finally:
        for command in pods.started:
            command.__exit__()


def _tell(pods: Pods) -> None:
    """Print what all pods have said: pytest shows it with the failure."""
    for command in pods.started:
        command.catch_up()
        status = command.process.poll()
        print(f"--- {' '.join(command.process.args[-2:])}: {'runs' if status is None else f'ended with {status}'}")  # noqa: T201
        print(command.stderr)  # noqa: T201


def end(pods: Pods) -> None:
    """Tell all pods to stop, and see that nothing of them is left."""
    family = {pid for command in pods.started for pid in (command.process.pid, *command.descendants())}
    running = [command for command in pods.started if command.process.poll() is None]
    for command in running:
        command.process.send_signal(signal.SIGTERM)
    for command in running:
        command.wait()
    assert wait_until_gone(family) == set()


def kill_pod(pod: Command) -> None:
    """Take a pod away at once, as a node that dies does."""
    family = {pod.process.pid, *pod.descendants()}
    os.kill(pod.process.pid, signal.SIGKILL)
    pod.wait()
    assert wait_until_gone(family) == set()
