"""Joining a replica of several pods: who is taken in, who is refused, and what strangers can do. No ranks are run."""

import selectors
import socket
import struct
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pods import in_slots
from tiny_plans import tiny_plan

from moe_plan.layout import DIMENSIONS, Coordinate, Layout
from moe_runtime.cli import main
from moe_runtime.comm.link import Frame, Link
from moe_runtime.comm.link import Kind as FrameKind
from moe_runtime.comm.peers import Peers, listen_at, meet
from moe_runtime.comm.slots import Slots
from moe_runtime.errors import CommunicationTimeout, ProtocolError, SlotLost
from moe_runtime.frontend.listen import listen
from moe_runtime.group import agent as agent_module
from moe_runtime.group.agent import Agent
from moe_runtime.group.connection import PROTOCOL, Connection, Disconnected, Kind, Message
from moe_runtime.group.contents import Counters, answers_body, read_answers, read_step, slot_extent, step_body
from moe_runtime.group.handshake import join
from moe_runtime.group.hub import Hub
from moe_runtime.group.membership import GroupError, Membership, NameUnknown
from moe_runtime.group.probes import answering_probes
from moe_runtime.host.tier import Tier
from moe_runtime.step import Sampled

CONFIG = {
    "model_type": "qwen3_moe",
    "vocab_size": 96,
    "num_hidden_layers": 2,
    "num_experts": 8,
    "num_experts_per_tok": 2,
    "hidden_size": 32,
}
PLAN = in_slots(tiny_plan(CONFIG, ep=2, tp=2, pp=2), 4)
HELLO = {"slot": 1, "attempt": 3, "plan": PLAN.hash, "protocol": PROTOCOL}
SECOND = 60.0


class Listener:
    """A generation that notes what it is told."""

    number = 7
    is_over = False

    def __init__(self) -> None:
        self.events: list[tuple[str, int]] = []
        self._changed = threading.Condition()

    def _note(self, what: str, slot: int) -> None:
        with self._changed:
            self.events.append((what, slot))
            self._changed.notify_all()

    def heard(self, slot: int, message: Message) -> None:
        self._note(message.kind.name, slot)

    def gone(self, slot: int) -> None:
        self._note("gone", slot)

    def leaving(self, slot: int) -> None:
        self._note("leaving", slot)

    def wait_for(self, *events: tuple[str, int]) -> None:
        with self._changed:
            assert self._changed.wait_for(lambda: self.events == list(events), SECOND), self.events


@contextmanager
def hub(secret: str = "") -> Iterator[tuple[Hub, Listener, tuple[str, int]]]:
    listening = socket.create_server(("127.0.0.1", 0))
    made, listener = Hub(PLAN, 3, listening, secret), Listener()
    made.serve(listener)
    try:
        yield made, listener, listening.getsockname()
    finally:
        made.close()


@contextmanager
def connected(where: tuple[str, int]) -> Iterator[Connection]:
    connection = Connection(socket.create_connection(where, timeout=SECOND))
    try:
        yield connection
    finally:
        connection.close()


@contextmanager
def agent(where: tuple[str, int], secret: str = "") -> Iterator[Connection]:
    """An agent that was taken in."""
    with connected(where) as connection:
        join(connection, HELLO, secret, SECOND)
        yield connection


def next_of(connection: Connection) -> Message:
    return connection.receive(1 << 20, SECOND)


