"""Whatever a name, a text, a log line or a reason holds, each format shows it and obeys nothing."""

from __future__ import annotations

import csv
import html.parser
import io
import json
import re
from collections.abc import Callable
from dataclasses import replace
from xml.etree import ElementTree as ET

import pytest

from pytest_quantgate.reports.card import card_csv
from pytest_quantgate.reports.github import annotation_lines, comment, summary
from pytest_quantgate.reports.history.exports import Export, export
from pytest_quantgate.reports.history.report import history_blocks
from pytest_quantgate.reports.history.sources import history_of_records
from pytest_quantgate.reports.html.history_page import history_html
from pytest_quantgate.reports.html.page import run_html
from pytest_quantgate.reports.markdown import markdown
from pytest_quantgate.reports.run_tables import group_cells
from pytest_quantgate.reports.text import text
from pytest_quantgate.reports.words import logged, printable
from pytest_quantgate.reports.write import run_markdown, terminal_blocks
from pytest_quantgate.results.record import RunRecord, to_plain
from pytest_quantgate.results.verdicts import Cause, CauseKind
from tests.conftest import Project
from tests.reports.test_report import cell, divergence, record

ATTACKS = {
    "escape codes": "\x1b[2J\x1b]0;title\x07\x9b31m",
    "a carriage return": "red\rgreen",
    "turned writing": "\u202egnp.exe\u2066",
    "a lone surrogate": "caf\udce9",
    "a bar": "a | b || c",
    "backticks": "`x` ``` ~~~",
    "line breaks": "one\n\n# two\n- three\n> four\n1. five",
    "a link": "[text](https://example.org) ![x](y)",
    "a mention": "@everyone #1",
    "tags": "<img src=x onerror=alert(1)></script><!-- x",
    "entities": "&lt;b&gt; &#x41;",
    "a formula": '=cmd|"/c calc"!A1',
    "a workflow command": "\n::error::x\n::add-mask::y\n##[group]z",
    "an output": "\nname=value\nEOF",
    "markup of rich": "[red]x[/red] :smile:",
}


def hostile(attack: str) -> RunRecord:
    """Return a run whose every text is an attack."""
    of_cell = {
        "model": attack,
        "device": attack,
        "text": attack,
        "engine": attack,
        "notes": (attack,),
        "imatrix": attack,
    }
    cells = (
        cell("F16", 20, 9, **{**of_cell, "id": f"{attack}-F16"}),
        cell("Q8_0", 20.1, 6, **of_cell, id=f"{attack}-Q8_0", divergence=divergence(0.1)),
        replace(
            cell("Q4_0", 21, 5, **of_cell, id=f"{attack}-Q4_0", divergence=divergence(0.2)),
            verdict="REGRESSED",
            reason=f"PPL {attack}\nLast log lines:\n{attack}",
            cause=Cause(kind=CauseKind.METADATA, evidence=(f"general.name {attack}",)),
        ),
        replace(
            cell("Q5_0", 20.2, 7, **of_cell, id=f"{attack}-Q5_0", divergence=divergence(0.1)),
            accepted=f"PPL {attack}",
        ),
    )
    engine = {"kind": attack, "version": attack, "cpu_name": attack, "llama_cpp_version": attack}
    return replace(
        record(*cells),
        profile=attack,
        engine=engine,
        warnings=(attack,),
        missing=(attack,),
        command=attack,
        settings={"texts": {attack: attack}},
    )


def history_of(run: RunRecord) -> list[RunRecord]:
    return [replace(run, started=f"2026-01-0{day}T00:00:00+00:00") for day in (1, 2)]


def _history(run: RunRecord) -> object:
    records = {str(n): item for n, item in enumerate(history_of(run))}
    return history_of_records(records, warnings=list(run.warnings))


TERMINAL: dict[str, Callable[[RunRecord], str]] = {
    "run": lambda run: text(terminal_blocks(run)),
    "history": lambda run: text(history_blocks(_history(run))),  # type: ignore[arg-type]
}
MARKDOWN: dict[str, Callable[[RunRecord], str]] = {
    "run": run_markdown,
    "summary": summary,
    "comment": comment,
    "history": lambda run: markdown(history_blocks(_history(run))),  # type: ignore[arg-type]
}
HTML: dict[str, Callable[[RunRecord], str]] = {
    "run": run_html,
    "history": lambda run: history_html(_history(run)),  # type: ignore[arg-type]
}
UNSEEN = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\ud800-\udfff]")
attacks = pytest.mark.parametrize("attack", ATTACKS.values(), ids=ATTACKS)


