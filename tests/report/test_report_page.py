import json
import re
import subprocess
import sys
from dataclasses import dataclass, field
from html.parser import HTMLParser
from itertools import pairwise
from pathlib import Path

import pytest
from moe_command import Moe

from moe_operator.report.rendering import escaped, in_code

ROOT = Path(__file__).parents[2]
CLAIMS = "examples/strategies/S4-ep8-tp4-pp4.md"


VOID = {"meta", "link", "br", "hr", "img", "input"}


@dataclass
class Element:
    tag: str
    attributes: dict[str, str]
    parent: "Element | None" = None
    children: list["Element"] = field(default_factory=list)
    parts: "list[Element | str]" = field(default_factory=list)

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.pieces()).split())

    def pieces(self) -> list[str]:
        return [piece for part in self.parts for piece in (part.pieces() if isinstance(part, Element) else [part])]

    def all(self, tag: str) -> list["Element"]:
        here = [self] if self.tag == tag else []
        return here + [found for child in self.children for found in child.all(tag)]

    def one(self, identifier: str) -> "Element":
        (found,) = [element for element in self.everything() if element.attributes.get("id") == identifier]
        return found

    def everything(self) -> list["Element"]:
        return [self, *(found for child in self.children for found in child.everything())]


class _Parser(HTMLParser):
    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.root = Element("document", {})
        self.here = self.root

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        child = Element(tag, {name: value or "" for name, value in attrs}, self.here)
        self.here.children.append(child)
        self.here.parts.append(child)
        if tag not in VOID:
            self.here = child

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)
        if tag not in VOID:
            self.handle_endtag(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.here.tag == tag, f"</{tag}> closes <{self.here.tag}>"
        assert self.here.parent is not None
        self.here = self.here.parent

    def handle_data(self, data: str) -> None:
        self.here.parts.append(data)


def read_page(text: str) -> Element:
    """The page's tree; fails where an element is not closed by its own tag."""
    parser = _Parser()
    parser.feed(text)
    parser.close()
    assert parser.here is parser.root, f"<{parser.here.tag}> is not closed"
    return parser.root


def written(folder: Path, *arguments: object, stdin: str = "") -> str:
    command = [Path(sys.executable).with_name("moe"), "report", "-d", folder, *arguments]
    done = subprocess.run(
        list(map(str, command)), input=stdin, capture_output=True, text=True, check=False, cwd=ROOT, timeout=120
    )
    assert done.returncode == 0, done.stderr
    return (folder / "report.html").read_text()


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> str:
    return written(tmp_path_factory.mktemp("report"), "-f", "examples/seed-s4.yaml", "--claims", CLAIMS)


@pytest.fixture(scope="module")
def page(source: str) -> Element:
    return read_page(source)


def table_after(section: Element, caption: str) -> list[list[str]]:
    (table,) = [found for found in section.all("table") if found.all("caption")[0].text == caption]
    return [[cell.text for cell in row.children] for row in table.all("tr")]


def test_headings_descend_one_level_at_a_time_from_a_single_first(page: Element) -> None:
    levels = [int(element.tag[1]) for element in page.everything() if re.fullmatch(r"h[1-6]", element.tag)]
    assert levels[0] == 1
    assert levels.count(1) == 1
    assert all(after <= before + 1 for before, after in pairwise(levels))


def test_every_section_is_named_by_its_heading_and_linked_from_the_contents(page: Element) -> None:
    sections = page.all("section")
    links = [link.attributes["href"] for link in page.all("nav")[0].all("a")]
    assert links == [f"#{section.attributes['id']}" for section in sections]
    for section in sections:
        assert page.one(section.attributes["aria-labelledby"]).tag == "h2"


def test_every_picture_has_a_title_and_a_description(page: Element) -> None:
    pictures = page.all("svg")
    assert len(pictures) > 10
    for picture in pictures:
        assert picture.attributes["role"] == "img"
        title, description = (page.one(name) for name in picture.attributes["aria-labelledby"].split())
        assert (title.tag, description.tag) == ("title", "desc")
        assert title.text
        assert description.text


def test_identifiers_are_unique(page: Element) -> None:
    names = [element.attributes["id"] for element in page.everything() if "id" in element.attributes]
    assert len(names) == len(set(names))


def test_every_table_has_a_caption_and_headers_and_scrolls_by_itself(page: Element) -> None:
    for table in page.all("table"):
        assert table.all("caption")[0].text
        assert table.all("th")
        assert table.parent is not None
        assert table.parent.attributes["class"] == "scroll"
        assert table.parent.attributes["tabindex"] == "0"


def test_the_page_asks_for_nothing_from_anywhere(source: str, page: Element) -> None:
    tags = {element.tag for element in page.everything()}
    assert not tags & {"script", "img", "iframe", "object", "embed", "link", "image", "use"}
    assert all("src" not in element.attributes for element in page.everything())
    assert all(link.attributes["href"].startswith("#") for link in page.all("a"))
    assert "@import" not in source
    assert "url(" not in source


def test_all_128_ranks_are_drawn_with_their_coordinates(page: Element) -> None:
    drawn = [found for pod in page.one("layout").all("svg") for found in pod.all("g")]
    assert [group.all("text")[0].text for group in drawn] == [str(rank) for rank in range(128)]
    # S4 numbers ranks ep·16 + pp·4 + tp.
    expected = [f"e{rank // 16} p{rank // 4 % 4} t{rank % 4}" for rank in range(128)]
    assert [group.all("text")[1].text for group in drawn] == expected


def test_the_ranks_that_rank_0_talks_with_are_marked(page: Element) -> None:
    drawn = [found for pod in page.one("layout").all("svg") for found in pod.all("g")]
    marks = {group.all("text")[0].text: group.all("text")[2].text for group in drawn if len(group.all("text")) > 2}
    assert {rank for rank, mark in marks.items() if mark == "T"} == {"1", "2", "3"}
    assert {rank for rank, mark in marks.items() if mark == "P"} == {"4", "8", "12"}
    assert {rank for rank, mark in marks.items() if mark == "E"} == {str(rank) for rank in range(16, 128, 16)}


def test_pods_and_groups_are_told_in_tables_too(page: Element) -> None:
    pods = table_after(page.one("layout"), "Ranks, coordinates and experts by pod")
    assert pods[1] == ["0", "0–15", "0–3", "0", "0–3", "0–7"]
    assert len(pods) == 1 + 8
    groups = table_after(page.one("links"), "Groups in which ranks talk")[1:]
    assert [row[0] for row in groups] == ["tp", "pp", "ep"]
    assert [row[2:5] for row in groups] == [
        ["32", "4", "inside one pod"],
        ["32", "4", "inside one pod"],
        ["16", "8", "over 8 pods"],
    ]


def test_dispatch_crosses_nodes_and_all_reduces_stay_inside(page: Element) -> None:
    flows = table_after(page.one("links"), "Messages of one rank")[1:]
    assert {(row[0], row[1]) for row in flows} == {
        ("tp all-reduce", "node"),
        ("stage boundary", "node"),
        ("dispatch", "cluster"),
        ("combine", "cluster"),
    }


@pytest.mark.slow
def test_memory_and_times_are_those_of_moe_plan(moe: Moe, page: Element) -> None:
    plan = moe("plan", "-f", "examples/seed-s4.yaml").stdout
    times = table_after(page.one("time"), "Parts of the time")
    overhead = next(row for row in times if row[0] == "overhead")
    assert re.search(rf"^overhead +{re.escape(overhead[3])} +{re.escape(overhead[1])}$", plan, re.MULTILINE)
    memory = table_after(page.one("memory"), "Memory of the fullest rank of each stage")
    experts = next(row for row in memory if row[0] == "experts")
    assert memory[0] == ["part", "stage 0", "stages 1–2", "stage 3"]
    assert re.search(rf"^experts +{re.escape(experts[1].split(',')[0])} ", plan, re.MULTILINE)
    total = float(json.loads(moe("plan", "-f", "examples/seed-s4.yaml", "-o", "json").stdout)["prediction"]["tpot"])
    assert times[-1][1] == f"{total * 1e3:.3g} ms"


def test_this_plan_stands_among_the_alternatives_with_why_it_loses(page: Element) -> None:
    rows = table_after(page.one("alternatives"), "For the manifest's workload")[1:]
    assert rows[0][:3] == ["this plan", "ep 8 · tp 4 · pp 4", "128"]
    assert "fewer tokens/s" in rows[0][-1]
    (best,) = [row for row in rows if row[0].split(", ")[0] == "best"]
    rates = [float(row[5].replace(",", "")) for row in rows]
    assert float(best[5].replace(",", "")) == max(rates)
    plots = page.one("alternatives").all("svg")
    assert len(plots) == 2
    for plot in plots:
        kinds = [dot.attributes["class"] for dot in plot.all("circle")]
        assert kinds.count("dot planned") == 1
        assert kinds.count("dot best") > 1
        assert [label.text for label in plot.all("text")].count("this plan") == 1


def test_the_blue_points_are_a_front(page: Element) -> None:
    rows = table_after(page.one("alternatives"), "The fronts, at any load")[1:]
    over_tpot = [row for row in rows if "TPOT" in row[0]]
    rates = [float(row[6].replace(",", "")) for row in over_tpot]
    assert len(rates) > 3
    assert rates == sorted(rates)


@pytest.mark.slow
def test_targets_out_of_reach_are_explained_beside_the_alternatives(tmp_path: Path) -> None:
    manifest = (ROOT / "examples/qwen3-235b.yaml").read_text().replace("tpot: 80ms", "tpot: 1us")
    section = read_page(written(tmp_path, "-f", "-", stdin=manifest)).one("alternatives")
    assert "Nothing does all that is asked." in section.text
    assert "What follows leaves the targets out." in section.text
    assert table_after(section, "For the manifest's workload")[1][0].startswith("this plan")
    assert (
        "Nothing does all that is asked."
        in (tmp_path / "implementation_guide.md").read_text().partition("## Trade-offs")[2]
    )


@pytest.mark.slow
def test_a_plan_of_auto_degrees_and_of_no_replicas_has_a_report(tmp_path: Path) -> None:
    manifest = (
        (ROOT / "examples/qwen3-235b.yaml").read_text().replace("{ep: 32}", "{ep: auto, gpus: 32}\n  replicas: 0")
    )
    section = read_page(written(tmp_path, "-f", "-", stdin=manifest)).one("alternatives")
    rows = table_after(section, "For the manifest's workload")[1:]
    assert rows[0][0].startswith("this plan")


def test_sensitivity_runs_from_an_eighth_to_eight_times_and_says_what_cannot_be_planned(page: Element) -> None:
    rows = table_after(page.one("sensitivity"), "By prompt tokens")[1:]
    assert [row[0] for row in rows] == ["112", "224", "448", "896", "1,792", "3,584", "7,168"]
    assert "4,096 positions" in rows[-1][1]
    times = [float(row[1].split()[0]) * {"s": 1e3, "ms": 1}[row[1].split()[1]] for row in rows[:-1]]
    assert times == sorted(times)


@pytest.mark.slow
def test_the_audit_of_claims_has_the_verdicts_of_moe_audit(moe: Moe, page: Element) -> None:
    summary = moe("audit", CLAIMS).stdout.strip().splitlines()[-1]
    count, holds, off, impossible, unverifiable = map(
        int,
        re.findall(r"(\d+) (?:verdicts|holds|off|impossible|unverifiable)", summary),
    )
    claims = page.one("claims")
    assert (
        f"{count} verdicts: {holds} hold , {off} off , {impossible} impossible , {unverifiable} unverifiable"
        in claims.text
    )
    rows = table_after(claims, "Claims that do not hold or cannot be verified")[1:]
    assert len(rows) == off + impossible + unverifiable
    assert sum("impossible" in row[3] for row in rows) == impossible


def test_every_assumption_has_a_source(page: Element) -> None:
    tables = page.one("assumptions").all("table")
    rows = [[cell.text for cell in row.children] for table in tables for row in table.all("tr")[1:]]
    assert len(rows) > 20
    assert all(row[2] and row[2] != "no source given" for row in rows)
    assert any("400 TFLOPS" in row[1] and "deployment documents S1 to S4" in row[2] for row in rows)


def test_the_verification_is_on_the_page(page: Element) -> None:
    rows = table_after(page.one("verification"), "Checks")[1:]
    assert {row[1] for row in rows} == {"holds"}
    assert f"all {len(rows)} checks hold" in page.one("verification").text


@pytest.mark.slow
def test_a_report_of_training_has_its_memory_and_predicts_nothing(tmp_path: Path) -> None:
    page = read_page(written(tmp_path, "-f", "examples/seed-s4-training.yaml"))
    names = [section.attributes["id"] for section in page.all("section")]
    assert not {"time", "alternatives", "sensitivity"} & set(names)
    parts = {row[0] for row in table_after(page.one("memory"), "Memory of the fullest rank of each stage")}
    assert {"gradients", "optimizer"} <= parts
    assert "KV cache" not in parts
    guide = (tmp_path / "implementation_guide.md").read_text()
    assert "Training steps are not predicted." in guide
    assert "TPOT" not in guide
    assert json.loads((tmp_path / "strategy.json").read_text())["prediction"] is None


@pytest.mark.slow
def test_what_a_manifest_or_a_claim_says_is_never_markup(tmp_path: Path) -> None:
    hostile = "</code></table><script>alert(1)</script>`|[x](javascript:x)"
    spec = {
        "model": {"architecture": "mixtral-8x7b", "revision": hostile, "source": f"hf://{hostile}"},
        "hardware": {"accelerator": "h100-sxm"},
        "parallelism": {"ep": 8},
    }
    head = {"apiVersion": "moe-operator.dev/v1alpha1", "kind": "MoEDeployment", "metadata": {"name": "hostile"}}
    claims = tmp_path / "<img src=x>.md"
    claims.write_text("- GPUs: 128 <script>alert(2)</script>, <b>64 × 2 = 129</b>\n")
    folder = tmp_path / "report"
    page = read_page(written(folder, "-f", "-", "--claims", claims, stdin=json.dumps({**head, "spec": spec})))
    assert not page.all("script")
    assert not page.all("img")
    assert hostile in page.one("summary").text
    guide = (folder / "implementation_guide.md").read_text()
    (line,) = [line for line in guide.splitlines() if line.startswith("| weights")]
    assert line.count("``") == 4
    assert len(re.findall(r"(?<!\\)\|", line)) == 3


def test_names_and_words_of_the_guide_are_escaped() -> None:
    assert escaped("<b>*x*</b> [a](b)\n# c") == r"\<b\>\*x\*\</b\> \[a\](b) \# c"
    assert in_code("a``b\nc") == "``` a``b c ```"


@pytest.mark.slow
def test_the_guide_gives_the_rank_rule_and_the_steps(tmp_path: Path) -> None:
    written(tmp_path, "-f", "examples/seed-s4.yaml")
    guide = (tmp_path / "implementation_guide.md").read_text()
    assert "rank = ep * 16 + pp * 4 + tp" in guide
    assert "| 3 | 48–63 | 24–31 | 0, 3, 0 |" in guide
    assert "moe plan -f MANIFEST" in guide
    assert "Have 8 nodes with 16 free `nvidia.com/gpu` each" in guide
    headings = [line for line in guide.splitlines() if line.startswith("#")]
    assert headings[0].startswith("# seed-s4: ep 8, tp 4, pp 4 on 128 GPUs")
