"""What a person reads of a manifest that cannot work: the same words from kubectl, the webhook and the status."""

import json
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import yaml
from control_plane import ControlPlane
from operator_process import eventually, install, running
from served_webhook import home, settings, until_asked, webhook

from moe_operator.reconcile.decide import decide
from moe_operator.reconcile.model import View
from moe_operator.resources import MANAGED
from moe_operator.webhook.review import review
from moe_plan.manifest import parse_deployment
from moe_plan.planner import make_plan

ROOT = Path(__file__).parents[2]
TABLES = Path(__file__).with_name("invalid")
NAMESPACE = "validation"
SEEDS = ("seed-s1", "seed-s2", "seed-s3", "seed-s4")

Case = dict[str, Any]
Told = Callable[[Case, str], None]


def table(name: str) -> Any:
    """The cases of a table, one a test."""
    rows = yaml.safe_load((TABLES / f"{name}.yaml").read_text())
    return pytest.mark.parametrize("case", rows, ids=[row["case"] for row in rows])


@pytest.fixture(scope="module")
def told(request: pytest.FixtureRequest) -> Iterator[Told]:
    """Compares what was said with the table, or writes it there with --rewrite-golden."""
    rewrite, said = request.config.getoption("--rewrite-golden"), {}

    def check(case: Case, text: str) -> None:
        if rewrite:
            said[case["case"]] = text
        else:
            assert text == case["says"]

    yield check
    if said:
        for file in TABLES.glob("by_*.yaml"):
            write_anew(file, said)


def write_anew(file: Path, said: dict[str, str]) -> None:
    text = file.read_text()
    rows = [{**row, "says": said.get(row["case"], row["says"])} for row in yaml.safe_load(text)]
    header = "".join(line for line in text.splitlines(keepends=True) if line.startswith("#"))
    file.write_text(header + yaml.dump(rows, Dumper=Readable, sort_keys=False, allow_unicode=True, width=200))


class Readable(yaml.SafeDumper):
    """Writes texts of several lines as blocks, and nothing by reference."""

    def ignore_aliases(self, data: Any) -> bool:  # noqa: ARG002  # as the base class has it
        return True

    def represent_str(self, data: str) -> yaml.ScalarNode:
        return self.represent_scalar("tag:yaml.org,2002:str", data, style="|" if "\n" in data else None)


Readable.add_representer(str, Readable.represent_str)


def example(name: str) -> dict[str, Any]:
    manifest: dict[str, Any] = yaml.safe_load((ROOT / "examples" / f"{name}.yaml").read_text())
    return manifest


def manifest_of(case: Case) -> dict[str, Any]:
    manifest = example(case["example"])
    for path, value in case["set"].items():
        *parents, last = path.split(".")
        node = manifest
        for parent in parents:
            node = node.setdefault(parent, {})
        if value is None:
            node.pop(last, None)
        else:
            node[last] = value
    return manifest


def verdict_in_status(deployment: dict[str, Any]) -> str:
    """Message of ParallelismValid as the operator would write it."""
    status = decide(View(deployment=deployment, now=datetime.now(UTC))).status
    assert status is not None
    found = {condition["type"]: condition for condition in status["conditions"]}
    assert found["ParallelismValid"]["status"] == "False"
    assert found["Ready"]["status"] == "False"
    return f"{found['ParallelismValid']['message']}\n"


def valid_in_status(deployment: dict[str, Any]) -> bool:
    status = decide(View(deployment=deployment, now=datetime.now(UTC))).status
    assert status is not None
    return ("ParallelismValid", "True") in {(one["type"], one["status"]) for one in status["conditions"]}


def as_kubectl_prints(case: Case) -> str:
    """One violation on the line of its heading, several and the nearest layouts as a list below it."""
    heading = f'The MoEDeployment "{case["example"]}" is invalid: '
    lines = case["says"].rstrip("\n").split("\n")
    if len(lines) == 1:
        return f"{heading}{lines[0]}\n"
    items = [line if line.startswith("  ") else f"* {line}" for line in lines]
    return "\n".join([heading, *items]).replace("layouts that work:\n", "layouts that work: \n") + "\n"


@table("by_planner")
def test_webhook_and_status_say_the_same_of_what_the_planner_refuses(case: Case, told: Told) -> None:
    manifest = manifest_of(case)
    manifest["metadata"] |= {"uid": "1", "generation": 1}
    answer = review({"request": {"uid": "7", "operation": "CREATE", "object": manifest}})["response"]
    assert not answer["allowed"]
    told(case, answer["status"]["message"] + "\n")
    assert verdict_in_status(manifest) == answer["status"]["message"] + "\n"


def test_there_are_enough_variants_of_each_kind() -> None:
    sizes = {file.stem: len(yaml.safe_load(file.read_text())) for file in TABLES.glob("by_*.yaml")}
    assert sum(sizes.values()) >= 40
    assert min(sizes.values()) >= 20


