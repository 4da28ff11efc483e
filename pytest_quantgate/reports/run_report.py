"""The report of a run: the verdict first, then what is red, then all tables."""

from __future__ import annotations

from pytest_quantgate.gate.compare.common_shift import shifts_of_run
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
from pytest_quantgate.results.record import RunRecord
from pytest_quantgate.results.verdicts import VerdictKind


def state(record: RunRecord) -> str:
    """Return the verdict on a run in a few words."""
    red = sum(cell.is_red for cell in record.cells)
    if red:
        verdict = f"{red} of {count(len(record.cells), 'cell')} red"
    else:
        ungated = [
            cell for cell in record.cells if cell.kind is VerdictKind.MEASURED and not cell.accepted
        ]
        verdict = "all green" if record.cells else "no cell was judged"
        if ungated:
            gated = len(record.cells) - len(ungated)
            verdict = f"{gated} of {count(len(record.cells), 'cell')} gated"
            verdict += ", all green" if gated else ""
    if record.missing:
        return f"incomplete, {verdict}" if red else "incomplete"
    return verdict


def run_title(record: RunRecord) -> list[Block]:
    """Return the verdict on a run, and what was run."""
    engine = record.engine
    about = f"{count(len(record.cells), 'cell')}, {record.seconds_s:.0f} s."
    if "version" in engine:
        about += f" Engine {engine['kind']} {engine['version']} on {engine['cpu_name']}."
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
    return [*blocks, *bullets(f"Warning: {warning}" for warning in record.warnings)]
