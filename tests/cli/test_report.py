"""One page of several runs, which needs nothing beside it."""

from __future__ import annotations

import base64
import json
import re
from html.parser import HTMLParser
from pathlib import Path

import pytest
from commands import Fastalign

VOID = {"meta", "img", "!doctype"}
TAGS = {
    *(
        "html",
        "head",
        "meta",
        "title",
        "style",
        "body",
        "h1",
        "h2",
        "h3",
        "p",
        "div",
        "img",
        "details",
        "summary",
        "pre",
    ),
    *("table", "thead", "tbody", "tr", "th", "td"),
}


class Page(HTMLParser):
    """A page whose elements must nest; what stands in it."""

    def __init__(self, content: str) -> None:
        super().__init__()
        self._open: list[str] = []
        self.images: dict[str, str] = {}
        self.links: list[str] = []
        self.tags: set[str] = set()
        self.attributes: set[str] = set()
        self.cells: list[list[str]] = []
        self.feed(content)
        assert self._open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        attributes = dict(attrs)
        self.tags.add(tag)
        self.attributes |= attributes.keys()
        self.links += [value for name, value in attrs if name in ("src", "href") and value]
        if tag == "img":
            self.images[attributes["alt"] or ""] = attributes["src"] or ""
        if tag == "tr":
            self.cells.append([])
        if tag not in VOID:
            self._open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self._open and self._open[-1] == "td":
            self.cells[-1].append(data)


@pytest.fixture
def runs(fastalign: Fastalign) -> Path:
    """BP once and DFA with two seeds, observed."""
    common = ("train", "digits/mlp", "--epochs", "10", "--device", "cpu", "--observe")
    for rule, seed in (("bp", 0), ("dfa", 0), ("dfa", 1)):
        assert fastalign(*common, "--rule", rule, "--seed", seed, "--out", f"runs/{rule}<{seed}>").code == 0
    return Path("runs")


def test_a_page_shows_every_run(runs: Path, fastalign: Fastalign) -> None:
    result = fastalign("report", "runs", "runs/bp<0>", "--out", "page.html")
    assert result.code == 0, result.error
    assert result.out == "3 runs in page.html\n"
    content = Path("page.html").read_text(encoding="utf-8")
    page = Page(content)
    assert all(link.startswith("data:image/svg+xml;base64,") for link in page.links)
    assert "http" not in content.replace("http://www.w3.org", "")
    by_label = {row[0]: row for row in page.cells if row}
    errors = []
    for label, folder in (("BP", "bp<0>"), ("DFA seed 0", "dfa<0>"), ("DFA seed 1", "dfa<1>")):
        last = json.loads((runs / folder / "metrics.jsonl").read_text().splitlines()[-1])
        errors.append(last["test_error"])
        shown = [f"{last['test_error']:.2f} %", f"{last['train_error']:.2f} %", "10 of 10"]
        assert by_label[label][1:4] == shown
        assert float(by_label[label][5]) > 0
    mean, half = (errors[1] + errors[2]) / 2, abs(errors[1] - errors[2]) / 2**0.5
    assert by_label["DFA"] == ["DFA", f"{mean:.2f} ± {half:.2f} %", "2", "10"]
    named = " ".join(page.images)
    for figure in ("mean ± standard deviation", "alignment angle", "gradient angle", "weight norm", "plateau"):
        assert figure in named
    assert {"digits/mlp, BP", "digits/mlp, DFA seed 1", "digits/mlp: final weights under BP"} <= set(page.images)
    for image in page.images.values():
        assert b"</svg>" in base64.b64decode(image.partition(",")[2])
    config = json.loads((runs / "bp<0>" / "config.json").read_text())
    assert config["made_by"]["machine"]["processor"] in content
    assert config["made_by"]["commit"] in content
    assert re.search(r"seed</td><td[^>]*>1<", content)


