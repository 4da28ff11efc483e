"""The page: one file, everything escaped, every figure that of the record."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import pytest

from pytest_quantgate.cli.main import main
from pytest_quantgate.reports.html.page import run_html
from pytest_quantgate.reports.html.plot import Plot, Point, make_plot, pareto
from pytest_quantgate.reports.html.views import matrix
from pytest_quantgate.reports.run_tables import group_cells
from pytest_quantgate.reports.write import write_report
from pytest_quantgate.results.record import RunRecord
from pytest_quantgate.results.verdicts import Cause, CauseKind
from tests.reports.test_noise import calibrated
from tests.reports.test_report import cell, divergence, record
from tests.reports.test_sections import ROUTING, routed
from tests.reports.test_upgrade import upgraded

HOSTILE = "<img src=x onerror=alert(1)>"

NEEDS_FETCHING = re.compile(
    r"""(?:src|href|srcset|data|action)\s*=\s*["']?(?!#|data:)|url\(|@import"""
)


class Tags(HTMLParser):
    """Gathers the tags with their attributes, and what stands between them."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.texts: list[str] = []
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.texts.append(data)


def regressed() -> RunRecord:
    """Return a run with a red cell of a hostile model."""
    red = cell(
        "Q4_0",
        22,
        5,
        model=HOSTILE,
        id=f"{HOSTILE}-Q4_0-cpu",
        verdict="REGRESSED",
        reason=f"PPL {HOSTILE}\n{HOSTILE}</script>",
        cause=Cause(kind=CauseKind.RUNTIME),
        divergence=divergence(0.1),
        notes=(HOSTILE,),
    )
    reference = cell("F16", 20, 9, model=HOSTILE, id=f"{HOSTILE}-F16-cpu")
    return record(reference, red, cell("Q8_0", 20.1, 6, model=HOSTILE, imatrix=HOSTILE))


def test_nothing_of_a_name_or_a_log_is_markup() -> None:
    page = run_html(regressed())
    tags = Tags(page)
    assert not any(tag in {"img", "b"} for tag, _ in tags.tags)
    assert not any(name.startswith("on") for _, attributes in tags.tags for name in attributes)
    assert sum(tag == "script" for tag, _ in tags.tags) == 1
    assert any(HOSTILE in text for text in tags.texts)


def test_experts_are_data_that_ends_no_script() -> None:
    made = record(
        routed("F16", 5.0, replace(ROUTING, is_reference=True)),
        replace(routed("Q4_0", 6.0, ROUTING), imatrix="</script><img>"),
    )
    page = run_html(made)
    (data,) = re.findall(r'<script type="application/json">(.*?)</script>', page, re.DOTALL)
    (name, formats), *_ = json.loads(data).items()
    assert name == "Q4_0-</script><img>"
    assert formats == {"layers": [3], "load": [[0.6, 0.4]], "error": [[0.071, 0.082]]}


def test_nothing_is_fetched() -> None:
    page = run_html(regressed())
    for tag, attributes in Tags(page).tags:
        for name in ("src", "href", "srcset", "data", "action"):
            target = attributes.get(name)
            assert target is None or target.startswith(("#", "data:")), (tag, target)
    (style,) = re.findall(r"<style>(.*?)</style>", page, re.DOTALL)
    assert not re.search(r"url\(|@import", style)


def test_the_verdict_and_what_to_do_stand_before_the_matrix() -> None:
    page = run_html(regressed())
    order = [
        "1 of 3 cells red",
        "What is red",
        "cause: runtime kernels",
        "Next:",
        'id="matrix"',
        "<svg",
    ]
    places = [page.index(words) for words in order]
    assert places == sorted(places)
    assert "--snapshot-update --quant-reason &#34;why&#34;" in page
    green = run_html(record(cell("F16", 20, 9)))
    assert "What is red" not in green
    assert "All green" in green


def test_the_matrix_has_the_figures_of_the_record() -> None:
    made = regressed()
    first, *_ = matrix(group_cells(made))
    assert (first.label, first.verdict) == ("Q4_0", "REGRESSED")
    texts = [figure.text for figure in first.figures]
    assert texts[:4] == ["5.0", "4.50", "22.0027", "+10.00 %"]
    assert first.figures[3].interval == "[+10.00, +10.00]"
    assert texts[4:] == ["0.1000", "100.0 %"]
    assert first.figures[2].value == pytest.approx(22.0027, abs=1e-4)


def test_a_record_of_what_failed_is_a_page() -> None:
    """No figures, no engine, not finite; nothing judged."""
    failed = cell("Q4_0", 20, 5, ppl=None, file_bytes=None, bits_per_weight=None, verdict="CRASHED")
    failed = replace(failed, chunks=failed.chunks.first(0), reason="killed\nlog", engine="x")
    odd = cell("Q2_K", 20, 4, divergence=divergence(float("nan")))
    odd = replace(odd, chunks=odd.chunks.replace(nll_sum_nats=[float("inf")] * 16))
    page = run_html(replace(record(failed, odd), engine={"error": "gone"}, missing=("shard 2/2",)))
    assert "Incomplete, 1 of 2 cells red" in page
    assert "shard 2/2" in page
    assert "No cell was judged." in run_html(record())


def point(label: str, size: float, value: float) -> Point:
    return Point(
        label=label,
        description=label,
        size=size,
        value=value,
        low=value - 0.1,
        high=value + 0.1,
        is_red=False,
        has_matrix=False,
    )


def test_the_front_has_what_nothing_smaller_is_better_than() -> None:
    points = [point("a", 4, 5), point("b", 5, 6), point("c", 6, 2), point("d", 9, 2)]
    assert [p.label for p in pareto(points)] == ["a", "c"]


@pytest.mark.parametrize("is_log", [True, False])
def test_points_and_intervals_lie_in_their_places(is_log: bool) -> None:
    points = [point("a", 4, 5), point("b", 5, 1), point("c", 6, 0.5), point("d", 90, 0.2)]
    drawn = make_plot(points, "t", "y", is_log=is_log)
    assert isinstance(drawn, Plot)
    by_name = {mark.point.label: mark for mark in drawn.marks}
    assert [m.x for m in sorted(drawn.marks, key=lambda m: m.point.size)] == sorted(
        m.x for m in drawn.marks
    )
    assert by_name["a"].y < by_name["b"].y < by_name["c"].y < by_name["d"].y
    for mark in drawn.marks:
        assert drawn.left <= mark.x <= drawn.right
        assert drawn.top <= mark.y_high <= mark.y <= mark.y_low <= drawn.bottom + 1e-6
    assert len(drawn.x_ticks) >= 2
    assert len(drawn.y_ticks) >= 2


def test_a_point_alone_is_no_plot() -> None:
    assert make_plot([point("a", 4, 5)], "t", "y", is_log=True) is None


def test_three_hundred_cells_stay_small() -> None:
    layer = ROUTING.layers[0]
    wide = replace(
        ROUTING,
        layers=tuple(
            replace(layer, layer=n, load=(1 / 64,) * 64, reference_load=(1 / 64,) * 64)
            for n in range(16)
        ),
    )
    cells = [
        replace(
            routed(f"Q{n % 15}_K", 5.0 + n / 100, wide), model=f"m{n // 15}", id=f"m{n // 15}-{n}"
        )
        for n in range(300)
    ]
    assert len(run_html(record(*cells)).encode()) < 8_000_000


def test_the_command_writes_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "run.json"
    write_report(path, regressed())
    assert main(["report", str(path), "-o", str(tmp_path / "run.html")]) == 0
    assert (tmp_path / "run.html").read_text(encoding="utf-8").startswith("<!DOCTYPE html>")
    assert main(["report", str(path), "-o", str(tmp_path / "run.txt")]) == 2
    assert "valid: .json, .md, .html" in capsys.readouterr().err


def test_an_upgrade_and_a_calibration_stand_in_it() -> None:
    page = run_html(upgraded())
    texts = Tags(page).texts
    assert "Upgrade: llama-cpp-python 0.3.30 → 0.3.36" in texts
    assert "Which half of the engine" in texts
    assert "m-MXFP4_MOE-cpu" in texts
    assert "<strong>CRASHED</strong>" in page
    page = run_html(calibrated())
    assert "OUTLIER" in page
    assert "warning: Q4_0: the limit is low" in page


def test_sizes_that_are_near_have_several_ticks() -> None:
    """Q4_K_M to Q8_0 of a small model: 105 to 145 MB."""
    points = [point("a", 105.5, 0.06), point("b", 138.4, 0.009), point("c", 144.8, 0.004)]
    drawn = make_plot(points, "t", "y", is_log=True)
    assert drawn is not None
    assert [tick.text for tick in drawn.x_ticks] == ["110", "120", "130", "140", "150"]
