"""Other engines behind the same resource: the commands they are given, the pods they run in, and what they do not take."""

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest
import yaml
from control_plane import ControlPlane
from goldens import Golden
from rendered import OTHERS, Object, in_engine, plan_of, pods_of, runtime, violations_of
from simulated import Cluster, manifest

from moe_operator import manifests
from moe_operator.engines import engine
from moe_operator.reconcile.model import Endpoint
from moe_operator.samples import measure, parse_samples
from moe_plan.engines import engines
from moe_plan.errors import ManifestError

ROOT = Path(__file__).parents[2]
HERE = Path(__file__).parent
EXAMPLES = ("seed-s1", "seed-s2", "seed-s3", "seed-s4", "deepseek-v3", "mixtral-8x22b", "qwen3-235b")


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