def test_an_agent_is_welcomed_and_told_to_start_its_ranks() -> None:
    with hub() as (made, listener, where), agent(where) as connection:
        start = next_of(connection)
        assert (start.kind, start.generation) == (Kind.START, 7)
        assert made.missing() == [2, 3]
        connection.send(Kind.READY, 6)  # of a generation that is over
        connection.send(Kind.READY, 7)
        listener.wait_for(("READY", 1))
        connection.hang_up()
        listener.wait_for(("READY", 1), ("gone", 1))
        assert made.missing() == [1, 2, 3]


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"protocol": 99}, "it speaks protocol 99, the frontend 3; run the same image in all pods"),
        ({"plan": "f" * 64}, "it has plan ffffffff, the frontend 00000000"),
        ({"attempt": 2}, "it is of attempt 2, the frontend of 3"),
        ({"slot": 0}, "it has slot 0, and agents have slots 1 to 3"),
        ({"slot": 4}, "it has slot 4"),
        ({"slot": "1"}, "it has slot '1'"),
        ({"slot": None}, "it has slot None"),
    ],
)
def test_an_agent_that_does_not_belong_is_refused_with_the_reason(changes: dict[str, object], reason: str) -> None:
    with hub() as (made, _, where), connected(where) as connection:
        connection.send_json(Kind.HELLO, 0, {**HELLO, **changes})
        refused = next_of(connection)
        assert refused.kind is Kind.REFUSED
        assert reason in refused.json()["reason"]
        with pytest.raises(Disconnected):
            next_of(connection)
        assert made.missing() == [1, 2, 3]


def test_agents_that_know_the_secret_are_taken_in() -> None:
    with hub("a secret") as (_, _, where), agent(where, "a secret") as connection:
        assert next_of(connection).kind is Kind.START


@pytest.mark.parametrize(("theirs", "own"), [("a secret", "another"), ("a secret", ""), ("", "a secret")])
def test_an_agent_and_a_frontend_with_different_secrets_do_not_take_part(theirs: str, own: str) -> None:
    with hub(theirs) as (made, listener, where), connected(where) as connection:
        with pytest.raises(GroupError, match="not been given the same MOE_JOIN_SECRET; give it to all pods"):
            join(connection, HELLO, own, SECOND)
        assert made.missing() == [1, 2, 3]
        assert listener.events == []


def test_who_repeats_what_an_agent_has_said_is_not_taken_in() -> None:
    """Neither an old proof nor the frontend's own is one."""
    with hub("a secret") as (made, _, where), connected(where) as connection:
        connection.send_json(Kind.HELLO, 0, {**HELLO, "number": "1"})
        old = next_of(connection).json()
        for proof in (old["proof"], "", None, "é"):
            with connected(where) as stranger:
                stranger.send_json(Kind.HELLO, 0, {**HELLO, "number": "1"})
                assert next_of(stranger).kind is Kind.CHALLENGE
                stranger.send_json(Kind.PROOF, 0, {"proof": proof})
                refused = next_of(stranger)
                assert refused.kind is Kind.REFUSED
                assert "MOE_JOIN_SECRET" in refused.json()["reason"]
        assert made.missing() == [1, 2, 3]


def test_an_agent_that_says_anything_before_its_proof_is_hung_up_on() -> None:
    with hub("a secret") as (made, listener, where), connected(where) as connection:
        connection.send_json(Kind.HELLO, 0, HELLO)
        connection.send(Kind.READY, 7)
        assert next_of(connection).kind is Kind.CHALLENGE
        with pytest.raises(Disconnected):
            next_of(connection)
        assert made.missing() == [1, 2, 3]
        assert listener.events == []


def test_an_agent_that_comes_again_takes_the_place_of_the_one_before() -> None:
    with hub() as (made, listener, where), agent(where) as before:
        assert next_of(before).kind is Kind.START
        with agent(where) as again:
            assert next_of(again).kind is Kind.START
            with pytest.raises(Disconnected):
                next_of(before)
            listener.wait_for(("gone", 1))
            assert made.missing() == [2, 3]


def test_an_agent_that_leaves_is_let_go() -> None:
    with hub() as (made, listener, where), agent(where) as connection:
        assert next_of(connection).kind is Kind.START
        connection.send(Kind.LEAVING, 0)
        listener.wait_for(("leaving", 1))
        assert made.leaving() == [1]
        made.tell(1, Kind.BYE, 7)
        assert next_of(connection).kind is Kind.BYE


@pytest.mark.parametrize(
    "said",
    [
        b"GET / HTTP/1.1\r\nHost: x\r\n\r\n",
        struct.pack("<IIQ", Kind.HELLO, 0, 1 << 60),
        struct.pack("<IIQ", Kind.HELLO, 0, 3) + b"[1]",
        struct.pack("<IIQ", Kind.HELLO, 0, 3) + b"\xff\xff\xff",
        struct.pack("<IIQ", Kind.READY, 7, 0),
        b"\0",
        b"",
    ],
)
def test_what_is_no_agent_is_hung_up_on(said: bytes) -> None:
    with hub() as (made, listener, where), socket.create_connection(where, timeout=SECOND) as stranger:
        stranger.sendall(said)
        stranger.shutdown(socket.SHUT_WR)
        while stranger.recv(1 << 16):
            pass
        assert made.missing() == [1, 2, 3]
        assert listener.events == []


