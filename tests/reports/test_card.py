"""A model card: advice by the whole interval, no empty column, metadata that YAML reads."""

from __future__ import annotations

import csv
import math
from dataclasses import replace
from pathlib import Path
from xml.etree import ElementTree as ET

import pytest

from pytest_quantgate.cli.main import main
from pytest_quantgate.config.limit import MAX_MEAN_KLD_NATS
from pytest_quantgate.config.limits import default_limits
from pytest_quantgate.gguf.formats import FILE_TYPES, Format
from pytest_quantgate.reports.card import Advice, card_groups, formats_table, front_matter, judge
from pytest_quantgate.reports.chunks import kld_interval_on
from pytest_quantgate.reports.write import write_report
from pytest_quantgate.results.record import CellRecord, RunRecord
from tests.reports.test_markdown import texts_and_kinds
from tests.reports.test_report import TOKENS, cell, divergence, record

HOSTILE = 'a"\n- b: <img src=x> `c` | d'


def diverging(name: str, nats: float, megabytes: float, **changes: object) -> CellRecord:
    made = cell(name, 20 + nats, megabytes, divergence=divergence(nats), **changes)
    shares = [1 + 0.1 * math.sin(3 * n) for n in range(16)]
    sums = [TOKENS * nats * 16 * share / math.fsum(shares) for share in shares]
    return replace(made, chunks=made.chunks.replace(kld_sum_nats=sums))


def measured(**changes: object) -> RunRecord:
    made = record(
        cell("F16", 20, 16),
        diverging("Q8_0", 0.01, 9),
        diverging("Q5_K_M", 0.05, 7),
        diverging("Q4_0", 0.2, 5),
        diverging("Q2_K", 0.02, 3, verdict="REGRESSED"),
        diverging("Q4_K_M.experts", 0.02, 4),
        diverging("own-recipe", 0.02, 4),
    )
    return replace(made, cells=tuple(replace(c, **changes) for c in made.cells))  # type: ignore[arg-type]


def test_the_whole_interval_decides() -> None:
    (group,) = card_groups(measured(), None)
    advice = {c.format: judge(c, group, 0.05) for c in group.cells}
    told = {name: item.advice for name, item in advice.items()}
    assert told["F16"] is Advice.REFERENCE
    assert told["Q8_0"] is Advice.SHIP
    assert told["Q5_K_M"] is Advice.CANNOT_TELL
    assert told["Q4_0"] is Advice.DO_NOT
    assert told["Q2_K"] is Advice.DO_NOT, "what is red is not shipped, however near it is"
    _, low, high = kld_interval_on(advice["Q8_0"].cell, group.chunks)
    assert low < 0.01 < high
    assert advice["Q8_0"].why == f"KLD at most {high:.4f}, limit 0.05"
    just = judge(advice["Q8_0"].cell, group, high)
    assert just.advice is Advice.SHIP
    assert judge(advice["Q8_0"].cell, group, math.nextafter(high, 0)).advice is Advice.CANNOT_TELL


def test_without_a_limit_nothing_is_advised() -> None:
    (group,) = card_groups(measured(), None)
    assert judge(group.cells[1], group, None).advice is Advice.CANNOT_TELL
    garbage = replace(group.cells[1], limits={"kld_mean_max": MAX_MEAN_KLD_NATS})
    assert judge(garbage, group, None).advice is Advice.CANNOT_TELL, "the default tells garbage"
    limited = replace(group.cells[1], limits={"kld_mean_max": 0.1})
    assert judge(limited, group, None).advice is Advice.SHIP


def test_no_column_is_empty_in_every_row() -> None:
    (group,) = card_groups(measured(bits_per_weight=None), None)
    headings = [column.heading for column in formats_table(group, 0.05).columns]
    assert "bits per weight" not in headings
    assert "size MB" in headings


def test_a_card_with_its_plots(tmp_path: Path) -> None:
    path, card = tmp_path / "run.json", tmp_path / "card.md"
    write_report(path, measured(model=HOSTILE))
    assert main(["card", str(path), "--max-kld", "0.05", "-o", str(card)]) == 0
    text = card.read_text(encoding="utf-8")
    assert text.startswith("---\ntags:\n")
    _, kinds = texts_and_kinds(text.split("---\n", 2)[2].partition("![")[0])
    assert not kinds & {"html_inline", "html_block", "image", "link_open"}
    assert "| ship | KLD at most" in text
    assert "MEASURED" not in text
    assert text.count("llama-quantize ") == 4, "neither a part nor a recipe"
    for number in (1, 2):
        assert f"(<card-{number}.svg>)" in text
        tree = ET.parse(tmp_path / f"card-{number}.svg")
        assert tree.getroot().tag == "{http://www.w3.org/2000/svg}svg"


def test_the_front_matter_is_yaml() -> None:
    yaml = pytest.importorskip("yaml")
    _, front, _ = front_matter(card_groups(measured(model=HOSTILE), None)).split("---\n")
    (index,) = yaml.safe_load(front)["model-index"]
    assert index["name"] == HOSTILE
    (result,) = index["results"]
    assert result["dataset"] == {"name": "t", "type": "t"}
    values = {item["name"]: item["value"] for item in result["metrics"]}
    assert values["KLD, Q8_0"] == 0.01
    assert values["PPL, F16"] == pytest.approx(20.0, abs=0.01)


def test_a_csv(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path, target = tmp_path / "run.json", tmp_path / "card.csv"
    write_report(path, measured())
    assert main(["card", str(path), "--max-kld", "0.05", "-o", str(target)]) == 0
    first, *rows = csv.reader(target.read_text(encoding="utf-8").splitlines())
    assert first[:2] == ["device", "format"]
    assert {line[1]: line[-2] for line in rows}["Q8_0"] == "ship"
    assert main(["card", str(path), "-o", str(tmp_path / "card.pdf")]) == 2
    assert main(["card", str(path), "--model", "x"]) == 2
    assert "no model 'x'; name one with --model: m" in capsys.readouterr().err


def test_without_a_limit_no_format_has_advice() -> None:
    """Rather than two columns that say the same in every row."""
    made = measured(verdict="PASS", limits={"kld_mean_max": MAX_MEAN_KLD_NATS})
    (group,) = card_groups(made, None)
    table = formats_table(group, None)
    assert "advice" not in [column.heading for column in table.columns]
    assert any("--max-kld" in str(note) for note in table.notes)
    table = formats_table(group, 0.05)
    assert [column.heading for column in table.columns][-2:] == ["advice", "what decides"]
    assert not any("--max-kld" in str(note) for note in table.notes)


def test_every_default_limit_of_a_record_is_read(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A count comes back from JSON as a number with a point."""
    defaults = default_limits(Format(name="Q4_K_M", file_type=FILE_TYPES["Q4_K_M"])).model_dump(
        mode="json", exclude_none=True
    )
    assert any(isinstance(value, int) for value in defaults.values())
    path = tmp_path / "r.json"
    write_report(path, measured(limits=defaults))
    assert main(["card", str(path)]) == 0
    assert "# m" in capsys.readouterr().out