def test_runs_with_other_settings_are_told_apart(fastalign: Fastalign) -> None:
    """And are no seeds of each other; their curves have a colour each."""
    rates = [f"0.0{digit}" for digit in range(1, 10)]
    for rate in rates:
        arguments = ("train", "digits/mlp", "--rule", "bp", "--lr", rate, "--epochs", "1", "--device", "cpu")
        assert fastalign(*arguments, "--out", f"runs/{rate}").code == 0
    assert fastalign("report", "runs").code == 0
    content = Path("report.html").read_text(encoding="utf-8")
    page = Page(content)
    assert "over seeds" not in content
    assert {f"digits/mlp: training and test error ({number} of 2)" for number in (1, 2)} <= set(page.images)
    labels = [f"BP (lr {rate})" for rate in rates]
    drawn = b"".join(base64.b64decode(image.partition(",")[2]) for image in page.images.values()).decode()
    assert all(f"{label} test" in drawn for label in labels)


def test_a_run_that_has_just_begun_and_one_that_diverged(runs: Path, fastalign: Fastalign) -> None:
    (runs / "bp<0>/metrics.jsonl").unlink()
    (runs / "bp<0>/checkpoint").unlink()
    line = json.loads((runs / "dfa<0>/metrics.jsonl").read_text().splitlines()[0])
    line |= {"train_loss": None, "test_error": 100.0, "observations": {"gradient_angle": {"1": None}}}
    (runs / "dfa<0>/metrics.jsonl").write_text(json.dumps(line) + "\n")
    result = fastalign("report", "runs")
    assert result.code == 0, result.error
    page = Page(Path("report.html").read_text(encoding="utf-8"))
    by_label = {row[0]: row for row in page.cells if row}
    assert by_label["BP"][1:] == ["–", "–", "0 of 10", "0", "–", "–"]
    assert by_label["DFA seed 0"][5] == "–"


HOSTILE = """<script>alert(1)</script> "><img src=http://a.b onerror=x> </td></table><h1> ' onload='x &lt;b&gt; <!--"""


def test_text_of_runs_stands_in_the_page_as_text(fastalign: Fastalign) -> None:
    """Wherever a run's files have any: it opens, closes, loads and hides nothing."""
    folder = Path("runs", HOSTILE.replace("/", "-"))
    assert (
        fastalign("train", "digits/mlp", "--rule", "bp", "--epochs", "1", "--out", folder, "--device", "cpu").code == 0
    )
    config = json.loads((folder / "config.json").read_text())
    config["settings"] |= {"experiment": HOSTILE, "rule": HOSTILE}
    config["recipe"] |= {"source": HOSTILE, HOSTILE: {HOSTILE: [HOSTILE]}}
    machine = {"processor": HOSTILE, "cores": 1, "system": HOSTILE}
    config["made_by"] |= {"commit": HOSTILE, "torch": HOSTILE, "machine": machine}
    (folder / "config.json").write_text(json.dumps(config))
    line = json.loads((folder / "metrics.jsonl").read_text())
    (folder / "metrics.jsonl").write_text(json.dumps(line | {"observations": {HOSTILE: {"1": 1.0}}}) + "\n")
    result = fastalign("report", "runs")
    assert result.code == 0, result.error
    page = Page(Path("report.html").read_text(encoding="utf-8"))
    assert all(link.startswith("data:image/svg+xml;base64,") for link in page.links)
    assert page.tags <= TAGS
    assert page.attributes <= {"lang", "charset", "name", "content", "class", "alt", "src"}


def test_what_is_no_run_is_one_line(runs: Path, fastalign: Fastalign) -> None:
    Path("empty").mkdir()
    for folder in ("empty", "nowhere"):
        result = fastalign("report", folder)
        assert result.code == 2
        assert result.error == f"fastalign: {folder} holds no run, expected a folder with config.json in it or below\n"
    (runs / "bp<0>/config.json").write_text("{")
    result = fastalign("report", "runs")
    assert result.code == 2
    assert "config.json is damaged" in result.error
    assert not Path("report.html").exists()
