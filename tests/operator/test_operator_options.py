import asyncio
from types import SimpleNamespace
from typing import Any

import pytest
from moe_command import Moe
from rendered import in_engine
from simulated import Cluster, manifest

from moe_operator.api import UnavailableError
from moe_operator.ownership import owned, owners
from moe_operator.webhook.review import review

OWN = (("moe", "registry.example.com/moe-runtime:2"),)


def image(**runtime: str) -> str:
    """Of the first pod that an operator with an image of its own makes."""
    cluster = Cluster(manifest(runtime=runtime))
    cluster.images = OWN
    cluster.settle()
    return str(cluster.pods()[0]["spec"]["containers"][0]["image"])


def test_the_operators_image_is_taken_where_the_manifest_names_none() -> None:
    assert image() == "registry.example.com/moe-runtime:2"
    assert image(image="mine:1") == "mine:1"


def test_an_engine_that_has_no_image_for_a_device_is_taken_where_the_operator_has_one() -> None:
    on_rocm = in_engine("vllm", hardware={"accelerator": "mi300x", "gpusPerNode": 4, "resourceName": "amd.com/gpu"})
    question = {"request": {"uid": "1", "operation": "CREATE", "object": on_rocm}}
    assert review(question)["response"]["status"]["message"].startswith("spec.runtime.image: no image of vLLM for rocm")
    assert review(question, (("vllm", "mine:1"),))["response"]["allowed"]


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ("triton=x", "triton is no engine; there are moe, sglang, tensorrt-llm, vllm"),
        ("moe", "'moe' is not ENGINE=IMAGE"),
        ("moe=", "'moe=' is not ENGINE=IMAGE"),
    ],
)
def test_an_image_of_no_engine_is_wrong_use(moe: Moe, given: str, said: str) -> None:
    done = moe("operator", "run", "--image", given)
    assert done.returncode == 2
    assert said in " ".join(done.stderr.replace("│", "").split())


def asked(role: Any) -> Any:
    async def get(*_: Any) -> Any:
        if isinstance(role, Exception):
            raise role
        return role

    return asyncio.run(owners(SimpleNamespace(get=get), "moe-operator"))  # type: ignore[arg-type]


def test_the_cluster_role_owns_what_the_operator_makes_for_itself() -> None:
    (reference,) = asked({"metadata": {"name": "moe-operator", "uid": "7"}})
    assert reference["kind"] == "ClusterRole"
    assert owned({"name": "lease"}, (reference,)) == {"name": "lease", "ownerReferences": [reference]}
    assert reference["uid"] == "7"


@pytest.mark.parametrize("answer", [None, UnavailableError(503, "the API server is busy")])
def test_an_operator_without_an_owner_runs_and_says_so(answer: Any, caplog: pytest.LogCaptureFixture) -> None:
    assert asked(answer) == ()
    assert "will outlive it" in caplog.text
    assert owned({"name": "lease"}, ()) == {"name": "lease"}
