"""`moe run`, `serve`, `generate`, `bench`: plan here, then become the runtime's process.

The runtime reads plans and nothing else. It is started with exec, so that signals and exit status are its own, and
the plan reaches it in an anonymous file that dies with it.
"""

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NoReturn

import typer

from moe_operator.cli.documents import parse_value, read_text
from moe_operator.cli.machine import check_memory, choose_device, local_accelerator
from moe_operator.cli.plan import ConfigOption, LoadsOption, ManifestOption, prove_all, read_attached
from moe_plan.errors import ManifestError, Violation

if TYPE_CHECKING:
    from moe_plan.plan import Plan
    from moe_plan.spec import MoEDeployment

CheckpointOption = Annotated[
    Path | None,
    typer.Option("--checkpoint", metavar="DIR", help="Hugging Face checkpoint.", exists=True, file_okay=False),
]
HostOption = Annotated[str, typer.Option("--host", help="Address to listen on.")]
PortOption = Annotated[
    int | None, typer.Option("--port", min=0, max=65535, help="Port to listen on; default: the plan's.")
]
DeviceOption = Annotated[
    str, typer.Option("--device", help="auto, cpu or cuda; auto takes GPUs where there are enough.")
]


def run(
    filename: ManifestOption,
    checkpoint: CheckpointOption = None,
    narrow: Annotated[
        int | None, typer.Option("--narrow", min=1, metavar="N", help="Divide the widths by N; default: chosen.")
    ] = None,
    host: HostOption = "127.0.0.1",
    port: PortOption = None,
    device: DeviceOption = "auto",
    config: ConfigOption = None,
    expert_loads: LoadsOption = None,
) -> None:
    """Rehearse a manifest on this machine, or serve it where its GPUs are: every rank of its layout, behind HTTP."""
    proved = prove_all(filename, read_attached(config, expert_loads))
    if len(proved) != 1:
        raise ManifestError(
            (Violation(filename, "SeveralDeployments", f"holds {len(proved)} deployments; run takes one"),)
        )
    deployment, plan = proved[0]
    chosen = choose_device(device, plan.degrees.world)
    if chosen == "cpu":
        plan = _rehearsal(deployment, plan, checkpoint, narrow)
        check_memory(plan)
    _serve(plan, checkpoint, host, port, chosen)


def serve(
    plan: Annotated[
        Path, typer.Option("--plan", metavar="FILE", help="A plan, as `moe plan -o json` prints it.", exists=True)
    ],
    checkpoint: CheckpointOption = None,
    host: HostOption = "127.0.0.1",
    port: PortOption = None,
    device: DeviceOption = "auto",
) -> None:
    """Serve a plan as it is: what a pod runs."""
    command = ["serve", "--plan", str(plan), "--host", host]
    _become_runtime(
        [*command, *_given("--checkpoint", checkpoint), *_given("--port", port), *_given("--device", device)]
    )


def generate(
    checkpoint: Annotated[
        Path, typer.Option("--checkpoint", metavar="DIR", help="Hugging Face checkpoint.", exists=True, file_okay=False)
    ],
    prompts: Annotated[
        Path,
        typer.Option("--prompts", metavar="FILE", help="JSON list of lists of token ids.", exists=True, dir_okay=False),
    ],
    output: Annotated[
        Path, typer.Option("-o", "--output", metavar="FILE", help='Where {"tokens": [[…]], …} is written.')
    ],
    ep: Annotated[int, typer.Option("--ep", help="Expert-parallel degree.")] = 1,
    tp: Annotated[int, typer.Option("--tp", help="Tensor-parallel degree.")] = 1,
    pp: Annotated[int, typer.Option("--pp", help="Pipeline-parallel degree.")] = 1,
    rank_order: Annotated[
        str, typer.Option("--rank-order", help="Nesting of the coordinates, outermost first.")
    ] = "pp,ep,tp",
    redundant_experts: Annotated[
        int, typer.Option("--redundant-experts", help="Expert copies beyond one of each.")
    ] = 0,
    dtype: Annotated[
        str, typer.Option("--dtype", help="Number format: auto, float32, bfloat16 or float16.")
    ] = "float32",
    max_tokens: Annotated[int, typer.Option("--max-tokens", min=1, help="Tokens to generate for each prompt.")] = 16,
    logits: Annotated[
        Path | None, typer.Option("--logits", metavar="FILE", help="Also write the logits, as safetensors.")
    ] = None,
    device: DeviceOption = "auto",
) -> None:
    """Generate greedily from a checkpoint under a layout, and write the tokens."""
    parallelism = {
        "ep": ep,
        "tp": tp,
        "pp": pp,
        "rankOrder": rank_order.split(","),
        "redundantExperts": redundant_experts,
    }
    chosen = choose_device(device, max(1, ep) * max(1, tp) * max(1, pp))
    origin, text = read_text(str(prompts))
    plan = _generate_plan(checkpoint, parallelism, dtype, chosen, _longest(origin, text, max_tokens))
    if chosen == "cpu":
        check_memory(plan)
    command = [
        "generate",
        "--plan",
        _anonymous(plan.model_dump_json()),
        "--checkpoint",
        str(checkpoint),
        "--prompts",
        _again(prompts, text),
    ]
    command += ["--max-tokens", str(max_tokens), "-o", str(output), "--device", chosen, *_given("--logits", logits)]
    _become_runtime(command)


