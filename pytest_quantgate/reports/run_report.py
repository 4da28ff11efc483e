"""The report of a run: the verdict first, then what is red, then all tables."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from pytest_quantgate.gate.compare.common_shift import shifts_of_run
from pytest_quantgate.reports.across_devices import device_tables
from pytest_quantgate.reports.blocks import (
    Block,
    Heading,
    Paragraph,
    bullets,
    section,
    spans,
    strong,
)
from pytest_quantgate.reports.common_shift import common_shift_blocks
from pytest_quantgate.reports.noise import noise_tables
from pytest_quantgate.reports.red import red_blocks
from pytest_quantgate.reports.run_tables import run_tables
from pytest_quantgate.reports.sections import section_tables
from pytest_quantgate.reports.words import count
from pytest_quantgate.results.engine_facts import EngineFacts
from pytest_quantgate.results.record import CellRecord, RunRecord
from pytest_quantgate.results.stored_alone import StoredAlone, StoredPart

_MOST_NAMED = 8


def state(record: RunRecord) -> str:
    """Return the verdict on a run in a few words; what was not compared is never left out."""
    red = sum(cell.is_red for cell in record.cells)
    gated = sum(cell.is_gated for cell in record.cells)
    cells = count(len(record.cells), "cell")
    if red:
        verdict = f"{red} of {cells} red"
    elif not record.cells:
        verdict = "no cell was judged"
    elif not gated:
        verdict = f"nothing was gated ({cells} without a comparison)"
    elif gated < len(record.cells):
        verdict = f"{gated} of {cells} gated, all green"
    else:
        verdict = "all green"
    gaps = _gaps(record)
    if gaps:
        verdict += f"; not compared: {', '.join(gaps)}"
    if record.missing:
        return f"incomplete, {verdict}" if red else "incomplete"
    return verdict


def _gated(record: RunRecord) -> Sequence[CellRecord]:
    """Return the cells of a run that has baselines: in one without, nothing stored is no gap."""
    return record.cells if record.gated else ()


def _gaps(record: RunRecord) -> list[str]:
    """Name what was not compared, and in how many cells."""
    metrics = Counter(
        metric for cell in _gated(record) for metric in {item.metric for item in cell.not_compared}
    )
    gaps = [f"{metric} of {count(number, 'cell')}" for metric, number in metrics.items()]
    return gaps + [_gap(item) for item in record.stored_alone]


def _gap(item: StoredAlone) -> str:
    match item.what:
        case StoredPart.CELLS:
            return count(len(item.names), "stored baseline")
        case StoredPart.LEFT_OUT:
            return f"{count(len(item.names), 'cell')} left out"
        case _:
            return f"stored {item.what.name.lower()} of {count(len(item.names), 'cell')}"


def not_compared(record: RunRecord) -> list[Block]:
    """Return what was not compared, and why."""
    cells_of: dict[str, list[str]] = {}
    for cell in _gated(record):
        for item in cell.not_compared:
            cells_of.setdefault(f"{item.metric}: {item.reason}", []).append(cell.id)
    lines = [f"Not compared: {reason} ({_some(ids)})" for reason, ids in cells_of.items()]
    lines += [
        f"Not compared: {item.what.value} ({_some(item.names)})" for item in record.stored_alone
    ]
    return bullets(lines)


def _some(names: Sequence[str]) -> str:
    """Return the first names, and how many more there are."""
    left = len(names) - _MOST_NAMED
    return ", ".join([*names[:_MOST_NAMED], *([f"and {left} more"] if left > 0 else [])])


def run_title(record: RunRecord) -> list[Block]:
    """Return the verdict on a run, and what was run."""
    engine = EngineFacts.read(record.engine)
    about = f"{count(len(record.cells), 'cell')}, {record.seconds_s:.0f} s."
    if engine.version:
        about += f" Engine {engine.name} on {engine.cpu_name}."
    return [
        Heading(text=f"Quantization gate: {state(record)}", level=1),
        Paragraph(text=f"Profile {record.profile}, {about}"),
    ]


def run_blocks(record: RunRecord) -> list[Block]:
    """Return the report of a run."""
    return [
        *run_title(record),
        *completeness(record),
        *section("What is red", red_blocks(record)),
        *run_tables(record),
        *device_tables(record),
        *common_shift_blocks(shifts_of_run(record)),
        *noise_tables(record),
        *section("Parts, routes and domains", section_tables(record)),
        *section(
            "Accepted as new baselines",
            bullets(
                spans(strong(cell.id), f" {cell.accepted}")
                for cell in record.cells
                if cell.accepted
            ),
        ),
    ]


def completeness(record: RunRecord) -> list[Block]:
    """Return which shard of a matrix a record is of, what it lacks, and its warnings."""
    blocks: list[Block] = []
    if record.shard is not None:
        text = f"Shard {record.shard.number} of {record.shard.count}."
        blocks.append(Paragraph(text=text))
    blocks += section("What is missing", bullets(record.missing))
    blocks += bullets(f"Warning: {warning}" for warning in record.warnings)
    return [*blocks, *not_compared(record)]