@pytest.fixture(scope="module", params=["webhook", "no webhook"])
def admission(plane: ControlPlane, request: pytest.FixtureRequest) -> Iterator[str]:
    """The API server asks the webhook, or there is none."""
    plane.apply({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": NAMESPACE}})
    if request.param == "no webhook":
        yield request.param
        return
    home(plane)
    with webhook(plane, settings()):
        until_asked(plane, example("seed-s2-as-written"))
        yield request.param


def apply(plane: ControlPlane, manifest: dict[str, Any]) -> Any:
    return plane.kubectl("apply", "--namespace", NAMESPACE, "-f", "-", stdin=json.dumps(manifest))


def stored(plane: ControlPlane) -> list[dict[str, Any]]:
    listed = json.loads(plane.kubectl("get", "moed", "--namespace", NAMESPACE, "-o", "json").stdout)
    items: list[dict[str, Any]] = listed["items"]
    return items


@pytest.fixture
def emptied(plane: ControlPlane) -> Iterator[None]:
    """Deployments go with the test that made them, however it ends."""
    yield
    done = plane.kubectl("delete", "moed", "--namespace", NAMESPACE, "--all")
    assert done.returncode == 0, done.stderr


def warned(manifest: dict[str, Any], admission: str) -> str:
    """What kubectl prints of what the plan of a manifest warns of."""
    warnings = make_plan(parse_deployment(manifest)).warnings if admission == "webhook" else ()
    return "".join(f"Warning: {warning}\n" for warning in warnings)


@pytest.mark.slow
@pytest.mark.usefixtures("emptied")
@pytest.mark.parametrize("seed", SEEDS)
def test_kubectl_applies_the_seeds(plane: ControlPlane, admission: str, seed: str) -> None:
    done = apply(plane, example(seed))
    assert done.stdout == f"moedeployment.moe-operator.dev/{seed} created\n"
    assert done.stderr == warned(example(seed), admission)


@pytest.mark.slow
@pytest.mark.usefixtures("emptied")
@table("odd_but_valid")
def test_kubectl_applies_what_is_odd_but_valid(plane: ControlPlane, admission: str, case: Case) -> None:
    done = apply(plane, manifest_of(case))
    assert (done.returncode, done.stderr) == (0, warned(manifest_of(case), admission))
    (deployment,) = stored(plane)
    assert deployment["metadata"]["name"] == manifest_of(case)["metadata"]["name"]
    assert valid_in_status(deployment)


@pytest.mark.slow
@table("by_schema")
def test_kubectl_prints_what_the_schema_refuses(plane: ControlPlane, admission: str, told: Told, case: Case) -> None:
    done = apply(plane, manifest_of(case))
    assert done.returncode == 1, admission
    told(case, done.stderr)


@pytest.mark.slow
@pytest.mark.parametrize("admission", ["webhook"], indirect=True)
@table("by_planner")
def test_kubectl_prints_what_the_planner_refuses(plane: ControlPlane, admission: str, case: Case) -> None:
    done = apply(plane, manifest_of(case))
    assert done.stderr == as_kubectl_prints(case), admission
    assert stored(plane) == []


@pytest.mark.slow
@pytest.mark.usefixtures("emptied")
def test_without_the_webhook_the_operator_writes_each_verdict_into_the_status_and_makes_nothing(
    plane: ControlPlane, tmp_path: Path
) -> None:
    install(plane)
    namespace = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": NAMESPACE}}
    said, items = {}, [namespace]
    for number, case in enumerate(yaml.safe_load((TABLES / "by_planner.yaml").read_text())):
        manifest = manifest_of(case)
        manifest["metadata"] = {"name": f"case-{number}", "namespace": NAMESPACE}
        said[manifest["metadata"]["name"]] = case["says"]
        items.append(manifest)
    with running(plane, tmp_path) as operator:
        plane.apply({"apiVersion": "v1", "kind": "List", "items": items})
        eventually(lambda: verdicts(plane) == said, f"the status of all: {operator.log}")
        assert operator.process.poll() is None
        assert "Traceback" not in operator.log
    made = plane.kubectl("get", "pods,services,configmaps", "--namespace", NAMESPACE, "-o", "name", "-l", MANAGED)
    assert made.stdout == ""


def verdicts(plane: ControlPlane) -> dict[str, str]:
    """Message of ParallelismValid=False by deployment."""
    return {
        deployment["metadata"]["name"]: f"{condition['message']}\n"
        for deployment in stored(plane)
        for condition in deployment.get("status", {}).get("conditions", ())
        if (condition["type"], condition["status"]) == ("ParallelismValid", "False")
    }


@pytest.mark.slow
def test_the_operator_serves_the_webhook_itself(plane: ControlPlane, tmp_path: Path) -> None:
    install(plane)
    chosen = settings()
    case = yaml.safe_load((TABLES / "by_planner.yaml").read_text())[0]
    try:
        with running(plane, tmp_path, f"--webhook={chosen.url}", f"--webhook-port={chosen.port}"):
            until_asked(plane, manifest_of(case))
            done = plane.kubectl("apply", "-f", "-", stdin=json.dumps(manifest_of(case)))
            assert done.stderr == as_kubectl_prints(case)
    finally:
        plane.kubectl("delete", "validatingwebhookconfiguration", "--all")
