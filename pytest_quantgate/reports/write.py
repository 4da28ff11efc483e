"""Writes a run's record, or a report of it, by the file's ending."""

from __future__ import annotations

import json
from pathlib import Path

from pytest_quantgate.errors import ConfigError
from pytest_quantgate.gate.compare.comparison import compare_engines
from pytest_quantgate.reports.table import completeness_lines, markdown, tables_markdown
from pytest_quantgate.reports.upgrade.facts import engine_name
from pytest_quantgate.reports.upgrade.report import upgrade_markdown
from pytest_quantgate.results.record import RunRecord, to_plain
from pytest_quantgate.storage.atomic import write_atomically

MOST_CHARACTERS = 65_536
"""Characters of a pull request's text, above which GitHub takes none of it."""


def run_markdown(record: RunRecord) -> str:
    """Return a run's report: of the upgrade where it held two engines against each other."""
    found = compare_engines(record)
    if found is None:
        return markdown(record)
    told = completeness_lines(record)
    title, _, rest = upgrade_markdown(found).partition("\n")
    lines = [title, *(["", *told] if told else []), rest]
    summary = f"<summary>All cells of {engine_name(record.engine)}</summary>"
    tables = ["<details>", summary, *tables_markdown(record), "", "</details>", ""]
    if sum(len(line) + 1 for line in (*lines, *tables)) > MOST_CHARACTERS:
        tables = ["The tables of all cells have no room here: the run record has them.", ""]
    return "\n".join([*lines, *tables])


ENDINGS = (".json", ".md")


def check_ending(option: str, path: Path) -> None:
    """Refuse a report of no known kind.

    Raises:
        ConfigError: the ending is none of ``ENDINGS``.

    """
    if path.suffix not in ENDINGS:
        raise ConfigError(
            f"{option} {str(path)!r}: the ending tells the kind; valid: {', '.join(ENDINGS)}"
        )


def write_report(path: Path, record: RunRecord) -> None:
    """Write ``.json`` (the record itself) or ``.md``."""
    if path.suffix == ".md":
        text = run_markdown(record)
    else:
        text = json.dumps(to_plain(record), sort_keys=True, indent=1, ensure_ascii=False) + "\n"
    write_atomically(path, text.encode())