def test_an_agent_that_sends_more_than_its_ranks_could_say_is_hung_up_on() -> None:
    with hub() as (_, listener, where), agent(where) as connection:
        assert next_of(connection).kind is Kind.START
        connection._socket.sendall(struct.pack("<IIQ", Kind.ANSWERS, 7, 1 << 40))
        with pytest.raises(Disconnected):
            next_of(connection)
        listener.wait_for(("gone", 1))


def test_an_agent_gives_up_when_no_frontend_takes_it_in(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(agent_module, "CONNECT_DEADLINE_S", 0.0)
    member = Membership(1, "127.0.0.1", 9, 3, 0, None)
    with pytest.raises(GroupError, match=r"the frontend at 127\.0\.0\.1 port 9 has not taken it in: .*refused"):
        Agent(PLAN, None, "cpu", member).run()


@pytest.mark.parametrize(
    ("number", "said"),
    [
        (socket.EAI_NONAME, "DNS does not know that name (Name or service not known)"),
        (socket.EAI_AGAIN, "DNS does not answer (Temporary failure in name resolution)"),
    ],
)
def test_an_agent_says_which_name_dns_does_not_resolve(monkeypatch: pytest.MonkeyPatch, number: int, said: str) -> None:
    def resolve(*_: object, **__: object) -> None:
        raise socket.gaierror(number, said.partition("(")[2].rstrip(")"))

    monkeypatch.setattr(agent_module, "CONNECT_DEADLINE_S", 0.0)
    monkeypatch.setattr(socket, "getaddrinfo", resolve)
    agent = Agent(PLAN, None, "cpu", Membership(1, "m-0-0.m-0.team", 29500, 3, 0, None))
    with pytest.raises(NameUnknown) as failed:
        agent.run()
    why = f"the frontend at m-0-0.m-0.team port 29500 has not taken it in: {said}"
    assert str(failed.value) == f"for 0 s {why}"
    assert agent.why_not_ready == f"NameUnknown: {why}", "so the operator reads it from /agent/ready"


@pytest.mark.parametrize(("slot", "setting"), [("0", "MASTER_PORT"), ("2", "MOE_AGENT_PORT")])
def test_a_port_in_use_is_told_by_its_setting(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], slot: str, setting: str
) -> None:
    (tmp_path / "plan.json").write_text(PLAN.model_dump_json())
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = str(other.getsockname()[1])
        changes = {"LWS_WORKER_INDEX": slot, "MASTER_ADDR": "127.0.0.1", setting: port}
        for name, value in {**ENVIRONMENT, **changes}.items():
            monkeypatch.setenv(name, value)
        assert main(["serve", "--plan", str(tmp_path / "plan.json"), "--port", "0"]) == 1
    assert f"port {port} of 127.0.0.1 is in use; stop what listens there, or choose another with {setting}" in (
        capsys.readouterr().err
    )


def test_probes_tell_why_an_agent_is_not_ready() -> None:
    reasons = ["its ranks are starting"]
    listening = listen("127.0.0.1", 0)
    with answering_probes(listening, lambda: reasons[0]):
        url = f"http://127.0.0.1:{listening.port}"
        assert httpx.get(f"{url}/agent/live").status_code == 200
        waiting = httpx.get(f"{url}/agent/ready")
        assert (waiting.status_code, waiting.text) == (503, "its ranks are starting\n")
        reasons[0] = ""
        assert httpx.get(f"{url}/agent/ready").status_code == 200
        assert httpx.get(f"{url}/metrics").status_code == 404


ENVIRONMENT = {
    "LWS_GROUP_SIZE": "4",
    "LWS_WORKER_INDEX": "2",
    "MASTER_ADDR": "moe-0-0.moe-0",
    "MASTER_PORT": "29500",
    "MOE_ATTEMPT": "3",
    "MOE_AGENT_PORT": "29600",
}


