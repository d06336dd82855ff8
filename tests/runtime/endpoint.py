"""A served model in processes of its own, as a user starts it, and what is left of it afterwards."""

import json
import os
import queue
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Self

import httpx
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, processors

from moe_plan.plan import Plan

DEADLINE_S = 120.0
STOP_DEADLINE_S = 30.0
TEMPLATE = (
    "{% for message in messages %}{% if message.role == 'tool' %}{{ raise_exception('no tools here') }}{% endif %}"
    "<{{ message.role }}>{{ message.content }}{{ eos_token }}{% endfor %}"
    "{% if add_generation_prompt %}<assistant>{% endif %}"
)


def write_tokenizer(checkpoint: Path, template: str | None = TEMPLATE) -> None:
    """A tokenizer of single bytes, with <s> in front of a text and </s> as the end of an answer."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE({letter: i for i, letter in enumerate(alphabet)}, []))
    tokenizer.add_special_tokens([AddedToken("<s>"), AddedToken("</s>")])
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.post_processor = processors.TemplateProcessing("<s> $A", special_tokens=[("<s>", 256)])
    tokenizer.save(str(checkpoint / "tokenizer.json"))
    config = {"eos_token": {"content": "</s>"}, **({"chat_template": template} if template else {})}
    (checkpoint / "tokenizer_config.json").write_text(json.dumps(config))


RUNTIME = (sys.executable, "-m", "moe_runtime")
MOE = (str(Path(sys.executable).with_name("moe")),)


class Command:
    """A command, of the runtime unless another is given, running; its stderr is read as it comes."""

    def __init__(
        self, arguments: Sequence[str], env: dict[str, str] | None = None, program: Sequence[str] = RUNTIME
    ) -> None:
        self.process = subprocess.Popen(
            [*program, *arguments],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, **(env or {})},
        )
        self.lines: list[str] = []
        self._queue: queue.SimpleQueue[str | None] = queue.SimpleQueue()
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        assert self.process.stderr is not None
        for line in self.process.stderr:
            self._queue.put(line.rstrip("\n"))
        self._queue.put(None)

    @property
    def stderr(self) -> str:
        """What it has said so far."""
        return "\n".join(self.lines)

    def wait_for_line(self, pattern: str, deadline_s: float = DEADLINE_S) -> re.Match[str]:
        """The next line that matches. Fails with all that was said when none comes."""
        until = time.monotonic() + deadline_s
        while True:
            try:
                line = self._queue.get(timeout=max(0.0, until - time.monotonic()))
            except queue.Empty:
                raise AssertionError(f"no {pattern!r} in time; it said:\n{self.stderr}") from None
            if line is None:
                raise AssertionError(f"it ended without {pattern!r}; it said:\n{self.stderr}")
            self.lines.append(line)
            if found := re.search(pattern, line):
                return found

    def descendants(self) -> set[int]:
        """Process ids of its children and theirs."""
        return set(_descendants(self.process.pid))

    def end(self, number: int = signal.SIGTERM) -> int:
        """Signal it, wait, and return its exit status."""
        self.process.send_signal(number)
        return self.wait()

    def wait(self) -> int:
        """Wait for its end; what it said is in `lines`."""
        try:
            status = self.process.wait(STOP_DEADLINE_S)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"it did not end; it said:\n{self.stderr}") from None
        self._reader.join(STOP_DEADLINE_S)
        self.catch_up()
        return status

    def catch_up(self) -> None:
        """Have what it has said so far in `lines`."""
        while not self._queue.empty():
            line = self._queue.get()
            if line is not None:
                self.lines.append(line)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        """End it however it stands."""
        if self.process.poll() is None:
            self.process.kill()
            self.wait()
        for stream in (self.process.stdout, self.process.stderr):
            assert stream is not None
            stream.close()


class Endpoint(Command):
    """`serve`, ready to answer."""

    def __init__(
        self,
        folder: Path,
        plan: Plan,
        checkpoint: Path | None = None,
        env: dict[str, str] | None = None,
        options: Sequence[str] = (),
    ) -> None:
        path = folder / "plan.json"
        path.write_text(plan.model_dump_json())
        given = ["--checkpoint", str(checkpoint)] if checkpoint else []
        super().__init__(["serve", "--plan", str(path), *given, "--port", "0", *options], env)
        self._url = ""
        self._asking = threading.Lock()

    @property
    def url(self) -> str:
        """Base address, once it is ready; threads that ask at once all learn it."""
        with self._asking:
            if not self._url:
                self._url = self.wait_for_line(r"^ready: (\S+)/v1")[1]
        return self._url

    @property
    def port(self) -> int:
        return int(self.url.rpartition(":")[2])

    def client(self, **options: Any) -> httpx.Client:
        """A client of it."""
        return httpx.Client(base_url=self.url, timeout=DEADLINE_S, **options)

    def ranks(self) -> list[int]:
        """Process ids of its ranks: the children that have none themselves."""
        family = self.descendants()
        parents = {_parent(pid) for pid in family}
        return sorted(family - parents)


def events(response: httpx.Response) -> Iterator[dict[str, Any]]:
    """The JSON of each server-sent event, up to [DONE]."""
    for line in response.iter_lines():
        if line == "data: [DONE]":
            return
        if line:
            assert line.startswith("data: "), line
            yield json.loads(line.removeprefix("data: "))
    raise AssertionError("the stream ended without [DONE]")


def wait_until_gone(pids: set[int]) -> set[int]:
    """Those of the processes that are still there after the deadline."""
    until = time.monotonic() + STOP_DEADLINE_S
    while (left := {pid for pid in pids if _is_alive(pid)}) and time.monotonic() < until:
        threading.Event().wait(0.02)
    return left


def _descendants(pid: int) -> Iterator[int]:
    try:
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    except OSError:
        return
    for child in map(int, children):
        yield child
        yield from _descendants(child)


def _parent(pid: int) -> int:
    try:
        return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
    except OSError:
        return 0


def _is_alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False
