"""Writes a run's record, or a report of it, by the file's ending."""

from __future__ import annotations

import json
from pathlib import Path

from pytest_quantgate.config.settings import REPORT_ENDINGS
from pytest_quantgate.errors import ConfigError, EnvironmentProblem
from pytest_quantgate.gate.compare.common_shift import shifts_of_run
from pytest_quantgate.gate.compare.comparison import compare_engines
from pytest_quantgate.reports.across_devices import device_tables
from pytest_quantgate.reports.blocks import Block, Folded, Paragraph, bullets, section
from pytest_quantgate.reports.common_shift import common_shift_blocks
from pytest_quantgate.reports.markdown import markdown
from pytest_quantgate.reports.noise import noise_tables
from pytest_quantgate.reports.red import next_blocks, red_blocks
from pytest_quantgate.reports.run_report import completeness, not_compared, run_blocks, state
from pytest_quantgate.reports.run_tables import run_tables
from pytest_quantgate.reports.sections import section_tables
from pytest_quantgate.reports.upgrade.facts import engine_name
from pytest_quantgate.reports.upgrade.report import brief_blocks, upgrade_blocks
from pytest_quantgate.results.record import RunRecord, to_plain
from pytest_quantgate.storage.atomic import write_atomically

MOST_CHARACTERS = 65_536
"""Characters of a pull request's text, above which GitHub takes none of it."""


def run_markdown(record: RunRecord) -> str:
    """Return a run's report: of the upgrade where it held two engines against each other."""
    comparison = compare_engines(record)
    if comparison is None:
        return markdown(run_blocks(record))
    title, *rest = upgrade_blocks(comparison)
    blocks = [title, *completeness(record), *rest]
    summary = f"All cells of {engine_name(record.engine)}"
    text = markdown([*blocks, Folded(summary=summary, blocks=run_tables(record))])
    if len(text) <= MOST_CHARACTERS:
        return text
    left_out = "The tables of all cells have no room here: the run record has them."
    return markdown([*blocks, Paragraph(text=left_out)])


def terminal_blocks(record: RunRecord, *, with_sections: bool = True) -> list[Block]:
    """Return what a terminal shows of a run: the verdict, the tables, and what an upgrade moved."""
    comparison = compare_engines(record)
    return [
        Paragraph(text=state(record), is_strong=True),
        *(section("What is red", red_blocks(record)) if with_sections else ()),
        *run_tables(record),
        *device_tables(record),
        *bullets(f"Warning: {warning}" for warning in record.warnings),
        *not_compared(record),
        *noise_tables(record),
        *(section_tables(record) if with_sections else ()),
        *(
            common_shift_blocks(shifts_of_run(record))
            if comparison is None
            else brief_blocks(comparison)
        ),
        *(() if with_sections else next_blocks(record)),
    ]


def check_ending(option: str, path: Path) -> None:
    """Refuse a report of no known kind.

    Raises:
        ConfigError: the ending is none of ``REPORT_ENDINGS``.

    """
    if path.suffix not in REPORT_ENDINGS:
        raise ConfigError(
            f"{option} {str(path)!r}: the ending selects the format; valid:"
            f" {', '.join(REPORT_ENDINGS)}"
        )


def write_report(path: Path, record: RunRecord) -> None:
    """Write ``.json`` (the record itself), ``.md`` or ``.html``.

    Raises:
        ConfigError: the file cannot be written.

    """
    if path.suffix == ".md":
        text = run_markdown(record)
    elif path.suffix == ".html":
        # Late: only this kind needs jinja2.
        from pytest_quantgate.reports.html.page import run_html  # noqa: PLC0415

        text = run_html(record)
    else:
        text = json.dumps(to_plain(record), sort_keys=True, indent=1, ensure_ascii=False) + "\n"
    try:
        write_atomically(path, text.encode())
    except (OSError, EnvironmentProblem) as error:
        raise ConfigError(f"the report {path} cannot be written: {error}") from error
