"""Argo CD's health of a MoEDeployment: its Lua, run over statuses that the operator's own core has written."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from goldens import Golden
from simulated import Cluster, manifest

from moe_operator.reconcile.model import Endpoint

lupa = pytest.importorskip("lupa", reason="health.lua needs a Lua interpreter: install lupa")

ARGOCD = Path(__file__).parents[2] / "examples" / "gitops" / "argocd"
RECORDED = Path(__file__).parent / "recorded"

Object = dict[str, Any]


def untouched() -> Object:
    return Cluster(manifest()).deployment


def starting() -> Object:
    cluster = Cluster(manifest())
    cluster.silent = {0}
    cluster.settle()
    return cluster.deployment


def serving() -> Object:
    cluster = Cluster(manifest())
    cluster.endpoints[0] = Endpoint(answered=True, ttft=0.2, tpot=0.02, tokens_per_second=900.0)
    cluster.settle()
    return cluster.deployment


def scaled_to_zero() -> Object:
    cluster = Cluster(manifest(replicas=0))
    cluster.settle()
    return cluster.deployment


def edited() -> Object:
    """The spec has changed and the operator has not looked at it."""
    cluster = Cluster(manifest())
    cluster.settle()
    cluster.edit(runtime={"image": "other:1"})
    return cluster.deployment


def rolling_out() -> Object:
    cluster = Cluster(manifest(replicas=2))
    cluster.settle()
    cluster.edit(runtime={"image": "other:1"})
    cluster.step()
    return cluster.deployment


def invalid() -> Object:
    cluster = Cluster(manifest(parallelism={"ep": 24}))
    cluster.settle()
    return cluster.deployment


def without_room() -> Object:
    cluster = Cluster(manifest(), nodes=1)
    cluster.settle()
    return cluster.deployment


def paused() -> Object:
    cluster = Cluster(manifest())
    cluster.deployment["metadata"]["annotations"] = {"moe-operator.dev/paused": "true"}
    cluster.settle()
    return cluster.deployment


def restarting() -> Object:
    cluster = Cluster(manifest())
    cluster.settle()
    cluster.fail("m-0-1", said="CUDA error")
    cluster.step()
    return cluster.deployment


def given_up() -> Object:
    cluster = Cluster(manifest(failure={"backoff": "10s", "maxRestarts": 0}))
    cluster.settle()
    cluster.fail("m-0-1", said="CUDA error")
    cluster.settle()
    return cluster.deployment


def degraded() -> Object:
    cluster = Cluster(manifest(failure={"policy": "degrade", "allowExpertLoss": True, "backoff": "10s"}), nodes=2)
    cluster.settle()
    cluster.lose(str(cluster.replica_status(0)["nodes"][1]))
    cluster.endpoints[0] = Endpoint(answered=True)
    cluster.settle()
    return cluster.deployment


# What Argo CD shows, and what kstatus (Flux, kubectl wait, helm --wait) makes of the same status.
STATES: dict[Callable[[], Object], tuple[str, str]] = {
    untouched: ("Progressing", "InProgress"),
    starting: ("Progressing", "InProgress"),
    serving: ("Healthy", "Current"),
    scaled_to_zero: ("Healthy", "Current"),
    edited: ("Progressing", "InProgress"),
    rolling_out: ("Progressing", "InProgress"),
    invalid: ("Degraded", "Failed"),
    without_room: ("Progressing", "InProgress"),
    paused: ("Suspended", "InProgress"),
    restarting: ("Progressing", "InProgress"),
    given_up: ("Degraded", "Failed"),
    degraded: ("Progressing", "InProgress"),
}


def health(deployment: Object) -> dict[str, str]:
    """What health.lua returns of an object, as Argo CD runs it: a chunk with the global obj."""
    lua = lupa.LuaRuntime(unpack_returned_tuples=True)
    lua.globals().obj = lua.table_from(deployment, recursive=True)
    health = lua.execute((ARGOCD / "health.lua").read_text())
    return {key: health[key] for key in sorted(health)}  # a Lua table has an order of its own each time


def kstatus(deployment: Object) -> str:
    """https://github.com/kubernetes-sigs/cli-utils/blob/master/pkg/kstatus/README.md, for custom resources."""
    status = deployment.get("status") or {}
    conditions = {condition["type"]: condition["status"] for condition in status.get("conditions") or ()}
    if status.get("observedGeneration") != deployment["metadata"]["generation"]:
        return "InProgress"
    if conditions["Reconciling"] == "True":
        return "InProgress"
    if conditions["Stalled"] == "True":
        return "Failed"
    return "Current" if conditions["Ready"] == "True" else "InProgress"


@pytest.mark.parametrize("state", STATES, ids=lambda state: state.__name__)
def test_health_is_what_the_status_means(state: Callable[[], Object], golden: Golden) -> None:
    deployment = state()
    found = health(deployment)
    expected, waited_for = STATES[state]
    assert (found["status"], kstatus(deployment)) == (expected, waited_for), found
    recorded = {"health": found, "metadata": deployment["metadata"], "status": deployment.get("status")}
    text = yaml.safe_dump(_without_figures(recorded), sort_keys=False, width=120)
    golden(RECORDED / f"{state.__name__}.yaml", text)


def _without_figures(recorded: Any) -> Any:
    """A better cost model changes predictions, and with them warnings and near layouts: no matter here."""
    if isinstance(recorded, dict):
        kept = {key: item for key, item in recorded.items() if key not in ("plan", "measured", "replicaStatuses")}
        return {key: _without_figures(item) for key, item in kept.items()}
    if isinstance(recorded, list):
        return [_without_figures(item) for item in recorded]
    return recorded.partition("\n")[0] if isinstance(recorded, str) else recorded


def test_health_tells_people_why() -> None:
    assert "128 experts" in health(invalid())["message"]
    assert health(given_up())["message"].count("CUDA error") == 1
    assert health(without_room())["message"].startswith("Unplaceable: replica 0:")


def test_argo_cd_is_given_the_health_check_as_it_is() -> None:
    data = yaml.safe_load((ARGOCD / "argocd-cm.yaml").read_text())["data"]
    assert data == {
        "resource.customizations.health.moe-operator.dev_MoEDeployment": (ARGOCD / "health.lua").read_text()
    }


def test_applications_name_folders_of_this_repository() -> None:
    for application in yaml.safe_load_all((ARGOCD / "application.yaml").read_text()):
        assert (Path(__file__).parents[2] / application["spec"]["source"]["path"]).is_dir()
        assert "ServerSideApply=true" in application["spec"]["syncPolicy"]["syncOptions"]