def test_the_secret_is_not_shown() -> None:
    member = Membership.of({**ENVIRONMENT, "MOE_JOIN_SECRET": "hush"}, PLAN)
    assert member is not None
    assert member.secret == "hush"
    assert "hush" not in repr(member)


def test_a_pod_knows_its_place_from_its_environment() -> None:
    assert Membership.of(ENVIRONMENT, PLAN) == Membership(2, "moe-0-0.moe-0", 29500, 3, 29600, None)
    assert Membership.of({}, PLAN) is None
    assert Membership.of({"LWS_GROUP_SIZE": "1"}, PLAN) is None


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"LWS_GROUP_SIZE": "16"}, "LWS_GROUP_SIZE is 16, and the plan has 4 slots"),
        ({"LWS_WORKER_INDEX": "4"}, "LWS_WORKER_INDEX is 4, and the plan's slots are 0 to 3"),
        ({"LWS_WORKER_INDEX": ""}, "LWS_WORKER_INDEX must be a number, not ''"),
        ({"MASTER_PORT": "x"}, "MASTER_PORT must be a number, not 'x'"),
        ({"MASTER_ADDR": "", "LWS_LEADER_ADDRESS": ""}, "neither MASTER_ADDR nor LWS_LEADER_ADDRESS"),
        ({"LWS_WORKER_INDEX": "0", "MASTER_ADDR": "no.such.host.invalid"}, "no.such.host.invalid has no address"),
    ],
)
def test_an_environment_that_does_not_suit_the_plan_is_one_line(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    changes: dict[str, str],
    sentence: str,
) -> None:
    (tmp_path / "plan.json").write_text(PLAN.model_dump_json())
    for name, value in {**ENVIRONMENT, "MASTER_PORT": "0", **changes}.items():
        monkeypatch.setenv(name, value)
    assert main(["serve", "--plan", str(tmp_path / "plan.json"), "--port", "0"]) == 1
    said = capsys.readouterr().err
    assert sentence in said
    assert said.startswith("error: ")


@given(st.lists(st.builds(Sampled, st.integers(0, 2**40), st.integers(0, 2**40), st.floats(-100, 0))))
def test_answers_read_back(sampled: list[Sampled]) -> None:
    assert read_answers(answers_body(sampled)) == sampled


@given(st.lists(st.integers(-(2**63), 2**63 - 1), min_size=1), st.integers(0, 2**40))
def test_steps_read_back(words: list[int], answers: int) -> None:
    count, body = step_body(memoryview(np.array(words, np.int64)), answers)
    read, read_answering = read_step(count + bytes(memoryview(body).cast("B")))
    assert (list(read), read_answering) == (words, answers)


@pytest.mark.parametrize("body", [b"", b"1" * 8, b"1" * 17])
def test_a_step_that_is_cut_is_refused(body: bytes) -> None:
    with pytest.raises(ProtocolError):
        read_step(body)


def test_counters_of_another_shape_are_refused() -> None:
    extent = slot_extent(PLAN, 1)
    zero = Counters.none(extent)
    body = zero.expert_rows.tobytes() + zero.figures.tobytes()
    assert Counters.from_body(body, extent).figures.shape == (2, 4)
    with pytest.raises(ProtocolError):
        Counters.from_body(body + bytes(8), extent)


def gateways(slots: int, token: str = "0" * 64) -> tuple[Peers, list[socket.socket]]:
    listeners = [listen_at("127.0.0.1") for _ in range(slots)]
    return Peers(tuple(listener.getsockname() for listener in listeners), token), listeners


