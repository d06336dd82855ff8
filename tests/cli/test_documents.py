import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from moe_operator.cli.documents import parse, parse_value
from moe_plan.errors import ManifestError

DEPLOYMENT = {"kind": "MoEDeployment", "metadata": {"name": "a"}}


def names(text: str) -> list[str]:
    return [document.name for document in parse(text, "file.yaml")]


def refusal(text: str) -> str:
    with pytest.raises(ManifestError) as caught:
        parse(text, "file.yaml")
    return str(caught.value)


def test_several_documents_and_lists_are_read_in_order() -> None:
    deployments = [{"kind": "MoEDeployment", "metadata": {"name": name}} for name in "bc"]
    text = "\n---\n".join(map(json.dumps, [DEPLOYMENT, {"kind": "List", "items": deployments}]))
    assert names(text) == ["a", "b", "c"]


def test_other_kinds_are_skipped_with_a_word_on_stderr(capsys: pytest.CaptureFixture[str]) -> None:
    assert names(f"kind: Service\n---\n{json.dumps(DEPLOYMENT)}") == ["a"]
    assert capsys.readouterr().err == "file.yaml: skipped Service\n"


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("", "file.yaml: holds no MoEDeployment"),
        ("kind: Service", "file.yaml: holds no MoEDeployment"),
        ("- 1", "file.yaml: holds list where a Kubernetes object belongs"),
        ("a: 1\nb: 2\na: 3", "file.yaml: does not parse at line 3, column 1: duplicate key 'a'"),
        ("a: {b: 1, b: 2}", "file.yaml: does not parse at line 1, column 11: duplicate key 'b'"),
        ("a: [1", "file.yaml: does not parse at line 2, column 1: did not find expected ',' or ']'"),
        (
            "a: !!python/object/apply:os.system [ls]",
            "file.yaml: does not parse at line 1, column 4: could not determine a constructor",
        ),
        ("a: \x00", "file.yaml: does not parse: "),
    ],
)
def test_what_does_not_parse_is_refused_in_one_sentence(text: str, sentence: str) -> None:
    assert refusal(text).startswith(sentence)
    assert "\n" not in refusal(text)


def test_numbers_are_read_as_json_and_kubectl_read_them() -> None:
    assert parse_value('{"rms_norm_eps": 1e-06, "big": 4E12, "text": "1e3"}', "config.json") == {
        "rms_norm_eps": 1e-06,
        "big": 4e12,
        "text": "1e3",
    }


def test_nesting_beyond_reason_is_refused() -> None:
    assert refusal("[" * 100_000).startswith("file.yaml: does not parse")


def test_merge_keys_still_work() -> None:
    text = "x: &base {name: a}\nkind: MoEDeployment\nmetadata: {<<: *base}\n"
    assert names(text) == ["a"]


@given(st.text() | st.text(alphabet="{}[]:,-&*!#\n ab'\""))
def test_any_text_is_parsed_or_refused(text: str) -> None:
    try:
        found = parse(text, "file.yaml")
    except ManifestError:
        return
    assert all(isinstance(document.data, dict) for document in found)
