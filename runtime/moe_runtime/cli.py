"""The runtime's commands: serve a plan, fetch its checkpoint, generate from it, put load on an endpoint.

They read plans, never manifests.

Exit status: 0 done; 1 the input is not acceptable; 2 wrong use; 3 ranks were lost too often; 130 and 143 interrupted
before the end (a server that is told to stop has done its work, and exits 0).
"""

# ruff: noqa: PLC0415, T201  # a command imports what it needs when it runs, and prints

import argparse
import logging
import os
import signal
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal, NoReturn

from moe_plan.plan import Plan
from moe_runtime.errors import RankLost, RuntimeFailure
from moe_runtime.logs import Speaker, log_lines
from moe_runtime.termination import last_word

if TYPE_CHECKING:
    from moe_runtime.frontend.engine import Ranks
    from moe_runtime.group.membership import Membership

log = logging.getLogger(__name__)

UNACCEPTABLE = 1
WRONG_USE = 2
RANKS_FAILED = 3

Run = Callable[[argparse.Namespace], None]


class Terminated(KeyboardInterrupt):
    """SIGTERM came: as Ctrl-C, with another exit status."""


def main(arguments: Sequence[str]) -> int:
    """Run a command and return its exit status."""
    options = _parser().parse_args(arguments)
    run: Run = options.run
    try:
        run(options)
    except RuntimeFailure as failure:
        print(f"error: {failure}", file=sys.stderr)
        last_word(failure.word, str(failure))
        return _status(failure)
    except OSError as error:
        what = f"{error.filename}: {error.strerror}" if error.filename else str(error)
        print(f"error: {what}", file=sys.stderr)
        last_word("", what)
        return WRONG_USE
    except Terminated:
        return 128 + signal.SIGTERM
    except KeyboardInterrupt:
        return 128 + signal.SIGINT
    return 0


def _status(failure: RuntimeFailure) -> int:
    from moe_runtime.frontend.engine import LostTooOften

    return RANKS_FAILED if isinstance(failure, RankLost | LostTooOften) else UNACCEPTABLE


def _serve(options: argparse.Namespace) -> None:
    from moe_runtime.frontend.plan_file import read_plan
    from moe_runtime.group.membership import Membership

    plan = read_plan(options.plan)
    member = Membership.of(os.environ, plan)
    if member is None:
        _serve_here(options, plan)
    elif member.slot == 0:
        _serve_group(options, plan, member)
    else:
        _serve_slot(options, plan, member)


def _serve_here(options: argparse.Namespace, plan: Plan) -> None:
    """All ranks of the replica, on this machine."""
    from moe_runtime.host.rank_host import RankHost

    device = _device(options, plan)
    _serve_frontend(options, plan, lambda: RankHost(plan, options.checkpoint, device))


def _serve_group(options: argparse.Namespace, plan: Plan, member: "Membership") -> None:
    """The frontend and the ranks of slot 0; the others come by themselves."""
    from moe_runtime.frontend.listen import listen
    from moe_runtime.group.hub import Hub
    from moe_runtime.group.replica import Replica

    device, address = _device(options, plan), member.leader_address()
    hub = Hub(plan, member.attempt, listen(options.host, member.port, "MASTER_PORT").socket, member.secret)
    try:
        _serve_frontend(options, plan, lambda: Replica(plan, options.checkpoint, device, address, hub))
    finally:
        hub.close()


def _serve_slot(options: argparse.Namespace, plan: Plan, member: "Membership") -> None:
    """The ranks of another slot, as the frontend tells."""
    from moe_runtime.frontend.listen import listen
    from moe_runtime.group.agent import Agent
    from moe_runtime.group.probes import answering_probes

    listening = listen(options.host, member.agent_port, "MOE_AGENT_PORT")
    agent = Agent(plan, options.checkpoint, _device(options, plan), member)
    with answering_probes(listening, lambda: agent.why_not_ready):
        agent.run()


def _serve_frontend(options: argparse.Namespace, plan: Plan, renew: Callable[[], "Ranks"]) -> None:
    from moe_runtime.frontend.announce import plan_lines
    from moe_runtime.frontend.listen import listen
    from moe_runtime.frontend.signals import Signals

    listening = listen(options.host, plan.port if options.port is None else options.port)
    for line in plan_lines(plan, _device(options, plan), options.checkpoint):
        log.info("%s", line)
    with Signals() as signals:
        ranks = renew()
        try:
            # Imported while the ranks import torch.
            from moe_runtime.frontend.server import serve

            serve(plan, options.checkpoint, listening, ranks, renew, signals)
        finally:
            ranks.stop()


def _fetch(options: argparse.Namespace) -> None:
    from moe_runtime.fetch.fetch import fetch
    from moe_runtime.frontend.plan_file import parse_plan

    plan = parse_plan(options.plan)
    if options.slot >= plan.slots:
        raise RuntimeFailure(f"--slot {options.slot}: the plan's slots are 0 to {plan.slots - 1}")
    fetch(plan, options.into, os.environ)


def _generate(options: argparse.Namespace) -> None:
    from moe_runtime.frontend.plan_file import read_plan
    from moe_runtime.frontend.prompts import check_writable, read_prompts, write_whole
    from moe_runtime.frontend.recording import Recorded, Recording, logits_file
    from moe_runtime.host.rank_host import RankHost

    plan = read_plan(options.plan)
    prompts = read_prompts(options.prompts, plan, options.max_tokens)
    for path in filter(None, (options.output, options.logits)):
        check_writable(path)
    device = _device(options, plan)
    recorded: Recorded = {}

    def renew() -> RankHost:
        if options.logits is None:
            return RankHost(plan, options.checkpoint, device)
        return Recording(plan, options.checkpoint, device, recorded)

    ranks = renew()
    try:
        from moe_runtime.frontend.generate import as_json, generate

        answers = generate(plan, options.checkpoint, prompts, options.max_tokens, ranks, renew)
        write_whole(options.output, as_json(plan, answers))
        if options.logits is not None:
            write_whole(options.logits, logits_file(answers, recorded))
    finally:
        ranks.stop()


