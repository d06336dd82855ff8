"""Other engines behind the same resource: the commands they are given, and the layouts that they are not."""

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest
import yaml
from control_plane import ControlPlane
from goldens import Golden
from hypothesis import given
from hypothesis import strategies as st
from rendered import Object, deployment, plan_of, pods_of, runtime, violations_of
from simulated import Cluster, manifest

from moe_operator import manifests
from moe_operator.engines import engine
from moe_operator.reconcile.model import Endpoint
from moe_operator.reconcile.revisions import prove
from moe_operator.samples import measure, parse_samples
from moe_plan.catalogue.models import load_model
from moe_plan.engines import engine_rules, engines
from moe_plan.errors import ManifestError
from moe_plan.layout import Coordinate, Layout
from moe_plan.manifest import parse_deployment
from moe_plan.subject import Subject, resolve

ROOT = Path(__file__).parents[2]
HERE = Path(__file__).parent
EXAMPLES = ("seed-s1", "seed-s2", "seed-s3", "seed-s4", "deepseek-v3", "mixtral-8x22b", "qwen3-235b")
OTHERS = ("sglang", "tensorrt-llm", "vllm")


def in_engine(name: str, **spec: Any) -> Object:
    """Mixtral on two nodes of four GPUs, with a shard a rank, in an engine."""
    fixed = {
        "hardware": {"accelerator": "h100-sxm", "gpusPerNode": 4},
        "parallelism": {"ep": 8},
        "runtime": {"engine": name},
    }
    return deployment(**fixed | spec)


def command(pod: Object) -> list[str]:
    return [*runtime(pod)["command"], *runtime(pod)["args"]]


def value(pod: Object, flag: str) -> str:
    """What follows a flag of the command."""
    words = command(pod)
    return words[words.index(flag) + 1]


def variables(pod: Object) -> dict[str, Any]:
    return {variable["name"]: variable.get("value") for variable in runtime(pod)["env"]}


def told_of(name: str, **spec: Any) -> list[str]:
    return violations_of(in_engine(name, **spec))


def refusals(name: str, **parallelism: Any) -> list[str]:
    """Codes of what the planner refuses of a layout in an engine."""
    with pytest.raises(ManifestError) as caught:
        plan_of(in_engine(name, parallelism=parallelism))
    return [violation.code for violation in caught.value.violations]


# Golden commands


def example(name: str, engine_name: str) -> Object:
    obj: Object = yaml.safe_load((ROOT / "examples" / f"{name}.yaml").read_text())
    obj["metadata"] |= {"namespace": "team", "uid": "a2f1c1de-0000-4000-8000-000000000000"}
    obj["spec"]["runtime"] = {"engine": engine_name}
    return obj


def launch(name: str, engine_name: str) -> Object:
    """What starts an example in an engine, or why the engine cannot run it."""
    obj = example(name, engine_name)
    try:
        plan = plan_of(obj)
    except ManifestError as error:
        return {"refused": [str(violation) for violation in error.violations]}
    refused = [str(violation) for violation in manifests.violations(obj, plan)]
    if refused:
        return {"refused": refused}
    pods = pods_of(obj)
    named = {"frontend": pods[0], "worker": pods[1], "last": pods[-1]} if len(pods) > 1 else {"frontend": pods[0]}
    files = manifests.deployment_children(obj, plan, "{}")[-1]["data"]
    return {
        "image": runtime(pods[0])["image"],
        **{role: " ".join(command(pod)) for role, pod in named.items()},
        "environment": {
            key: text for key, text in variables(pods[0]).items() if key.startswith(("HF_", "SGLANG_", "VLLM_"))
        },
        "files": sorted(files),
    }


@pytest.mark.parametrize("engine_name", OTHERS)
def test_each_example_is_started_in_an_engine_as_in_its_golden_file(engine_name: str, golden: Golden) -> None:
    commands = {name: launch(name, engine_name) for name in EXAMPLES}
    golden(HERE / "golden" / "engines" / f"{engine_name}.yaml", yaml.safe_dump(commands, sort_keys=False, width=120))


@pytest.mark.parametrize("engine_name", OTHERS)
def test_every_flag_is_one_that_the_engine_has(engine_name: str) -> None:
    known = set((HERE / "engines" / f"{engine_name}.flags").read_text().splitlines())
    described = engine(engine_name)
    given_by_us = {flag for argument in described.argument for flag in argument.flags if flag.startswith("-")}
    assert given_by_us <= known
    assert {flag for flag in described.fixed if flag.startswith("--")} <= known | {"--model", "--tp", "--dp"}