def nothing_unseen(written: str) -> None:
    """Check that nothing moves the cursor or turns the writing, and that it can be encoded."""
    assert not UNSEEN.search(written), UNSEEN.search(written)
    written.encode()


@attacks
@pytest.mark.parametrize("render", TERMINAL.values(), ids=TERMINAL)
def test_a_terminal_shows_it(render: Callable[[RunRecord], str], attack: str) -> None:
    written = render(hostile(attack))
    nothing_unseen(written)
    assert not [line for line in written.splitlines() if line.lstrip().startswith(("::", "##["))]


@attacks
@pytest.mark.parametrize("render", MARKDOWN.values(), ids=MARKDOWN)
def test_markdown_shows_it(render: Callable[[RunRecord], str], attack: str) -> None:
    """As many headings, list items and cells of tables as with a harmless name."""
    written, harmless = render(hostile(attack)), render(hostile("name"))
    nothing_unseen(written)
    assert "<img" not in re.sub("`[^`\n]*`", "", written)
    for pattern in map(re.compile, (r"#+ ", r" *- ", r"\|", r"> ", r"::", r"##\[")):
        lines, same = (
            [line for line in report.splitlines() if pattern.match(line)]
            for report in (written, harmless)
        )
        assert len(lines) == len(same)
    rows = [line for line in written.splitlines() if line.startswith("|")]
    for line, usual in zip(
        rows, (x for x in harmless.splitlines() if x.startswith("|")), strict=True
    ):
        assert len(re.findall(r"(?<!\\)\|", line)) == len(re.findall(r"(?<!\\)\|", usual))


class Tags(html.parser.HTMLParser):
    """Counts the elements of a page, and keeps its text."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.names: dict[str, int] = {}
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Count it; no attribute runs a script."""
        assert not [name for name, _ in attrs if name.startswith("on")], attrs
        self.names[tag] = self.names.get(tag, 0) + 1


@attacks
@pytest.mark.parametrize("render", HTML.values(), ids=HTML)
def test_a_page_shows_it(render: Callable[[RunRecord], str], attack: str) -> None:
    page, harmless = render(hostile(attack)), render(hostile("name"))
    nothing_unseen(page)
    elements, usual = Tags(page).names, Tags(harmless).names
    for names in (elements, usual):
        names.pop("text", None)  # a plot names the points that have room for it
    assert elements == usual


@attacks
def test_a_spreadsheet_computes_nothing(attack: str) -> None:
    written = card_csv(group_cells(hostile(attack)), 0.15)
    nothing_unseen(written)
    heads, *rows = csv.reader(io.StringIO(written))
    assert rows
    for line in rows:
        assert len(line) == len(heads)
        texts = [value for value in line if not re.match(r"[-+−]?[\d.]", value)]
        assert not [value for value in texts if value.lstrip().startswith(tuple("=+-@"))]


@attacks
def test_an_annotation_is_one_command(attack: str) -> None:
    for line in annotation_lines(hostile(attack)):
        assert re.fullmatch(r"::(error|warning) title=[^:\n\r,]*::[^\n\r]*", line)
        nothing_unseen(line)


@attacks
@pytest.mark.parametrize("kind", Export)
def test_exports_and_the_record_are_json(kind: Export, attack: str) -> None:
    run = hostile(attack)
    json.loads(export(_history(run), kind))  # type: ignore[arg-type]
    json.loads(json.dumps(to_plain(run)))


@attacks
def test_a_log_has_no_command(attack: str) -> None:
    written = logged(f"FAILED: {attack}")
    nothing_unseen(written)
    assert not re.search(r"^\s*(::|##\[)", written, re.MULTILINE)
    assert printable("a\tb\nc é 漢") == "a\tb\nc é 漢"


def test_what_a_run_prints_and_writes_as_junit_shows_it(own_cache: Project) -> None:
    """The engine's last log lines, in the log of a CI job and in its report of tests."""
    own_cache.use_fake_engine(Q4_0="hostile log")
    result = own_cache.matrix("--junitxml=junit.xml", "-k", "Q4_0")
    assert result.ret == pytest.ExitCode.TESTS_FAILED
    written = result.stdout.str()
    nothing_unseen(written)
    assert "\\x1b[2J" in written
    assert not [line for line in written.splitlines() if line.lstrip().startswith(("::", "##["))]
    (case,) = ET.parse(own_cache.root / "junit.xml").getroot().iter("testcase")
    failure = case.find("failure")
    assert failure is not None
    assert "error" in (failure.text or "")
