"""The chart through real Helm on a real control plane; its pods run on a fake node."""

import json
import shutil
import socket
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import yaml
from binaries import foreign_crds
from control_plane import ControlPlane, gpu_node
from helm_chart import CHART, NAMESPACE, Helm, Render, one
from operator_process import eventually, running

pytestmark = pytest.mark.slow

CRD = "customresourcedefinition/moedeployments.moe-operator.dev"
FOREIGN = {"ServiceMonitor", "PodMonitor", "PrometheusRule", "Certificate", "Issuer"}
"""Kinds of other projects, whose definitions binaries.py downloads."""
EVERY_KIND = (
    "deployments,pods,services,serviceaccounts,secrets,configmaps,leases,roles,rolebindings,networkpolicies,"
    "poddisruptionbudgets,clusterroles,clusterrolebindings,validatingwebhookconfigurations,customresourcedefinitions"
)


@pytest.fixture(scope="module")
def cluster(bare_plane: ControlPlane) -> ControlPlane:
    nodes = [gpu_node(name) for name in ("node-a", "node-b")]
    for node in nodes:
        for amounts in ("allocatable", "capacity"):
            node["status"][amounts] |= {"ephemeral-storage": "100Gi"}  # as kubelets say
    bare_plane.add_nodes(nodes)
    for file in foreign_crds():
        done = bare_plane.kubectl("apply", "--server-side", "-f", str(file))
        assert done.returncode == 0, done.stderr
    labels = {"pod-security.kubernetes.io/enforce": "restricted"}
    bare_plane.apply({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": NAMESPACE, "labels": labels}})
    for team in ("team-a", "team-b"):
        bare_plane.apply({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": team}})
    eventually(lambda: {"serviceaccount/default", "configmap/kube-root-ca.crt"} <= there(bare_plane), "it is filled")
    return bare_plane


@pytest.fixture
def run(helm: Helm, cluster: ControlPlane) -> Iterator[Any]:
    """Helm on the cluster; what is installed is removed afterwards."""

    def succeed(*arguments: object) -> str:
        done = helm(*arguments, f"--kubeconfig={cluster.kubeconfig}", f"--namespace={NAMESPACE}")
        assert done.returncode == 0, done.stderr
        return done.stdout

    yield succeed
    helm("uninstall", "moe-operator", f"--kubeconfig={cluster.kubeconfig}", f"--namespace={NAMESPACE}")
    cluster.kubectl("delete", CRD, "--ignore-not-found")


def there(plane: ControlPlane) -> set[str]:
    """Kind and name of everything in the operator's namespace and outside of any."""
    done = plane.kubectl("get", EVERY_KIND, f"--namespace={NAMESPACE}", "-o", "name")
    assert done.returncode == 0, done.stderr
    return set(done.stdout.split())


def columns(plane: ControlPlane) -> list[str]:
    crd = json.loads(plane.kubectl("get", CRD, "-o", "json").stdout)
    return [column["name"] for column in crd["spec"]["versions"][0]["additionalPrinterColumns"]]


@pytest.mark.parametrize(
    "values", sorted((Path(__file__).parent / "values").glob("*.yaml")), ids=lambda path: path.stem
)
def test_the_api_server_takes_every_object_and_says_nothing(
    cluster: ControlPlane, render: Render, values: Path
) -> None:
    foreign = set() if foreign_crds() else FOREIGN
    objects = [obj for obj in render(yaml.safe_load(values.read_text())) if obj["kind"] not in foreign]
    pod = one(objects, "Deployment")["spec"]["template"]
    account = pod["spec"]["serviceAccountName"]
    cluster.kubectl("create", "serviceaccount", account, f"--namespace={NAMESPACE}")
    metadata = {**pod["metadata"], "name": "one", "namespace": NAMESPACE}
    objects.append({"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": pod["spec"]})
    listed = json.dumps({"apiVersion": "v1", "kind": "List", "items": objects})
    done = cluster.kubectl("apply", "--server-side", "--force-conflicts", "--dry-run=server", "-f", "-", stdin=listed)
    cluster.kubectl("delete", "serviceaccount", account, f"--namespace={NAMESPACE}")
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""


def test_uninstalling_leaves_nothing_but_the_custom_resource(cluster: ControlPlane, run: Any, tmp_path: Path) -> None:
    before = there(cluster)
    run("install", "moe-operator", CHART, "--wait", "--timeout=60s")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    hook = ("--webhook=service", f"--webhook-port={port}", "--owner=moe-operator")
    own = {
        "lease.coordination.k8s.io/moe-operator",
        "secret/moe-operator-webhook",
        "validatingwebhookconfiguration.admissionregistration.k8s.io/moe-operator",
    }
    with running(cluster, tmp_path, *hook) as operator:
        eventually(lambda: own <= there(cluster), f"the operator has made its own: {operator.log_file}")
        assert operator.stop() == 0, operator.log
    run("uninstall", "moe-operator")
    kept = {"customresourcedefinition.apiextensions.k8s.io/moedeployments.moe-operator.dev"}
    eventually(lambda: there(cluster) == before | kept, f"nothing else is left: {there(cluster) - before}")


def test_an_upgrade_brings_the_new_custom_resource_and_more_processes(
    cluster: ControlPlane, run: Any, tmp_path: Path
) -> None:
    older = Path(shutil.copytree(CHART, tmp_path / "moe-operator"))
    crd = yaml.safe_load((older / "files" / "crd.yaml").read_text())
    removed = crd["spec"]["versions"][0]["additionalPrinterColumns"].pop()["name"]
    (older / "files" / "crd.yaml").write_text(yaml.safe_dump(crd))
    run("install", "moe-operator", older, "--wait", "--timeout=60s")
    assert removed not in columns(cluster)
    run("upgrade", "moe-operator", CHART, "--set", "replicas=3", "--wait", "--timeout=60s")
    assert removed in columns(cluster)
    deployment = json.loads(cluster.kubectl("get", "deployment/moe-operator", f"-n={NAMESPACE}", "-o", "json").stdout)
    assert deployment["status"]["readyReplicas"] == 3


def test_the_custom_resource_goes_where_it_is_not_to_be_kept(cluster: ControlPlane, run: Any) -> None:
    run("install", "moe-operator", CHART, "--set", "crds.keep=false")
    run("uninstall", "moe-operator")
    eventually(lambda: cluster.kubectl("get", CRD).returncode != 0, "the custom resource is gone")


def test_people_who_may_edit_may_make_deployments(cluster: ControlPlane, run: Any) -> None:
    run("install", "moe-operator", CHART)
    cluster.apply(
        {
            "apiVersion": "rbac.authorization.k8s.io/v1",
            "kind": "RoleBinding",
            "metadata": {"name": "ann", "namespace": NAMESPACE},
            "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "edit"},
            "subjects": [{"kind": "User", "name": "ann", "apiGroup": "rbac.authorization.k8s.io"}],
        }
    )
    asking = ("auth", "can-i", "--as=ann", f"--namespace={NAMESPACE}")
    for answer, *question in (
        ("yes", "create", "moedeployments.moe-operator.dev"),
        ("yes", "get", "moedeployments.moe-operator.dev", "--subresource=status"),
        ("yes", "patch", "moedeployments.moe-operator.dev", "--subresource=scale"),
        ("no", "patch", "moedeployments.moe-operator.dev", "--subresource=status"),
    ):
        said = partial(cluster.kubectl, *asking, *question)
        eventually(lambda said=said, answer=answer: said().stdout.strip() == answer, f"{question}: {answer}")
