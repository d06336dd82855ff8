"""Names of children, and texts that must arrive as they were written."""

import copy
import json

import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from rendered import deployment, environment, plan_of, pods_of, runtime

from moe_operator import manifests
from moe_operator.manifests.naming import LONGEST
from moe_operator.manifests.templating import as_yaml

labels = st.from_regex(r"[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?", fullmatch=True)
numbers = st.integers(0, 1023)


@given(labels, numbers, numbers)
def test_every_childs_name_is_a_dns_label_and_keeps_its_numbers(name: str, replica: int, slot: int) -> None:
    child = manifests.child_name(name, replica, slot)
    assert len(child) <= LONGEST
    assert child.endswith(f"-{replica}-{slot}")
    assert child[0] != "-"


@given(labels, labels, numbers, numbers)
def test_pods_of_two_deployments_never_share_a_name(one: str, other: str, replica: int, slot: int) -> None:
    if one != other:
        assert manifests.child_name(one, replica, slot) != manifests.child_name(other, replica, slot)


def test_a_name_at_the_limit_still_tells_the_deployments_apart() -> None:
    one, other = "a" * 63, "a" * 62 + "b"
    assert manifests.child_name(one, 3, 12) != manifests.child_name(other, 3, 12)


# No value breaks out of its place

texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=40)
nasty = texts | st.sampled_from(
    ["{{ 7 * 7 }}", "{% raw %}", '"\n- evil: true', "'", "&env", "*env", "!!python/object", "# no", "😀\u2028\x85\x7f", "\\ud83d\\ude00", "yes", "~", "$(POD_IP)", "</script>"]
)  # fmt: skip
keys = st.from_regex(r"[A-Za-z_][A-Za-z0-9_]{0,8}", fullmatch=True)


@given(nasty)
def test_any_text_survives_yaml(text: str) -> None:
    assert yaml.safe_load(as_yaml(text)) == text
    assert yaml.safe_load(f"a: {as_yaml({text: [text]})}") == {"a": {text: [text]}}


@settings(max_examples=30)
@given(
    env=st.lists(st.tuples(keys, nasty), max_size=4),
    args=st.lists(nasty, max_size=4),
    image=nasty.filter(bool),
    label=nasty,
)
def test_odd_values_stay_where_they_belong(env: list[tuple[str, str]], args: list[str], image: str, label: str) -> None:
    template = {"metadata": {"labels": {"odd": label}, "annotations": {label: label}}}
    runtime_section = {
        "env": [{"name": name, "value": value} for name, value in env],
        "args": args,
        "image": image,
        "podTemplate": template,
    }
    plain = pods_of(deployment())
    for pod, without in zip(pods_of(deployment(runtime=runtime_section)), plain, strict=True):
        assert environment(pod) == environment(without) | dict(env)
        assert pod["metadata"]["labels"].pop("odd") == label
        assert pod["metadata"]["annotations"].pop(label, label) == label
        container = runtime(pod)
        ours = runtime(without)
        assert container["image"] == image
        assert container["args"] == [*ours["args"], *args]
        undone = {**container, "env": ours["env"], "args": ours["args"], "image": ours["image"]}
        assert undone == ours
        assert pod["metadata"]["labels"].keys() == without["metadata"]["labels"].keys()


@given(nasty)
def test_plan_spec_and_record_come_out_of_their_configmaps_as_they_went_in(text: str) -> None:
    obj = copy.deepcopy(deployment(runtime={"args": [text]}))
    plan = plan_of(obj)
    config_map = manifests.deployment_children(obj, plan, text)[-1]
    assert config_map["immutable"] is True
    assert config_map["data"]["plan.json"] == text
    assert json.loads(config_map["data"]["spec.json"]) == obj["spec"]
    record = manifests.record(obj, plan, 3, {"lastFailure": text})
    assert json.loads(record["data"]["record.json"]) == {"lastFailure": text}
