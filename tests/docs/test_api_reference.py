from pathlib import Path
from typing import Any

from moe_operator.crd.definition import custom_resource_definition
from moe_operator.crd.reference import reference

PAGE = Path(__file__).parents[2] / "docs" / "api.md"


def test_the_page_is_what_the_crd_says_today() -> None:
    assert PAGE.read_text() == reference(), "run python -m moe_operator.crd.reference > docs/api.md"


def described(schema: dict[str, Any]) -> list[tuple[str, str]]:
    """Every field below a schema with its description."""
    found = []
    for name, field in schema.get("properties", {}).items():
        found += [(name, field.get("description", "")), *described(field), *described(field.get("items", {}))]
    return found


def test_every_field_has_a_row_with_its_description() -> None:
    text = reference()
    schema = custom_resource_definition()["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]
    fields = described(schema["spec"]) + described(schema["status"])
    assert len(fields) > 100
    assert [name for name, said in fields if not said] == []
    assert [name for name, said in fields if f"`{name}`" not in text or said.replace("|", "\\|") not in text] == []


def test_links_to_sections_lead_to_headings() -> None:
    text = reference()
    headings = {
        line.removeprefix("## ").replace(".", "").replace("[]", "").lower()
        for line in text.splitlines()
        if line.startswith("## ")
    }
    links = [part.partition(")")[0] for part in text.split("](#")[1:]]
    assert links
    assert [link for link in links if link not in headings] == []
