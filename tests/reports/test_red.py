"""What a terminal says last of red cells: what to do, once for all of which it holds."""

from __future__ import annotations

from pytest_quantgate.reports.text import text
from pytest_quantgate.reports.write import terminal_blocks
from tests.reports.test_report import cell, record


def test_a_run_ends_with_what_to_do_about_its_red_cells() -> None:
    red = [cell(name, 22, 5, verdict="NO_BASELINE", reason="none") for name in ("Q4_0", "Q5_0")]
    late = cell("Q8_0", 20, 8, verdict="TIMEOUT", reason="no sign of life")
    made = record(cell("F16", 20, 9), *red, late)
    lines = text(terminal_blocks(made, with_sections=False), 200).splitlines()
    accept = 'pytest --quant-matrix --snapshot-update --quant-reason "why"'
    assert set(lines[-2:]) == {
        "Next for m-Q8_0-cpu: see whether this machine is busy: quantgate doctor",
        f"Next for m-Q4_0-cpu, m-Q5_0-cpu: store what was measured: {accept}",
    }
    assert "Next" not in text(terminal_blocks(record(cell("F16", 20, 9)), with_sections=False))