def bench(context: typer.Context) -> None:
    """Put load on an endpoint and print TTFT, TPOT and tokens/s; `moe bench -- --help` lists the options."""
    _become_runtime(["bench", *context.args])


def _rehearsal(deployment: "MoEDeployment", plan: "Plan", checkpoint: Path | None, narrow: int | None) -> "Plan":
    """The plan of the same layout on CPU ranks: widths of the checkpoint, or divided by a factor that is printed."""
    from moe_plan.narrow import choose_factor, rehearse, rehearse_checkpoint
    from moe_plan.planner import make_plan

    experts = plan.experts if plan.experts.exceptions else None
    if checkpoint is not None:
        print(f"rehearsal of {plan.name} on CPU ranks, with the widths of {checkpoint}", file=sys.stderr)
        return make_plan(rehearse_checkpoint(deployment, plan, _checkpoint_config(checkpoint)), experts=experts)
    factor = narrow or choose_factor(plan)
    print(f"rehearsal of {plan.name} on CPU ranks: widths divided by {factor}, random weights", file=sys.stderr)
    layers = [stage.layers for stage in plan.stages]
    return make_plan(rehearse(deployment, plan, factor), stage_layers=layers, experts=experts)


def _generate_plan(
    checkpoint: Path, parallelism: dict[str, Any], dtype: str, device: str, longest: tuple[int, int, int]
) -> "Plan":
    from moe_plan.manifest import parse_deployment
    from moe_plan.planner import make_plan
    from moe_plan.spec import API_VERSION, KIND

    input_tokens, output_tokens, concurrency = longest
    world = max(1, parallelism["ep"] * parallelism["tp"] * parallelism["pp"])
    hardware = {"accelerator": "cpu" if device == "cpu" else local_accelerator(), "gpusPerNode": world}
    data = {
        "apiVersion": API_VERSION,
        "kind": KIND,
        "metadata": {"name": "generate"},
        "spec": {
            "model": {
                "config": _checkpoint_config(checkpoint),
                "source": f"file://{checkpoint.resolve()}",
                "dtype": dtype,
            },
            "hardware": hardware,
            "parallelism": parallelism,
            "workload": {"inputTokens": input_tokens, "outputTokens": output_tokens, "concurrency": concurrency},
        },
    }
    return make_plan(parse_deployment(data))


def _checkpoint_config(checkpoint: Path) -> Any:
    origin, text = read_text(str(checkpoint / "config.json"))
    return parse_value(text, origin)


def _longest(origin: str, text: str, max_tokens: int) -> tuple[int, int, int]:
    """Longest prompt, tokens to generate and number of prompts. The runtime checks the token ids themselves."""
    value = parse_value(text, origin)
    if not isinstance(value, list) or not value or not all(isinstance(prompt, list) and prompt for prompt in value):
        raise ManifestError(
            (Violation(origin, "NotPrompts", "must be a list of lists of token ids, none of them empty"),)
        )
    return max(map(len, value)), max_tokens, len(value)


def _again(path: Path, text: str) -> str:
    """Path under which what was read from `path` can be read once more, also where that was a pipe."""
    return str(path) if path.is_file() else _anonymous(text)


def _serve(plan: "Plan", checkpoint: Path | None, host: str, port: int | None, device: str) -> NoReturn:
    command = ["serve", "--plan", _anonymous(plan.model_dump_json()), "--host", host, "--device", device]
    _become_runtime([*command, *_given("--checkpoint", checkpoint), *_given("--port", port)])


def _given(option: str, value: object) -> list[str]:
    return [] if value is None else [option, str(value)]


def _anonymous(text: str) -> str:
    """Path under which the process after exec reads a text; nothing is written to a disk."""
    descriptor = os.memfd_create("moe", 0)
    with os.fdopen(os.dup(descriptor), "wb") as file:
        file.write(text.encode())
    os.lseek(descriptor, 0, os.SEEK_SET)
    return f"/dev/fd/{descriptor}"


def _become_runtime(arguments: list[str]) -> NoReturn:
    sys.stdout.flush()
    sys.stderr.flush()
    os.execv(sys.executable, [sys.executable, "-m", "moe_runtime", *arguments])  # noqa: S606  # our own interpreter