def _bench(options: argparse.Namespace) -> None:
    from moe_runtime.bench.load import Load, run_load

    load = Load(
        url=options.url,
        concurrency=options.concurrency,
        requests=options.requests,
        input_tokens=options.input_tokens,
        output_tokens=options.output_tokens,
        model=options.model,
        api_key=os.environ.get("MOE_API_KEY") or None,
        seed=options.seed,
        timeout_s=options.timeout,
    )
    report = run_load(load)
    print(report.as_json() if options.format == "json" else report.as_table())


def _device(options: argparse.Namespace, plan: Plan) -> Literal["cpu", "cuda"]:
    """Where the ranks compute; PyTorch calls AMD's GPUs cuda too."""
    if options.device != "auto":
        return "cpu" if options.device == "cpu" else "cuda"
    return "cpu" if plan.hardware.device == "cpu" else "cuda"


class _Parser(argparse.ArgumentParser):
    """Its last word is what is wrong, not how the command is used."""

    def error(self, message: str) -> NoReturn:
        last_word("", message)
        super().error(message)


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(prog="python -m moe_runtime", description="Run a plan.", allow_abbrev=False)
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    _add_serve(commands.add_parser("serve", help="serve a plan over HTTP", allow_abbrev=False))
    _add_fetch(commands.add_parser("fetch", help="fetch a plan's checkpoint into a directory", allow_abbrev=False))
    _add_generate(commands.add_parser("generate", help="answer a file of prompts greedily", allow_abbrev=False))
    _add_bench(commands.add_parser("bench", help="put load on an endpoint", allow_abbrev=False))
    return parser


def _add_serve(parser: argparse.ArgumentParser) -> None:
    _add_plan(parser)
    parser.add_argument(
        "--checkpoint", type=_directory, metavar="DIR", help="Hugging Face checkpoint; or random weights"
    )
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on (%(default)s)")
    parser.add_argument("--port", type=_port, metavar="N", help="port to listen on, 0 for a free one (the plan's)")
    parser.set_defaults(run=_serve)


def _add_fetch(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--plan", type=Path, required=True, metavar="FILE", help="the plan, whose source is hf:// or s3://"
    )
    parser.add_argument("--slot", type=_slot, default=0, metavar="N", help="slot whose pod this is (%(default)s)")
    parser.add_argument("--into", type=Path, required=True, metavar="DIR", help="where the checkpoint is to be")
    parser.set_defaults(run=_fetch)


def _add_generate(parser: argparse.ArgumentParser) -> None:
    _add_plan(parser)
    parser.add_argument("--checkpoint", type=_directory, metavar="DIR", required=True, help="Hugging Face checkpoint")
    parser.add_argument("--prompts", type=Path, required=True, metavar="FILE", help="JSON list of token-id lists")
    parser.add_argument("--max-tokens", type=_count, default=16, metavar="N", help="of each answer (%(default)s)")
    parser.add_argument("-o", "--output", type=Path, required=True, metavar="FILE", help="where the tokens are written")
    parser.add_argument("--logits", type=Path, metavar="FILE", help="where logits are written, as safetensors")
    parser.set_defaults(run=_generate)


def _add_bench(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--url", default="http://127.0.0.1:8000/v1", help="base address (%(default)s)")
    parser.add_argument("--model", help="name of the model (the first that the endpoint serves)")
    parser.add_argument("--concurrency", type=_count, default=4, metavar="N", help="clients at once (%(default)s)")
    parser.add_argument("--requests", type=_count, default=16, metavar="N", help="requests in all (%(default)s)")
    parser.add_argument("--input-tokens", type=_count, default=32, metavar="N", help="a prompt (%(default)s)")
    parser.add_argument("--output-tokens", type=_count, default=32, metavar="N", help="an answer (%(default)s)")
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="of the random prompts (%(default)s)")
    parser.add_argument("--timeout", type=float, default=600.0, metavar="S", help="longest silence (%(default)s s)")
    parser.add_argument("-o", "--format", choices=("table", "json"), default="table", help="(%(default)s)")
    parser.set_defaults(run=_bench)


def _add_plan(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--plan", type=Path, required=True, metavar="FILE", help="the plan, as `moe plan -o json` prints it"
    )
    parser.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto", help="auto is the plan's")


def _count(text: str) -> int:
    return _bounded(text, 1, 2**31 - 1)


def _slot(text: str) -> int:
    return _bounded(text, 0, 2**31 - 1)


def _port(text: str) -> int:
    return _bounded(text, 0, 65535)


def _bounded(text: str, least: int, most: int) -> int:
    if not text.isdecimal() or not least <= int(text[:20]) <= most:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number from {least} to {most}")
    return int(text)


def _directory(text: str) -> Path:
    path = Path(text)
    if not path.is_dir():
        raise argparse.ArgumentTypeError(f"{text}: no such directory")
    return path


def prepare_process() -> None:
    """Make this process one that ends in order on SIGTERM and logs lines to stderr."""
    signal.signal(signal.SIGTERM, _on_terminate)
    log_lines(Speaker.pod(os.environ))
    logging.getLogger("uvicorn").setLevel(logging.WARNING)


def _on_terminate(_number: int, _frame: object) -> NoReturn:
    raise Terminated