def test_gateways_meet_whatever_strangers_say() -> None:
    peers, listeners = gateways(3)
    strangers = [socket.create_connection(address) for address in peers.addresses]
    for stranger, said in zip(strangers, (b"", b"x" * 100, b"moe1" + b"\1" + b"\0" * 100), strict=True):
        stranger.sendall(said)
        stranger.shutdown(socket.SHUT_WR)
    met: dict[int, dict[int, socket.socket]] = {}
    threads = [
        threading.Thread(target=lambda slot=slot: met.update({slot: meet(peers, slot, listeners[slot])}))
        for slot in range(3)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(SECOND)
    assert {slot: set(connections) for slot, connections in met.items()} == {0: {1, 2}, 1: {0, 2}, 2: {0, 1}}
    met[0][2].sendall(b"hello")
    assert met[2][0].recv(5) == b"hello"
    for connection in (*strangers, *(one for connections in met.values() for one in connections.values())):
        connection.close()


def test_a_gateway_that_is_not_there_is_named() -> None:
    peers, listeners = gateways(2)
    listeners[1].close()
    with pytest.raises(SlotLost, match=r"cannot connect to slot 1 at 127\.0\.0\.1 port"):
        meet(peers, 0, listeners[0])


def test_a_gateway_that_nobody_meets_gives_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("moe_runtime.comm.peers.MEET_DEADLINE_S", 0.05)
    peers, listeners = gateways(2)
    with pytest.raises(CommunicationTimeout, match="the gateways of the slots before slot 1"):
        meet(peers, 1, listeners[1])
    listeners[0].close()


frames = st.tuples(st.sampled_from(FrameKind), st.tuples(*[st.integers(0, 2**32 - 1)] * 3), st.binary(max_size=300))


@given(st.lists(frames, max_size=20))
def test_frames_arrive_as_they_were_sent(sent: list[tuple[FrameKind, tuple[int, int, int], bytes]]) -> None:
    ends = socket.socketpair()
    with ends[0], ends[1], selectors.DefaultSelector() as selector:
        here, there = Link(ends[0], 1, 300, selector), Link(ends[1], 0, 300, selector)
        for kind, where, payload in sent:
            here.post(kind, where, (np.frombuffer(payload, np.uint8),))
        here.flush()
        came: list[Frame] = []
        while len(came) < len(sent):
            came += there.receive()
        assert [(frame.kind, frame.where, bytes(frame.payload)) for frame in came] == sent


def test_a_frame_larger_than_the_plan_admits_ends_the_connection() -> None:
    ends = socket.socketpair()
    with ends[0], ends[1], selectors.DefaultSelector() as selector:
        here, there = Link(ends[0], 1, 300, selector), Link(ends[1], 0, 299, selector)
        here.post(FrameKind.MAIL, (0, 0, 0), (np.zeros(300, np.uint8),))
        here.flush()
        with pytest.raises(ProtocolError, match="300 bytes"):
            list(there.receive())
        ends[0].close()
        with pytest.raises(SlotLost, match="lost the connection to slot 0: it was closed"):
            list(there.receive())


@given(
    st.sampled_from([(1, 2, 4), (8, 1, 1), (4, 2, 2), (2, 4, 2), (64, 2, 1)]),
    st.permutations(DIMENSIONS),
    st.integers(0, 7),
)
def test_each_shard_of_a_stage_is_in_one_slot(degrees: tuple[int, int, int], order: list[str], power: int) -> None:
    ep, tp, pp = degrees
    layout = Layout(ep, tp, pp, tuple(order))
    per_slot = min(2**power, layout.world)
    views = [Slots(layout, per_slot, here) for here in range(layout.world // per_slot)]
    assert sorted(rank for view in views for rank in view.ranks) == list(range(layout.world))
    if views[0].parts_tensor_groups:
        return
    for stage in range(pp):
        assert sorted(shard for view in views for shard in view.shards_here(stage)) == list(range(ep))
        for view in views:
            for shard in view.shards_here(stage):
                ranks = layout.group(("tp",), layout.rank(Coordinate(stage, shard, 0)))
                assert set(ranks) <= set(view.ranks)


def test_ranks_talk_through_gateways_but_where_tp_crosses_pods_or_gpus_are() -> None:
    assert Tier.of(PLAN, None, "cpu").kind == "memory"
    assert Tier.of(PLAN, 1, "cpu").kind == "gateway"
    assert Tier.of(PLAN, 1, "cuda").kind == "groups"
    assert Tier.of(in_slots(tiny_plan(CONFIG, ep=2, tp=4), 4), 1, "cpu").kind == "groups"