@pytest.mark.parametrize("name", ["moe", *OTHERS])
def test_facts_about_an_engine_have_their_sources(name: str) -> None:
    described = engine(name)
    assert described.command
    assert name == "moe" or all(source.startswith("https://") for source in described.sources)
    assert name == "moe" or described.version == engines()[name].version


# Layouts


def subject(name: str, per_node: int = 8) -> Subject:
    obj = in_engine(name, hardware={"accelerator": "h100-sxm", "gpusPerNode": per_node})
    return resolve(parse_deployment({**obj, "metadata": {"name": "m"}}), None)


def sglang_coordinate(layout: Layout, rank: int) -> Coordinate:
    """python/sglang/srt/runtime_context.py: tp_size ranks a stage; attention DP and expert ranks outside tp."""
    stage = layout.ep * layout.tp
    return Coordinate(pp=rank // stage, ep=rank % stage // layout.tp, tp=rank % stage % layout.tp)


def vllm_coordinate(layout: Layout, rank: int) -> Coordinate:
    """vllm/distributed/parallel_state.py: ranks are laid out as DP × PP × TP."""
    shard = layout.pp * layout.tp
    return Coordinate(ep=rank // shard, pp=rank % shard // layout.tp, tp=rank % layout.tp)


def tensorrt_llm_coordinate(layout: Layout, rank: int) -> Coordinate:
    """tensorrt_llm/mapping.py: pp outside tp_size; attention DP takes all of tp_size, whose other factor is 1."""
    size = layout.ep * layout.tp
    return Coordinate(pp=rank // size, ep=rank % size % layout.ep, tp=rank % size // layout.ep)


COORDINATES = {"sglang": sglang_coordinate, "vllm": vllm_coordinate, "tensorrt-llm": tensorrt_llm_coordinate}
DEGREE = st.sampled_from([1, 2, 3, 4, 8, 16])
LAYOUTS = st.builds(Layout, DEGREE, DEGREE, DEGREE, st.permutations(["pp", "ep", "tp"]).map(tuple))


@pytest.mark.parametrize("name", OTHERS)
@given(layout=LAYOUTS)
def test_an_accepted_layout_gives_each_rank_the_coordinate_that_the_engine_gives_it(name: str, layout: Layout) -> None:
    if any(engine_rules(subject(name), layout, 0)):
        return
    theirs = COORDINATES[name]
    assert [layout.coordinate(rank) for rank in range(layout.world)] == [theirs(layout, r) for r in range(layout.world)]


@given(layout=LAYOUTS, per_node=st.sampled_from([2, 4, 8]))
def test_sglang_starts_on_each_node_the_ranks_that_were_placed_there(layout: Layout, per_node: int) -> None:
    filled = layout.world % per_node == 0 or layout.world < per_node
    if not filled or any(engine_rules(subject("sglang", per_node), layout, 0)):
        return
    in_slot = min(per_node, layout.world)
    nodes = layout.world // in_slot
    started = [sglang_ranks(layout, nodes, node) for node in range(nodes)]
    assert started == [list(range(node * in_slot, (node + 1) * in_slot)) for node in range(nodes)]


def sglang_ranks(layout: Layout, nodes: int, node: int) -> list[int]:
    """python/sglang/srt/entrypoints/engine.py, _calculate_rank_ranges."""
    stage = layout.ep * layout.tp
    stages_here, nodes_a_stage = max(layout.pp // nodes, 1), max(nodes // layout.pp, 1)
    ranks_here = stage // nodes_a_stage
    stages = range(stages_here * (node // nodes_a_stage), stages_here * (node // nodes_a_stage + 1))
    first = ranks_here * (node % nodes_a_stage)
    return [pp * stage + rank for pp in stages for rank in range(first, first + ranks_here)]


@pytest.mark.parametrize("name", ["vllm", "tensorrt-llm"])
def test_experts_dealt_and_split_at_once_are_refused_with_layouts_that_are_not(name: str) -> None:
    obj = in_engine(name, parallelism={"ep": 4, "tp": 2}, hardware={"accelerator": "h100-sxm", "gpusPerNode": 8})
    with pytest.raises(ManifestError) as caught:
        plan_of(obj)
    (violation,) = caught.value.violations
    assert (violation.field, violation.code) == ("spec.runtime.engine", "EngineCannotSplitExperts")
    assert "cannot hold ep 4 · tp 2" in violation.message
    assert caught.value.nearest
    assert all("ep 1," in layout or "tp 1," in layout for layout in caught.value.nearest)


def test_a_rank_order_that_the_engine_does_not_have_is_refused() -> None:
    assert refusals("sglang", ep=2, tp=2, pp=2, rankOrder=["ep", "pp", "tp"]) == ["EngineRankOrder"]
    assert refusals("vllm", ep=4, tp=1, pp=2) == ["EngineRankOrder"]
    assert plan_of(in_engine("vllm", parallelism={"ep": 4, "pp": 2, "rankOrder": ["ep", "pp", "tp"]})).slots == 2


def test_a_stage_that_fills_one_node_and_a_half_is_refused() -> None:
    layout = Layout(ep=6, tp=2, pp=2)
    (violation,) = engine_rules(subject("sglang"), layout, 0)
    assert violation.code == "EnginePartsNodes"
    assert "the 12 ranks of one pp coordinate must fill whole nodes or lie in one of 8 GPUs" in violation.message


def test_tensorrt_llm_is_refused_more_than_a_node_and_copies_of_experts() -> None:
    assert refusals("tensorrt-llm", ep=8) == ["EngineNeedsOneNode"]
    assert refusals("tensorrt-llm", ep=4, redundantExperts=8) == ["EngineWithoutRedundantExperts"]


@pytest.mark.parametrize("name", OTHERS)
def test_auto_degrees_are_such_as_the_engine_can_express(name: str) -> None:
    plan = plan_of(in_engine(name, parallelism={"ep": "auto", "tp": "auto", "pp": 1, "gpus": 4}))
    assert name == "sglang" or 1 in (plan.degrees.ep, plan.degrees.tp)


def test_the_bundled_runtime_takes_every_layout() -> None:
    layout = Layout(3, 5, 7, ("tp", "pp", "ep"))
    assert not any(engine_rules(subject("moe"), layout, 9))


# Commands


def test_sglang_counts_the_ranks_of_a_stage_and_parts_attention_and_experts() -> None:
    obj = in_engine("sglang", parallelism={"ep": 4, "tp": 2, "pp": 2}, model={"architecture": "mixtral-8x7b"})
    pods = pods_of(obj)
    assert len(pods) == 4
    flags = ("--tp-size", "--attn-dp-size", "--ep-size", "--pp-size", "--nnodes", "--node-rank", "--dist-init-addr")
    assert [value(pods[3], flag) for flag in flags] == [
        "8",
        "4",
        "4",
        "2",
        "4",
        "3",
        "mixtral-0-0.mixtral-0.team:29500",
    ]
    assert variables(pods[3])["SGLANG_PP_LAYER_PARTITION"] == "16,16"


def test_sglang_is_told_the_tokens_of_all_shards_in_whole_pages() -> None:
    (pod,) = pods_of(in_engine("sglang", parallelism={"ep": 4}, serving={"maxBatchTokens": 1000}))
    assert value(pod, "--chunked-prefill-size") == str(4 * 960)


def test_shards_of_vllm_meet_at_the_head() -> None:
    head, worker = pods_of(in_engine("vllm"))
    assert value(head, "--data-parallel-size") == value(worker, "--data-parallel-size") == "8"
    assert value(head, "--data-parallel-size-local") == "4"
    assert value(head, "--data-parallel-address") == "$(POD_IP)"
    assert value(worker, "--data-parallel-address") == "mixtral-0-0.mixtral-0.team"
    assert value(worker, "--data-parallel-start-rank") == "4"
    assert "--headless" in command(worker)
    assert "--headless" not in command(head)
    assert "--enable-expert-parallel" in command(head)


def test_one_shard_of_vllm_over_several_pods_is_one_executor() -> None:
    head, worker = pods_of(in_engine("vllm", parallelism={"ep": 1, "tp": 4, "pp": 2}))
    flags = ("--nnodes", "--node-rank", "--master-addr", "--master-port")
    assert [value(worker, flag) for flag in flags] == ["2", "1", "mixtral-0-0.mixtral-0.team", "29500"]
    assert "--headless" in command(worker)
    assert "--enable-expert-parallel" not in command(head)


def test_copies_of_experts_are_asked_of_each_engine_in_its_words() -> None:
    parallelism = {"ep": 8, "redundantExperts": 8}
    assert value(pods_of(in_engine("sglang", parallelism=parallelism))[0], "--ep-num-redundant-experts") == "8"
    config = value(pods_of(in_engine("vllm", parallelism=parallelism))[0], "--eplb-config")
    assert json.loads(config) == {"num_redundant_experts": 8}


def test_tensorrt_llm_reads_what_its_command_cannot_say_from_a_file() -> None:
    obj = in_engine(
        "tensorrt-llm", parallelism={"ep": 2, "pp": 2}, model={"architecture": "mixtral-8x7b", "kvCacheDtype": "float8"}
    )
    plan = plan_of(obj)
    data = manifests.deployment_children(obj, plan, "{}")[-1]["data"]
    assert json.loads(data["engine.yaml"]) == {
        "return_perf_metrics": True,
        "enable_attention_dp": True,
        "pp_partition": [16, 16],
        "kv_cache_config": {"dtype": "fp8"},
    }
    (pod,) = pods_of(obj)
    assert value(pod, "--config") == "/etc/moe/engine.yaml"
    volume = next(volume for volume in pod["spec"]["volumes"] if volume["name"] == "plan")
    assert {"key": "engine.yaml", "path": "engine.yaml"} in volume["configMap"]["items"]


@pytest.mark.parametrize("name", ["sglang", "vllm"])
def test_random_weights_need_no_checkpoint_but_a_config(name: str) -> None:
    obj = in_engine(name, model={"architecture": "mixtral-8x7b", "source": "random"})
    pod = pods_of(obj)[0]
    assert "/etc/moe" in command(pod)
    assert value(pod, "--load-format") == "dummy"
    data = manifests.deployment_children(obj, plan_of(obj), "{}")[-1]["data"]
    assert json.loads(data["config.json"])["model_type"] == "mixtral"


def test_weights_are_turned_into_fp8_where_the_engine_can() -> None:
    model = {"architecture": "mixtral-8x7b", "source": "pvc://models/mixtral", "dtype": "float8"}
    for name in ("sglang", "vllm"):
        assert value(pods_of(in_engine(name, model=model))[0], "--quantization") == "fp8"
    published = {"architecture": "deepseek-v3", "source": "pvc://models/v3"}
    assert "--quantization" not in command(pods_of(in_engine("sglang", model=published, parallelism={"ep": 32}))[0])


def test_arguments_and_variables_of_the_manifest_come_last() -> None:
    given = {"engine": "vllm", "args": ["--enforce-eager"], "env": [{"name": "HF_HUB_OFFLINE", "value": "0"}]}
    pod = pods_of(in_engine("vllm", runtime=given))[0]
    assert command(pod)[-1] == "--enforce-eager"
    assert [v["value"] for v in runtime(pod)["env"] if v["name"] == "HF_HUB_OFFLINE"] == ["0"]


def test_a_key_is_handed_to_each_engine_as_it_takes_one() -> None:
    serving = {"apiKeySecretRef": {"name": "keys", "key": "mixtral"}}
    head, worker = pods_of(in_engine("sglang", serving=serving))
    assert value(head, "--api-key") == "$(MOE_API_KEY)"
    assert "--api-key" not in command(worker)
    assert "VLLM_API_KEY" in variables(pods_of(in_engine("vllm", serving=serving))[0])


# Pods


@pytest.mark.parametrize("name", OTHERS)
def test_pods_of_other_engines_carry_no_variables_of_a_launcher(name: str) -> None:
    """vLLM and SGLang take RANK and WORLD_SIZE for torchrun's."""
    pod = pods_of(in_engine(name, parallelism={"ep": 4}))[0]
    assert not {"RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR"} & variables(pod).keys()
    assert variables(pod)["LWS_WORKER_INDEX"] == "0"
    assert runtime(pod)["securityContext"]["runAsUser"] == 1000


def test_workers_are_probed_where_they_answer() -> None:
    _, sglang = pods_of(in_engine("sglang"))
    assert runtime(sglang)["readinessProbe"]["httpGet"] == {"path": "/health", "port": "http"}
    _, vllm = pods_of(in_engine("vllm"))
    assert not {"startupProbe", "readinessProbe", "livenessProbe", "ports"} & runtime(vllm).keys()


def test_checkpoints_are_fetched_by_the_bundled_runtime() -> None:
    model = {"architecture": "mixtral-8x7b", "source": "hf://mistralai/Mixtral-8x7B-v0.1"}
    pod = pods_of(in_engine("sglang", model=model, runtime={"engine": "sglang", "image": "mirror/sglang:1"}))[0]
    assert runtime(pod)["image"] == "mirror/sglang:1"
    (fetch,) = pod["spec"]["initContainers"]
    assert fetch["image"] == engine("moe").images["cuda"]
    assert "runAsUser" not in fetch["securityContext"]


@pytest.mark.slow
@pytest.mark.parametrize("name", OTHERS)
def test_the_api_server_accepts_pods_of_each_engine_under_the_restricted_level(plane: ControlPlane, name: str) -> None:
    levels = {"pod-security.kubernetes.io/enforce": "restricted", "pod-security.kubernetes.io/warn": "restricted"}
    plane.apply({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "team", "labels": levels}})
    plane.apply({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "mixtral", "namespace": "team"}})
    model = {"architecture": "mixtral-8x7b", "source": "hf://mistralai/Mixtral-8x7B-v0.1"}
    obj = in_engine(name, model=model, parallelism={"ep": 4 if name == "tensorrt-llm" else 8})
    children = manifests.deployment_children(obj, plan_of(obj), "{}")
    assert refused_by(plane, [*children, *pods_of(obj)]) == []


def refused_by(plane: ControlPlane, objects: Iterable[Object]) -> list[str]:
    dry_run = ("apply", "--server-side", "--force-conflicts", "--dry-run=server", "--field-manager=moe-operator")
    return plane.kubectl(*dry_run, "-f", "-", stdin=yaml.safe_dump_all(objects)).stderr.splitlines()


@pytest.mark.parametrize("name", ["sglang", "vllm"])
def test_a_deployment_of_another_engine_is_placed_started_and_served_as_any(name: str) -> None:
    cluster = Cluster(manifest(runtime={"engine": name}))
    cluster.settle()
    assert cluster.condition("Ready")["reason"] == "Serving"
    assert [command(pod)[0] for pod in cluster.pods()] == [engine(name).command[0]] * 2
    cluster.check()


# What an engine does not take


def test_a_layout_that_the_engine_cannot_express_is_told_in_the_status() -> None:
    cluster = Cluster(manifest(runtime={"engine": "tensorrt-llm"}))
    cluster.settle()
    assert cluster.objects == {}
    assert cluster.condition("ParallelismValid")["reason"] == "EngineNeedsOneNode"
    assert "nearest layouts that work" in cluster.condition("Stalled")["message"]


def test_arguments_that_follow_from_the_plan_are_refused() -> None:
    runtime = {"engine": "sglang", "args": ["--tp-size=4", "--mem-fraction-static", "0.8", "--dp", "2"]}
    assert told_of("sglang", runtime=runtime) == [
        "spec.runtime.args: --tp-size follows from the plan; remove it",
        "spec.runtime.args: --dp follows from the plan; remove it",
    ]


def test_what_an_engine_cannot_do_is_refused_by_name() -> None:
    one = {"ep": 4}
    model = {"architecture": "mixtral-8x7b", "source": "random"}
    keys = {"apiKeySecretRef": {"name": "a", "key": "b"}}
    assert told_of("tensorrt-llm", parallelism=one, model=model, serving=keys) == [
        "spec.model.source: TensorRT-LLM needs a checkpoint, but the weights are random; name one: hf://, s3://, pvc:// or file://",
        "spec.serving.apiKeySecretRef: TensorRT-LLM checks no API key; remove it, or check keys before it",
    ]
    halved = {"architecture": "mixtral-8x7b", "source": "pvc://m/m", "dtype": "float32", "kvCacheDtype": "bfloat16"}
    assert told_of("sglang", model=halved) == [
        "spec.model.kvCacheDtype: SGLang keeps its KV cache in float32 or float8, not in bfloat16; set it to auto or float8"
    ]
    turned = {"architecture": "mixtral-8x7b", "source": "pvc://models/m", "dtype": "int4"}
    assert told_of("vllm", model=turned) == [
        "spec.model.dtype: vLLM is not told to turn the weights into int4; set dtype to auto and source to a checkpoint in that format"
    ]


def test_a_device_without_a_known_image_needs_one_named() -> None:
    hardware = {"accelerator": "mi300x", "gpusPerNode": 4, "resourceName": "amd.com/gpu"}
    message = "spec.runtime.image: no image of vLLM for rocm is known; name one"
    assert told_of("vllm", hardware=hardware) == [message]
    assert (
        told_of("vllm", hardware=hardware, runtime={"engine": "vllm", "image": "vllm/vllm-openai-rocm:v0.33.0"}) == []
    )


# Measured figures


def test_figures_of_vllm_are_read_from_its_own_metrics() -> None:
    """Recorded from vLLM 0.32 on a CPU with two tensor-parallel ranks, after one request of 24 tokens."""
    recorded = parse_samples((HERE / "engines" / "vllm.metrics").read_text())
    before = dict.fromkeys(recorded, 0.0)
    measured = measure(Endpoint(answered=True), before, recorded, 2.0, engine("vllm").metrics)
    assert measured.tokens_per_second == 12
    assert measured.ttft is not None
    assert measured.tpot is not None
    assert 0 < measured.tpot < measured.ttft


def test_figures_of_all_shards_are_taken_together() -> None:
    def text(tokens: int) -> str:
        shards = (
            f'vllm:generation_tokens_total{{engine="{shard}",model_name="m{{}}"}} {tokens}\n' for shard in range(4)
        )
        return "".join(shards)

    metrics = engine("vllm").metrics
    measured = measure(Endpoint(answered=True), parse_samples(text(10)), parse_samples(text(60)), 2.0, metrics)
    assert measured.tokens_per_second == 100


# What plans and pages say


def test_what_an_engine_decides_by_itself_is_told() -> None:
    serving, parallelism = {"capacityFactor": 1.2}, {"ep": 8, "microBatches": 4}
    warnings = plan_of(in_engine("sglang", serving=serving, parallelism=parallelism)).warnings
    assert "serving.capacityFactor: 1.2 is not applied; SGLang computes every token of every expert" in warnings
    assert "parallelism.microBatches: 4 are planned for, but SGLang makes its own" in warnings


def test_the_page_names_versions_images_and_refusals_as_they_are() -> None:
    page = (ROOT / "docs" / "engines.md").read_text()
    for name in OTHERS:
        described = engine(name)
        assert f"{described.title} {described.version} | `{described.images['cuda']}`" in page


# What the bundled runtime executes


def test_a_model_that_the_bundled_runtime_cannot_execute_is_refused_before_pods() -> None:
    with pytest.raises(ManifestError) as refused:
        prove(in_engine("moe", model={"architecture": "gpt-oss-20b"}), None)
    (violation,) = refused.value.violations
    assert (violation.field, violation.code) == ("spec.runtime.engine", "EngineFamily")
    assert str(violation).endswith("executes mixtral and qwen3_moe models, not gpt_oss; set it to sglang or vllm")


def test_a_plan_of_such_a_model_warns_and_still_tells_its_figures() -> None:
    plan = plan_of(in_engine("moe", model={"architecture": "gpt-oss-20b"}))
    assert plan.warnings[0].startswith("runtime.engine: the bundled runtime executes mixtral and qwen3_moe models")
    assert plan.prediction.tpot > 0


def test_weights_in_a_format_that_the_bundled_runtime_does_not_load_are_warned_of() -> None:
    model = {"architecture": "mixtral-8x7b", "dtype": "float8"}
    (warning,) = plan_of(in_engine("moe", model=model)).warnings
    assert warning.startswith("model.dtype: the bundled runtime loads float32, bfloat16, float16 weights, not float8")
    assert plan_of(in_engine("vllm", model=model)).warnings == ()


def test_another_engine_serves_a_model_of_an_unknown_family_with_a_warning() -> None:
    config = dict(load_model("qwen3-30b-a3b").config)
    config["moe_num_experts"] = config.pop("num_experts")
    strange = {"config": config | {"model_type": "brand_new"}, "source": "hf://someone/brand-new"}
    plan = plan_of(in_engine("vllm", model=strange))
    assert plan.model.config["model_type"] == "brand_new"
    assert (
        plan.model.total_params
        == plan_of(in_engine("vllm", model={"architecture": "qwen3-30b-a3b"})).model.total_params
    )
    (warning,) = plan.warnings
    assert warning.startswith("model.config: the family 'brand_new' is not known; planned as if it were qwen3_moe")


def test_a_model_of_an_unknown_family_without_its_usual_fields_is_refused_with_their_names() -> None:
    config = {"model_type": "brand_new", "moe_num_experts": 8, "hidden_size": 64}
    with pytest.raises(ManifestError) as refused:
        plan_of(in_engine("vllm", model={"config": config}))
    (violation,) = refused.value.violations
    assert violation.code == "UnknownFamily"
    assert "vocab_size (or padded_vocab_size)" in violation.message
    assert "hidden_size (or" not in violation.message
