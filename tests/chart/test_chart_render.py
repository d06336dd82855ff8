import json
import textwrap
from pathlib import Path
from typing import Any

import click
import pytest
import typer
import yaml
from goldens import Golden
from helm_chart import CHART, NAMESPACE, Helm, Object, Render, one
from moe_command import Moe

from moe_operator.cli import app
from moe_operator.crd.definition import custom_resource_definition
from moe_operator.resources import cluster_role, member_role, own_role, wide_role

HERE = Path(__file__).parent
CASES = sorted((HERE / "values").glob("*.yaml"))
ELSEWHERE = {"CustomResourceDefinition": "spec", "PrometheusRule": "spec", "ConfigMap": "data", "Role": "rules"}
"""What of these kinds has tests of its own."""


def shortened(obj: Object) -> Object:
    is_operators = obj["kind"] == "ClusterRole" and not obj["metadata"]["name"].endswith(("-view", "-edit"))
    left_out = "rules" if is_operators else ELSEWHERE.get(obj["kind"])
    return {key: value for key, value in obj.items() if key != left_out}


@pytest.mark.parametrize("values", CASES, ids=lambda path: path.stem)
def test_values_give_these_objects(values: Path, render: Render, golden: Golden) -> None:
    objects = map(shortened, render(yaml.safe_load(values.read_text())))
    text = yaml.safe_dump_all(objects, sort_keys=False, width=120)
    golden(HERE / "golden" / values.name, text)


def test_helm_finds_nothing_to_say_of_the_chart(helm: Helm) -> None:
    done = helm("lint", "--strict", "--with-subcharts", CHART, *(f"--values={case}" for case in CASES))
    assert done.returncode == 0, done.stdout + done.stderr
    assert "[WARNING]" not in done.stdout
    assert "[ERROR]" not in done.stdout


def test_the_operator_may_do_what_its_table_of_resources_says_and_nothing_else(render: Render) -> None:
    objects = render()
    assert one(objects, "ClusterRole", "moe-operator")["rules"] == cluster_role("moe-operator")["rules"]
    assert one(objects, "Role")["rules"] == own_role("moe-operator", "")["rules"]


def test_an_operator_of_some_namespaces_has_its_roles_there_and_little_in_the_cluster(render: Render) -> None:
    objects = render({"namespaces": ["a", "b"]})
    assert one(objects, "ClusterRole", "moe-operator")["rules"] == wide_role("")["rules"]
    members = [o for o in objects if o["kind"] == "Role" and o["metadata"]["name"] == "moe-operator-deployments"]
    assert [o["metadata"]["namespace"] for o in members] == ["a", "b"]
    assert all(o["rules"] == member_role("", "")["rules"] for o in members)
    bindings = [o for o in objects if o["kind"] == "RoleBinding" and o["metadata"]["namespace"] in ("a", "b")]
    account = {"kind": "ServiceAccount", "name": "moe-operator", "namespace": NAMESPACE}
    assert [o["subjects"] for o in bindings] == [[account], [account]]
    assert {o["roleRef"]["name"] for o in bindings} == {"moe-operator-deployments"}


@pytest.mark.parametrize(("release", "name"), [("moe-operator", "moe-operator"), ("a", "a-moe-operator")])
def test_the_rules_reach_the_pods_of_the_release(render: Render, release: str, name: str) -> None:
    objects = render(release=release)
    account = one(objects, "Deployment")["spec"]["template"]["spec"]["serviceAccountName"]
    assert account == one(objects, "ServiceAccount")["metadata"]["name"] == name
    for kind in ("ClusterRole", "Role"):
        binding = one(objects, f"{kind}Binding")
        assert binding["roleRef"]["name"] == one(objects, kind, name)["metadata"]["name"]
        assert [subject["name"] for subject in binding["subjects"]] == [account]


