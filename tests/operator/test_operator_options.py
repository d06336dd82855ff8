import asyncio
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest
from moe_command import Moe

from moe_operator.api import UnavailableError
from moe_operator.engines.engine import engine, use_images
from moe_operator.manifests import pods
from moe_operator.ownership import owned, owners
from moe_plan.manifest import parse_deployment
from moe_plan.planner import make_plan


@pytest.fixture
def own_images() -> Iterator[None]:
    use_images({"moe": "registry.example.com/moe-runtime:2"})
    engine.cache_clear()
    yield
    use_images({})


def deployment(**runtime: str) -> dict[str, Any]:
    return {
        "apiVersion": "moe-operator.dev/v1alpha1",
        "kind": "MoEDeployment",
        "metadata": {"name": "m", "namespace": "team", "uid": "1"},
        "spec": {
            "model": {"architecture": "seed-s1", "source": "random"},
            "hardware": {"accelerator": "seed-64gb"},
            "parallelism": {"ep": 64, "tp": 2},
            "runtime": runtime,
        },
    }


def image(of: dict[str, Any]) -> str:
    plan = make_plan(parse_deployment({**of, "metadata": {"name": "m"}}))
    nodes = [f"n{slot}" for slot in range(plan.slots)]
    return str(pods(of, plan, 0, 1, nodes)[0]["spec"]["containers"][0]["image"])


@pytest.mark.usefixtures("own_images")
def test_the_operators_image_is_taken_where_the_manifest_names_none() -> None:
    assert image(deployment()) == "registry.example.com/moe-runtime:2"
    assert image(deployment(image="mine:1")) == "mine:1"


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
