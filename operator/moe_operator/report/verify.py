"""Derives strategy.json again by code of its own, compares, and says what it checked; needs Python 3.10 and nothing else.

    python3 verify.py [STRATEGY.json] [--json]

Without a file it reads strategy.json beside itself; with --json it prints what verification.json holds. Exit status 0
when every check holds, 1 when one does not or the file cannot be read.

Rules: ranks, groups and experts as in the strategy's `degrees`, `rank_order` and `experts`; weights are split over tp
by head, by KV head and by FFN width in whole quantisation blocks, and buffers are sized for `limits`. Bytes and ranks
must be equal to the last one; times and rates within one part in a million.
"""

import hashlib
import json
import math
import sys
from collections import Counter
from collections.abc import Callable
from itertools import product
from pathlib import Path
from typing import Any

Strategy = dict[str, Any]

ELEMENT_BYTES = {"float32": 4, "bfloat16": 2, "float16": 2, "float8": 1}
VERSION = "moe-operator.dev/verification/v1"
UNPREDICTED = "nothing is predicted: the mode is training"


def ceil_div(dividend: int, divisor: int) -> int:
    """Quotient, rounded up."""
    return -(-dividend // divisor)


def coordinates(s: Strategy) -> list[dict[str, int]]:
    """The coordinate of each rank: the first dimension of rank_order varies slowest."""
    extents = [range(s["degrees"][dimension]) for dimension in s["rank_order"]]
    return [dict(zip(s["rank_order"], point, strict=True)) for point in product(*extents)]


def groups(s: Strategy, dimension: str) -> list[list[int]]:
    """The ranks that differ along one dimension alone."""
    found: dict[tuple[int, ...], list[int]] = {}
    for rank, point in enumerate(coordinates(s)):
        found.setdefault(tuple(point[other] for other in ("pp", "ep", "tp") if other != dimension), []).append(rank)
    return sorted(found.values())


def physical_experts(s: Strategy, layer: str | None = None) -> list[int]:
    """The logical expert of each physical one; experts.exceptions, by layer, overrule the dealing in turn."""
    experts = s["experts"]
    exception = experts["exceptions"].get(str(layer))
    physical = experts["logical"] + experts["redundant"]
    return exception or [p % experts["logical"] for p in range(physical)]


def dealt(s: Strategy, layer: str | None = None) -> list[list[int]]:
    """The logical experts on each ep coordinate."""
    physical, each = physical_experts(s, layer), s["experts"]["per_rank"]
    return [physical[ep * each : (ep + 1) * each] for ep in range(s["degrees"]["ep"])]


def busiest_share(s: Strategy) -> float:
    """Share of the routed tokens on the ep coordinate that has most, copies of an expert sharing its tokens evenly."""
    experts = s["experts"]
    if experts["exceptions"]:
        return float(experts["per_rank"] / (experts["logical"] + experts["redundant"]))
    copies = Counter(physical_experts(s))
    by_copies = [sorted(Counter(copies[expert] for expert in held).items(), reverse=True) for held in dealt(s)]
    return float(max(sum(count / shared for shared, count in held) for held in by_copies) / experts["logical"])


# Memory ---------------------------------------------------------------------------------------------------------------


def width_share(width: int, tp: int, block: int) -> int:
    """Columns on one tp rank: blocks are dealt whole, the last share padded."""
    return ceil_div(ceil_div(width, block), tp) * block


def ffn_share(params: int, width: int, tp: int, block: int) -> int:
    """Parameters of an FFN on one tp rank."""
    return ceil_div(params * width_share(width, tp, block), width) if width else params


def kinds_of(s: Strategy, stage: dict[str, Any]) -> list[tuple[dict[str, Any], int]]:
    """The stage's kinds of layers, each with its count."""
    shape = s["model"]["shape"]
    layers = shape["layers"][stage["first_layer"] : stage["first_layer"] + stage["layers"]]
    return [(shape["layer_kinds"][kind], count) for kind, count in Counter(layers).items()]


def layer_weights(s: Strategy, layer: dict[str, Any]) -> tuple[int, int, int, int, int]:
    """Parameters of one layer on a rank: attention, one expert, shared experts, dense FFN, norms and router."""
    tp, attention, ffn, formats = s["degrees"]["tp"], layer["attention"], layer["ffn"], s["model"]["shape"]["formats"]
    held = (
        ceil_div(attention["query_params"], tp)
        + ceil_div(attention["kv_params"], min(tp, attention["kv_heads"]))
        + attention["replicated_params"]
    )
    linear, routed = formats["linear"]["block"], formats["experts"]["block"]
    if not layer["has_experts"]:
        return held, 0, 0, ffn_share(ffn["params"], ffn["width"], tp, linear), layer["norm_params"]
    expert = ffn_share(ffn["expert_params"], ffn["width"], tp, routed)
    shared = ffn_share(ffn["shared_params"], ffn["shared_width"], tp, linear)
    return held, expert, shared, 0, layer["norm_params"] + ffn["router_params"]


def stage_params(s: Strategy, stage: dict[str, Any]) -> dict[str, float]:
    """Parameters on one rank of a stage, by part; logical and redundant experts as the mean over ep."""
    shape, experts, tp = s["model"]["shape"], s["experts"], s["degrees"]["tp"]
    logical = experts["per_rank"] * experts["logical"] / (experts["logical"] + experts["redundant"])
    params: dict[str, float] = dict.fromkeys(
        ("attention", "experts", "redundant_experts", "shared_experts", "dense_ffn", "embedding", "head"), 0
    )
    params["other_weights"] = shape["final_norm_params"] if stage["head"] else 0
    for layer, count in kinds_of(s, stage):
        held, expert, shared, dense, other = layer_weights(s, layer)
        params["attention"] += held * count
        params["experts"] += logical * expert * count
        params["redundant_experts"] += (experts["per_rank"] - logical) * expert * count
        params["shared_experts"] += shared * count
        params["dense_ffn"] += dense * count
        params["other_weights"] += other * count
    rows = ceil_div(shape["vocab"], tp)
    if stage["embedding"]:
        params["embedding"] = ceil_div(shape["embedding_params"] * rows, shape["vocab"])
    if stage["head"] and (shape["head_params"] or not stage["embedding"]):
        params["head"] = ceil_div((shape["head_params"] or shape["embedding_params"]) * rows, shape["vocab"])
    return params


def arriving_rows(s: Strategy, ffn: dict[str, Any]) -> int:
    """Rows that a rank's experts must be ready for, when every shard computes max_batch_tokens."""
    ep, experts, limits = s["degrees"]["ep"], s["experts"], s["limits"]
    tokens = limits["max_batch_tokens"] * ep
    factor = limits["capacity_factor"] or (1.0 if ep == 1 else s["constants"]["arrival_skew"])
    even = float(tokens * ffn["top_k"] * busiest_share(s))
    most = int(tokens * min(ffn["top_k"], experts["per_rank"]))
    return math.ceil(min(even * float(factor), most))


def row_buffers(s: Strategy, stage: dict[str, Any]) -> int:
    """Elements that arrive at a rank's experts and that leave them, in the layer with most."""
    sizes = [
        2 * arriving_rows(s, layer["ffn"]) * (layer["ffn"]["expert_hidden"] or s["model"]["shape"]["hidden"])
        for layer, _ in kinds_of(s, stage)
        if layer["has_experts"]
    ]
    return int(max(sizes, default=0))


def widest_layer(s: Strategy, stage: dict[str, Any]) -> int:
    """Elements of intermediate results in the layer that has most: of its attention or of its FFN."""
    tp, tokens, formats = s["degrees"]["tp"], s["limits"]["max_batch_tokens"], s["model"]["shape"]["formats"]
    widest = 0
    for layer, _ in kinds_of(s, stage):
        attention, ffn = layer["attention"], layer["ffn"]
        heads = ceil_div(attention["heads"], tp) + ceil_div(attention["kv_heads"], tp)
        plain = ffn["shared_width"] if layer["has_experts"] else ffn["width"]
        inner = tokens * ffn["matrices"] * width_share(plain, tp, formats["linear"]["block"])
        if layer["has_experts"]:
            columns = ffn["matrices"] * width_share(ffn["width"], tp, formats["experts"]["block"])
            inner += arriving_rows(s, ffn) * columns
        widest = max(widest, inner, tokens * heads * (attention["qk_dim"] + attention["v_dim"]))
    return widest


def activation_bytes(s: Strategy, stage: dict[str, Any]) -> int:
    """Working set of the widest layer and the logits; for training a checkpointed input a layer besides."""
    shape, tokens, training = s["model"]["shape"], s["limits"]["max_batch_tokens"], s["workload"]["mode"] == "training"
    copies = s["constants"]["hidden_copies"] + (stage["layers"] if training else 0)
    permuted = row_buffers(s, stage) if s["degrees"]["ep"] == 1 else 0
    rows = tokens if training else min(tokens, s["workload"]["concurrency"])
    logits = rows * ceil_div(shape["vocab"], s["degrees"]["tp"]) if stage["head"] else 0
    elements = copies * tokens * shape["hidden"] + widest_layer(s, stage) + permuted
    return int(elements) * ELEMENT_BYTES[shape["formats"]["compute"]] + logits * ELEMENT_BYTES["float32"]


def communication_bytes(s: Strategy, stage: dict[str, Any]) -> int:
    """Buffers of dispatch and combine; of an all-reduce (one) and of stage boundaries (two)."""
    shape, degrees = s["model"]["shape"], s["degrees"]
    rows = row_buffers(s, stage) if degrees["ep"] > 1 else 0
    staging = (degrees["tp"] > 1) + 2 * (degrees["pp"] > 1)
    elements = rows + staging * s["limits"]["max_batch_tokens"] * shape["hidden"]
    return int(elements) * ELEMENT_BYTES[shape["formats"]["compute"]]


def cache_bytes(s: Strategy, stage: dict[str, Any], tokens: int) -> tuple[float, int]:
    """KV cache of a stage on a rank: bytes that each token adds, and bytes of a request beside them."""
    tp, element = s["degrees"]["tp"], ELEMENT_BYTES[s["model"]["kv_cache_dtype"]]
    growing, fixed = 0.0, 0
    for layer, count in kinds_of(s, stage):
        attention = layer["attention"]
        heads = ceil_div(attention["kv_heads"], tp) * (attention["qk_dim"] + attention["v_dim"])
        entry = {"gqa": heads, "mla": attention["latent_dim"], "linear": 0}[attention["kind"]] * element
        window = attention["window"]
        plain = window is not None and attention["compression"] == 1
        growing += ((0 if plain else entry / attention["compression"]) + attention["indexer_dim"] * element) * count
        state = ceil_div(attention["state_elements"], tp) * ELEMENT_BYTES["float32"]
        fixed += ((min(window, tokens) if window is not None else 0) * entry + state) * count
    return growing, fixed


def stage_bytes(s: Strategy, stage: dict[str, Any]) -> dict[str, int]:
    """Bytes on the fullest rank of a stage, by part."""
    formats, constants = s["model"]["shape"]["formats"], s["constants"]
    params = stage_params(s, stage)
    stored = dict.fromkeys(("attention", "shared_experts", "dense_ffn"), formats["linear"])
    stored.update(dict.fromkeys(("experts", "redundant_experts"), formats["experts"]))
    stored.update(dict.fromkeys(("embedding", "head", "other_weights"), formats["other"]))
    sizes = {part: math.ceil(count * stored[part]["bytes_per_param"]) for part, count in params.items()}
    training = s["workload"]["mode"] == "training"
    sizes["activations"] = math.ceil(activation_bytes(s, stage))
    sizes["communication"] = math.ceil(communication_bytes(s, stage))
    sizes["gradients"] = math.ceil(sum(params.values()) * constants["gradient_bytes"]) if training else 0
    sizes["optimizer"] = math.ceil(sum(params.values()) * constants["optimizer_bytes"]) if training else 0
    longest = s["limits"]["max_model_length"]
    growing, fixed = cache_bytes(s, stage, longest)
    left = math.floor(s["hardware"]["usable_bytes"]) - sum(sizes.values())
    sizes["kv_cache"] = 0 if training else max(left, math.ceil(growing * longest) + fixed)
    sizes["total"] = sum(sizes.values())
    return sizes


def cache_capacity(s: Strategy) -> dict[str, int]:
    """What the KV cache of a shard holds: the least of its stages."""
    length, longest = s["workload"]["input_tokens"] + s["workload"]["output_tokens"], s["limits"]["max_model_length"]
    room = []
    for stage, memory in zip(s["stages"], s["memory"], strict=True):
        growing, fixed = cache_bytes(s, stage, length)
        room.append((memory["kv_cache"], growing, fixed))
    requests = min(size // max(1, math.ceil(growing * length) + fixed) for size, growing, fixed in room)
    tokens = [
        max(0, math.floor((size - requests * fixed) / growing)) if growing else requests * length
        for size, growing, fixed in room
    ]
    at_most = [cache_bytes(s, stage, longest) for stage in s["stages"]]
    return {
        "bytes_per_token": math.ceil(max(growing for growing, _ in at_most)),
        "bytes_per_request": max(fixed for _, fixed in at_most),
        "tokens_per_shard": min(tokens),
        "requests_per_shard": requests,
    }


# Checks: each returns what it found, and raises RefutedError when the strategy says otherwise --------------------------------


class RefutedError(Exception):
    """What the strategy says, and what follows."""


def hold(stated: Any, derived: Any, what: str) -> None:
    """Raise RefutedError unless both are equal."""
    if stated != derived:
        raise RefutedError(f"{what}: {shown(stated)} is stated, {shown(derived)} follows")


def shown(value: Any) -> str:
    """A value in at most 80 characters."""
    text = json.dumps(value)
    return text if len(text) <= 80 else text[:77] + "..."


def near(stated: float, derived: float, what: str) -> None:
    """Raise RefutedError unless both agree within one part in a million."""
    if not math.isclose(stated, derived, rel_tol=1e-6, abs_tol=1e-12):
        raise RefutedError(f"{what}: {stated!r} is stated, {derived!r} follows")


def check_degrees(s: Strategy) -> str:
    """The degrees make the world, and pods hold it."""
    d = s["degrees"]
    hold(s["world"], d["ep"] * d["tp"] * d["pp"], "world = ep * tp * pp")
    hold(s["slots"] * s["ranks_per_slot"], s["world"], "pods * ranks a pod")
    hold(s["ranks_per_slot"], min(s["world"], s["hardware"]["gpus_per_node"]), "ranks a pod")
    return f"{d['ep']} * {d['tp']} * {d['pp']} = {s['world']} ranks in {s['slots']} pods of {s['ranks_per_slot']}"


def check_ranks(s: Strategy) -> str:
    """Each rank once, at its coordinate and its place."""
    hold(sorted(s["rank_order"]), ["ep", "pp", "tp"], "dimensions of rank_order")
    points, each = coordinates(s), s["ranks_per_slot"]
    hold(len(s["ranks"]), len(points), "number of ranks")
    for rank, (row, point) in enumerate(zip(s["ranks"], points, strict=True)):
        hold([row["rank"], row["slot"], row["gpu"]], [rank, rank // each, rank % each], f"place of rank {rank}")
        hold({dimension: row[dimension] for dimension in point}, point, f"coordinate of rank {rank}")
    return f"{len(points)} ranks, numbered {', '.join(s['rank_order'])}, outermost first"


def check_groups(s: Strategy) -> str:
    """The ranks that talk with each other."""
    counts = []
    for dimension in ("tp", "ep", "pp"):
        derived = groups(s, dimension)
        hold(s["groups"][dimension], derived, f"groups of {dimension}")
        counts.append(f"{len(derived)} of {dimension} with {len(derived[0])}")
    return ", ".join(counts)


def check_tp_in_node(s: Strategy) -> str:
    """Tensor parallelism stays inside a node, unless that is waived."""
    each = s["ranks_per_slot"]
    across = [group for group in groups(s, "tp") if len({rank // each for rank in group}) > 1]
    if across and not s["allow_cross_node_tensor_parallel"]:
        raise RefutedError(f"the tp group {shown(across[0])} spans nodes")
    return "every tp group lies in one node" if not across else f"{len(across)} tp groups span nodes, which is allowed"


def check_split(s: Strategy) -> str:
    """What tp splits divides, and no rank is left without a quantisation block."""
    tp = s["degrees"]["tp"]
    formats = s["model"]["shape"]["formats"]
    for layer in s["model"]["shape"]["layer_kinds"]:
        attention, ffn = layer["attention"], layer["ffn"]
        if attention["heads"] % tp:
            raise RefutedError(f"{attention['heads']} heads cannot be split over tp {tp}")
        if attention["kind"] == "gqa" and attention["kv_heads"] % tp and tp % attention["kv_heads"]:
            raise RefutedError(f"{attention['kv_heads']} KV heads can be neither split over nor replicated on tp {tp}")
        routed = formats["experts" if layer["has_experts"] else "linear"]["block"]
        for width, block in ((ffn["width"], routed), (ffn.get("shared_width", 0), formats["linear"]["block"])):
            blocks = ceil_div(width, block)
            if width % tp or (width and block > 1 and ceil_div(blocks, tp) * (tp - 1) >= blocks):
                raise RefutedError(f"an FFN width of {width} in blocks of {block} cannot be split over tp {tp}")
    return f"heads, KV heads and FFN widths of {len(s['model']['shape']['layer_kinds'])} kinds of layers over tp {tp}"


def check_experts(s: Strategy) -> str:
    """Every expert is held, and no rank holds one twice."""
    experts, ep = s["experts"], s["degrees"]["ep"]
    hold(experts["per_rank"] * ep, experts["logical"] + experts["redundant"], "experts a rank * ep")
    for layer in (None, *experts["exceptions"]):
        held = dealt(s, layer)
        hold(sorted(set().union(*held)), list(range(experts["logical"])), "experts that some rank holds")
        hold([len(set(here)) for here in held], [experts["per_rank"]] * ep, "distinct experts a rank")
    held = dealt(s, next(iter(experts["exceptions"]), None))
    for row in s["ranks"]:
        hold(row["experts"], held[row["ep"]], f"experts of rank {row['rank']}")
    near(s["load"]["busiest_share"], busiest_share(s), "share of the busiest rank")
    return (
        f"{experts['logical']} experts, {experts['redundant']} more copies, {experts['per_rank']} a rank in each layer"
    )


def check_stages(s: Strategy) -> str:
    """The stages hold every layer once, in order."""
    stages, layers = s["stages"], len(s["model"]["shape"]["layers"])
    hold([stage["pp"] for stage in stages], list(range(s["degrees"]["pp"])), "stages")
    end = 0
    for stage in stages:
        hold(stage["first_layer"], end, f"first layer of stage {stage['pp']}")
        hold([stage["embedding"], stage["head"]], [end == 0, end + stage["layers"] == layers], "embedding and head")
        if stage["layers"] < 1:
            raise RefutedError(f"stage {stage['pp']} has no layer")
        end += stage["layers"]
    hold(end, layers, "layers of all stages")
    return f"{layers} layers in {len(stages)} stages: {shown([stage['layers'] for stage in stages])}"


def check_parameters(s: Strategy) -> str:
    """Parameters of the model, counted from its layers."""
    shape, totals = s["model"]["shape"], {"total": 0, "active": 0}
    for kind in shape["layers"]:
        layer = shape["layer_kinds"][kind]
        attention, ffn = layer["attention"], layer["ffn"]
        plain = (
            attention["query_params"] + attention["kv_params"] + attention["replicated_params"] + layer["norm_params"]
        )
        plain += ffn["shared_params"] + ffn["router_params"] if layer["has_experts"] else ffn["params"]
        for name, count in (("total", ffn.get("experts", 0)), ("active", ffn.get("top_k", 0))):
            totals[name] += plain + count * ffn.get("expert_params", 0)
    totals["total"] += shape["embedding_params"] + shape["final_norm_params"] + shape["head_params"]
    totals["active"] += shape["final_norm_params"] + (shape["head_params"] or shape["embedding_params"])
    hold(s["model"]["total_params"], totals["total"], "parameters")
    hold(s["model"]["active_params"], totals["active"], "active parameters")
    return f"{totals['total']:,} parameters, {totals['active']:,} of them used by a token"


def check_memory(s: Strategy) -> str:
    """Each part of each stage's memory, and the sum within what is usable."""
    usable, fullest = s["hardware"]["usable_bytes"], 0
    near(usable, s["hardware"]["memory_bytes"] * (1 - s["hardware"]["memory_reserve"]), "usable bytes")
    hold([memory["pp"] for memory in s["memory"]], [stage["pp"] for stage in s["stages"]], "stages with memory")
    for stage, memory in zip(s["stages"], s["memory"], strict=True):
        for part, size in stage_bytes(s, stage).items():
            hold(memory[part], size, f"{part} of stage {stage['pp']}, bytes")
        if memory["total"] > usable:
            raise RefutedError(f"stage {stage['pp']} needs {memory['total']:,} bytes of {usable:,.0f}")
        fullest = max(fullest, memory["total"])
    return f"{len(s['memory'][0]) - 1} parts of {len(s['stages'])} stages; at most {fullest:,} of {usable:,.0f} bytes"


def check_cache(s: Strategy) -> str:
    """What the KV cache of a shard holds."""
    derived = cache_capacity(s)
    hold({name: s["kv_cache"][name] for name in derived}, derived, "KV cache")
    return f"{derived['tokens_per_shard']:,} tokens and {derived['requests_per_shard']:,} requests a shard"


def check_times(s: Strategy) -> str:
    """The parts of a time add up to it."""
    if s["prediction"] is None:
        return UNPREDICTED
    for name in ("ttft", "tpot"):
        parts = s["prediction"][name + "_parts"]
        near(parts["total"], sum(value for part, value in parts.items() if part != "total"), f"parts of {name}")
        near(s["prediction"][name], parts["total"], name)
        if min(parts.values()) < 0:
            raise RefutedError(f"a part of {name} is negative")
    return "the parts of TTFT and TPOT add up to them"


def check_rate(s: Strategy) -> str:
    """Tokens a second are within what the times allow."""
    if s["prediction"] is None:
        return UNPREDICTED
    prediction, workload = s["prediction"], s["workload"]
    rate, replicas = prediction["tokens_per_s"], s["replicas"]
    near(prediction["tokens_per_s_per_gpu"], rate / (max(1, replicas) * s["world"]), "tokens/s a GPU")
    request = prediction["ttft"] + (workload["output_tokens"] - 1) * prediction["tpot"]
    most = workload["concurrency"] * workload["output_tokens"] / request
    if rate > most * (1 + 1e-6):
        raise RefutedError(
            f"{rate:,.0f} tokens/s are stated, {most:,.0f} follow from TTFT and TPOT at most (Little's law)"
        )
    return f"{rate:,.0f} tokens/s of at most {most:,.0f} by Little's law"


def check_roofline(s: Strategy) -> str:
    """No decode step reads its weights, and no rate does its arithmetic, faster than the GPU can."""
    if s["prediction"] is None:
        return UNPREDICTED
    hardware, formats = s["hardware"], s["model"]["shape"]["formats"]
    read = sum(
        sum(params[part] for part in ("attention", "shared_experts", "dense_ffn"))
        * formats["linear"]["bytes_per_param"]
        + params["head"] * formats["other"]["bytes_per_param"]
        for params in (stage_params(s, stage) for stage in s["stages"])
    )
    least = read / hardware["memory_bandwidth"]
    if s["prediction"]["tpot"] < least:
        raise RefutedError(
            f"a TPOT of {s['prediction']['tpot']:.3g} s is stated; reading the weights takes {least:.3g} s"
        )
    needed = 2 * s["model"]["active_params"] * s["prediction"]["tokens_per_s_per_gpu"]
    peak = max(hardware["flops"].values())
    if needed > peak:
        raise RefutedError(f"{needed:.3g} operations a second on each GPU are needed, of {peak:.3g}")
    return f"TPOT at least {least * 1e3:.3g} ms for weights; arithmetic of decoding {needed / peak:.2%} of the peak"


CHECKS = (
    ("degrees", check_degrees),
    ("ranks and coordinates", check_ranks),
    ("groups", check_groups),
    ("tp inside nodes", check_tp_in_node),
    ("split over tp", check_split),
    ("experts", check_experts),
    ("stages", check_stages),
    ("parameters", check_parameters),
    ("memory", check_memory),
    ("KV cache", check_cache),
    ("parts of the prediction", check_times),
    ("tokens a second", check_rate),
    ("roofline", check_roofline),
)


def run_check(name: str, check: Callable[[Strategy], str], strategy: Strategy) -> dict[str, Any]:
    """The outcome of one check; what a tampered file provokes refutes it as well."""
    try:
        return {"check": name, "holds": True, "detail": check(strategy)}
    except RefutedError as refuted:
        return {"check": name, "holds": False, "detail": str(refuted)}
    except Exception as error:  # noqa: BLE001  # whatever a tampered file provokes
        return {"check": name, "holds": False, "detail": f"cannot be checked: {type(error).__name__}: {error}"}


def verify(text: str) -> dict[str, Any]:
    """What verification.json holds, for the text of a strategy.json. Raises ValueError when it is not JSON."""
    strategy = json.loads(text)
    checks = [run_check(name, check, strategy) for name, check in CHECKS]
    holds = all(check["holds"] for check in checks)
    digest = hashlib.sha256(text.encode()).hexdigest()
    return {"version": VERSION, "strategy_sha256": digest, "holds": holds, "checks": checks}


def main(arguments: list[str]) -> int:
    """Exit status of the command line."""
    files = [argument for argument in arguments if argument != "--json"]
    file = Path(files[0]) if files else Path(__file__).with_name("strategy.json")
    try:
        found = verify(file.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        sys.stderr.write(f"verify.py: {file} cannot be read: {error}\n")
        return 1
    if "--json" in arguments:
        sys.stdout.write(json.dumps(found, indent=2) + "\n")
        return 0 if found["holds"] else 1
    for check in found["checks"]:
        sys.stdout.write(f"{'holds' if check['holds'] else 'FAILS'}  {check['check']}: {check['detail']}\n")
    failed = sum(not check["holds"] for check in found["checks"])
    sys.stdout.write(f"{len(found['checks'])} checks, {failed} failed\n")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