def test_the_chart_brings_the_custom_resource_of_its_operator(render: Render) -> None:
    assert one(render(), "CustomResourceDefinition")["spec"] == custom_resource_definition()["spec"]


def test_the_custom_resource_is_kept_if_asked_for(render: Render) -> None:
    kept, given_up = (one(render({"crds": {"keep": keep}}), "CustomResourceDefinition") for keep in (True, False))
    assert kept["metadata"]["annotations"] == {"helm.sh/resource-policy": "keep"}
    assert "annotations" not in given_up["metadata"]


def test_every_service_and_policy_selects_the_operators_pods(render: Render) -> None:
    for case in CASES:
        objects = render(yaml.safe_load(case.read_text()))
        labels = one(objects, "Deployment")["spec"]["template"]["metadata"]["labels"]
        selectors = [
            *(o["spec"]["selector"] for o in objects if o["kind"] == "Service"),
            *(
                o["spec"]["selector"]["matchLabels"]
                for o in objects
                if o["kind"] in ("PodDisruptionBudget", "Deployment")
            ),
            *(o["spec"]["podSelector"]["matchLabels"] for o in objects if o["kind"] == "NetworkPolicy"),
        ]
        assert [selector for selector in selectors if not selector.items() <= labels.items()] == []


def test_ports_are_named_where_services_and_policies_look_for_them(render: Render) -> None:
    for case in CASES:
        objects = render(yaml.safe_load(case.read_text()))
        (container,) = one(objects, "Deployment")["spec"]["template"]["spec"]["containers"]
        named = {port["name"] for port in container["ports"]}
        targets = {port["targetPort"] for o in objects if o["kind"] == "Service" for port in o["spec"]["ports"]}
        policies = [o["spec"] for o in objects if o["kind"] == "NetworkPolicy"]
        allowed = {port["port"] for spec in policies for rule in spec["ingress"] for port in rule["ports"]}
        assert targets <= named
        assert not policies or allowed == named


def test_the_operator_understands_the_arguments_it_is_given(render: Render) -> None:
    group = typer.main.get_command(app)
    for case in CASES:
        values = yaml.safe_load(case.read_text()) or {}
        (container,) = one(render(values), "Deployment")["spec"]["template"]["spec"]["containers"]
        with click.Context(group) as context:
            operator, run, *options = container["args"]
            command = group.get_command(context, operator).get_command(context, run)  # type: ignore[attr-defined]
            given = command.make_context("run", options).params
        assert list(given["watch_namespace"] or ()) == list(dict.fromkeys(values.get("namespaces") or ()))
        assert given["lease"] == given["owner"] or given["owner"] is None
        assert given["health_port"] in {port["containerPort"] for port in container["ports"]}


WRONG: list[tuple[dict[str, Any], str]] = [
    ({"replica": 2}, "additional properties 'replica' not allowed"),
    ({"replicas": "2"}, "at '/replicas': got string, want integer"),
    ({"replicas": -1}, "at '/replicas': minimum: got -1, want 0"),
    ({"namespaces": ["Team_A"]}, "at '/namespaces/0'"),
    ({"namespaces": "team-a"}, "at '/namespaces': got string, want array"),
    ({"image": {"name": "x"}}, "at '/image': additional properties 'name' not allowed"),
    ({"image": {"digest": "sha256:1"}}, "at '/image/digest'"),
    ({"image": {"pullPolicy": "Sometimes"}}, "at '/image/pullPolicy': value must be one of"),
    ({"runtime": {"images": {"triton": "x"}}}, "at '/runtime/images': additional properties 'triton' not allowed"),
    ({"runtime": {"image": "x"}}, "at '/runtime': additional properties 'image' not allowed"),
    ({"crds": {"keep": "yes"}}, "at '/crds/keep': got string, want boolean"),
    ({"webhook": {"port": 443}}, "at '/webhook/port': minimum: got 443"),
    ({"webhook": {"certManager": {"issuer": "x"}}}, "additional properties 'issuer' not allowed"),
    ({"webhook": {"certManager": {"duration": "90d"}}}, "at '/webhook/certManager/duration'"),
    ({"logLevel": "verbose"}, "at '/logLevel': value must be one of 'debug', 'info', 'warning', 'error'"),
    ({"resources": {"limit": {}}}, "at '/resources': additional properties 'limit' not allowed"),
    ({"resources": {"limits": {"memory": "1 GB"}}}, "at '/resources/limits/memory'"),
    ({"env": [{"value": "x"}]}, "at '/env/0': missing property 'name'"),
    ({"affinity": {"podAntiaffinity": {}}}, "additional properties 'podAntiaffinity' not allowed"),
    ({"podDisruptionBudget": {"maxUnavailable": 0}}, "at '/podDisruptionBudget/maxUnavailable'"),
    ({"networkPolicy": {"egress": {"apiServerPorts": []}}}, "at '/networkPolicy/egress/apiServerPorts': minItems"),
    ({"metrics": {"serviceMonitor": True}}, "at '/metrics/serviceMonitor': got boolean, want object"),
    (
        {"metrics": {"dashboards": {"labels": {"grafana_dashboard": 1}}}},
        "at '/metrics/dashboards/labels/grafana_dashboard'",
    ),
    ({"fullnameOverride": "Moe_Operator"}, "at '/fullnameOverride'"),
]


@pytest.mark.parametrize(("values", "said"), WRONG, ids=lambda value: value if isinstance(value, str) else None)
def test_wrong_values_are_refused_by_name(helm: Helm, values: dict[str, Any], said: str) -> None:
    done = helm("template", "moe-operator", CHART, "--values", "-", stdin=json.dumps(values))
    assert done.returncode != 0
    assert said in done.stderr


def test_notes_say_what_to_do_next(helm: Helm) -> None:
    done = helm(
        "install", "moe-operator", CHART, "--dry-run=client", "--set", "webhook.enabled=false,rbac.create=false"
    )
    notes = done.stdout.partition("NOTES:")[2]
    assert "rollout status deployment/moe-operator" in notes
    assert "kubectl apply -f -" in notes
    assert "kubectl delete validatingwebhookconfiguration moe-operator" in notes
    assert "rbac.create is false" in notes


def test_the_deployment_that_the_notes_propose_works(helm: Helm, moe: Moe) -> None:
    notes = helm("install", "moe-operator", CHART, "--dry-run=client").stdout.partition("NOTES:")[2]
    manifest = notes.partition("<<EOF\n")[2].partition("EOF")[0]
    done = moe("plan", "-f", "-", stdin=textwrap.dedent(manifest))
    assert done.stdout.startswith("mixtral: the plan holds"), done.stderr


def test_alerts_link_to_where_people_read_their_runbooks(render: Render) -> None:
    chosen = {"enabled": True, "runbooks": "https://docs.example.com/alerts", "disabled": ["MoEOperatorDown"]}
    rule = one(render({"metrics": {"prometheusRule": chosen}}), "PrometheusRule")
    rules = {rule["alert"]: rule for group in rule["spec"]["groups"] for rule in group["rules"]}
    assert "MoEOperatorDown" not in rules
    assert rules["MoEKVCacheFull"]["annotations"]["runbook_url"] == "https://docs.example.com/alerts#moekvcachefull"
    assert "{{ $labels.deployment }}" in rules["MoEKVCacheFull"]["annotations"]["summary"]


def test_dashboards_reach_grafana_as_they_are(render: Render) -> None:
    objects = render({"metrics": {"dashboards": {"enabled": True}}})
    for file in (CHART / "files" / "dashboards").glob("*.json"):
        data = one(objects, "ConfigMap", f"moe-operator-dashboard-{file.stem}")["data"]
        assert json.loads(data[f"moe-{file.name}"]) == json.loads(file.read_text())
