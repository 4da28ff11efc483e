"""The table of a run: rows made from its record, best first, for the terminal and Markdown."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from pytest_quantgate import stats
from pytest_quantgate.gate.judges.noise import METRIC
from pytest_quantgate.gguf.formats import FULL_PRECISION
from pytest_quantgate.reports.columns import measured_columns
from pytest_quantgate.reports.noise import noise_markdown
from pytest_quantgate.reports.sections import make_sections, section_markdown
from pytest_quantgate.results.record import CellRecord, RunRecord
from pytest_quantgate.results.verdicts import VerdictKind

FAULT_DETECTOR = "fault detector, not a ranking of formats"

CHANGE = "ΔPPL vs reference [95 %]"
FIRST = ("format", "size MB", "bits/w", "PPL", CHANGE, "KLD", "same top")
LAST = ("verdict", "why")
_MARKDOWN_REASON = 60  # characters of a reason in a table; red ones stand below in full
_N_LISTED = 3  # cells that a note names
LEFT = frozenset({"format", CHANGE, *LAST})


@dataclass(frozen=True, kw_only=True)
class Row:
    """One cell's line: texts of the table's columns."""

    columns: tuple[str, ...]
    is_green: bool
    cell: CellRecord


@dataclass(frozen=True, kw_only=True)
class Table:
    """The cells that can be compared with each other: one model, text and device."""

    title: str
    caveat: str | None
    headings: tuple[str, ...]
    rows: tuple[Row, ...]
    notes: tuple[str, ...]


def _number(value: float | None, layout: str) -> str:
    if value is None:
        return "–"
    return format(value, layout) if math.isfinite(value) else str(value)


def common_chunks(cells: Iterable[CellRecord]) -> set[int]:
    """Return the chunks that every measured cell has: only on these are they compared."""
    sets = [set(cell.chunks.index) for cell in cells if cell.ppl is not None]
    return set.intersection(*sets) if sets else set()


def perplexity_on(cell: CellRecord, chunks: set[int]) -> float | None:
    """Return a cell's perplexity on some of its chunks."""
    rows = cell.chunks.of_chunks(chunks)
    return rows.perplexity if len(rows) else None


def _is_worse(cell: CellRecord, other: CellRecord, chunks: set[int]) -> bool:
    """Tell whether a cell's perplexity is above another's beyond the 95 % interval."""
    pair = cell.chunks.of_chunks(chunks).paired(other.chunks)
    return stats.interval(pair.nll())[0] > 0


def _only_detects_faults(cell: CellRecord) -> bool:
    return cell.is_requantized or cell.is_miniature


def label(cell: CellRecord) -> str:
    """Return what a cell is called among those of its table: format and importance matrix."""
    return cell.format if cell.imatrix is None else f"{cell.format} + {cell.imatrix}"


def dominated_by(cell: CellRecord, peers: Sequence[CellRecord], chunks: set[int]) -> str | None:
    """Return a format that is no larger and better; only for models from full precision."""
    if _only_detects_faults(cell) or cell.ppl is None or cell.file_bytes is None or not chunks:
        return None
    for other in peers:
        if (
            other.id != cell.id
            and other.ppl is not None
            and other.file_bytes is not None
            and other.file_bytes < cell.file_bytes
            and _is_worse(cell, other, chunks)
        ):
            return label(other)
    return None


def shortened(text: str, width: int) -> str:
    """Return a text of at most so many characters: whole clauses of it, else whole words."""
    if len(text) <= width:
        return text
    clauses, _, _ = text[: width - 1].rpartition("; ")
    # A short clause alone says less than the words that have room.
    if 2 * len(clauses) >= width:
        return f"{clauses}; …"
    words, _, _ = text[:width].rpartition(" ")
    return f"{words or text[: width - 1]}…"


def _delta(cell: CellRecord) -> str:
    if cell.is_reference:
        return "reference" if cell.format in FULL_PRECISION else "stand-in reference"
    delta = cell.ppl_vs_reference
    if delta is None:
        return "–"
    if not math.isfinite(delta.high):
        return f"{100 * delta.change:+.2f} %"
    return f"{100 * delta.change:+.2f} % [{100 * delta.low:+.2f}, {100 * delta.high:+.2f}]"


def _divergence(cell: CellRecord) -> tuple[str, str]:
    found = cell.divergence
    if found is None:
        return "–", "–"
    return f"{found.mean_kld_nats:.4f}", f"{100 * found.same_top:.1f} %"


def _twins(cells: Sequence[CellRecord]) -> list[str]:
    notes = []
    first: dict[str, CellRecord] = {}
    for cell in cells:
        if cell.tensor_data_sha256 is None:
            continue
        twin = first.setdefault(cell.tensor_data_sha256, cell)
        if twin is not cell:
            if cell.format == twin.format:
                notes.append(f"{label(cell)}: {cell.format} ignores the matrix: same bytes")
            else:
                same = f"has the same tensors, byte for byte, as {label(twin)}"
                notes.append(f"{label(cell)} {same}")
    return notes


def _notes(cells: Sequence[CellRecord]) -> list[str]:
    """Return what must be said of the cells; what is true of several is said once."""
    by_note: dict[str, list[str]] = {}
    for cell in cells:
        for note in cell.notes:
            by_note.setdefault(note, []).append(label(cell))
    return [f"{_listed(labels)}: {note}" for note, labels in by_note.items()]


def _listed(labels: Sequence[str]) -> str:
    more = f" and {len(labels) - _N_LISTED} more" if len(labels) > _N_LISTED else ""
    return ", ".join(labels[:_N_LISTED]) + more


def make_tables(record: RunRecord) -> tuple[Table, ...]:
    """Return a table for each model, text and device of a run."""
    groups: dict[tuple[str, str, str, str], list[CellRecord]] = {}
    for cell in record.cells:
        if cell.ppl is None and METRIC in cell.measured:
            continue  # it was calibrated, and has a table of its own
        groups.setdefault((cell.model, cell.text, cell.device, cell.engine), []).append(cell)
    return tuple(_table(key, cells) for key, cells in groups.items())


def _table(key: tuple[str, str, str, str], cells: list[CellRecord]) -> Table:
    model, text, device, engine = key
    chunks = common_chunks(cells)
    ppl = {cell.id: perplexity_on(cell, chunks) for cell in cells}
    ordered = sorted(
        cells,
        key=lambda cell: (
            value if (value := ppl[cell.id]) is not None and math.isfinite(value) else math.inf
        ),
    )
    rows, extra = [], measured_columns(cells)
    for cell in ordered:
        is_first = cell.accepted is not None and cell.kind is VerdictKind.MEASURED
        first_line = cell.reason.partition("\n")[0]
        why = "what it is compared with from now on" if is_first else first_line
        better = dominated_by(cell, ordered, chunks)
        if better is not None:
            why = f"larger and worse than {better}; {why}"
        size = None if cell.file_bytes is None else cell.file_bytes / 1e6
        rows.append(
            Row(
                columns=(
                    label(cell),
                    _number(size, ",.1f"),
                    _number(cell.bits_per_weight, ".2f"),
                    _number(ppl[cell.id], ".4f"),
                    _delta(cell),
                    *_divergence(cell),
                    *(column.text(cell) for column in extra),
                    "accepted" if cell.accepted else cell.verdict,
                    why,
                ),
                is_green=not cell.is_red,
                cell=cell,
            )
        )
    engine_part = "" if engine == "default" else f", engine {engine}"
    text_part = f", text {text}, {len(chunks)} common chunks" if text else ", size and speed only"
    return Table(
        title=f"{model} on {device}{text_part}, reference {cells[0].reference}{engine_part}",
        caveat=FAULT_DETECTOR if any(map(_only_detects_faults, cells)) else None,
        headings=(*FIRST, *(column.heading for column in extra), *LAST),
        rows=tuple(rows),
        notes=(*_twins(cells), *_notes(ordered)),
    )


def _escape(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")


def completeness_lines(record: RunRecord) -> list[str]:
    """Say which part of a matrix a record is of, what it lacks, and what must be told of it."""
    lines = []
    if record.shard is not None:
        lines += [f"Shard {record.shard.number} of {record.shard.count}."]
    if record.missing:
        lines += ["", "## What is missing", "", *(f"- {what}" for what in record.missing)]
    if record.warnings:
        lines += ["", *(f"- Warning: {_escape(warning)}" for warning in record.warnings)]
    return lines


def tables_markdown(record: RunRecord) -> list[str]:
    """Return the lines of a run's tables."""
    lines: list[str] = []
    for table in make_tables(record):
        lines += ["", f"## {table.title}", ""]
        if table.caveat:
            lines += [f"*{table.caveat.capitalize()}.*", ""]
        lines.append("| " + " | ".join(table.headings) + " |")
        rules = ("---" if heading in LEFT else "--:" for heading in table.headings)
        lines.append("|" + "|".join(rules) + "|")
        for row in table.rows:
            *figures, reason = row.columns
            texts = (*figures, shortened(reason, _MARKDOWN_REASON))
            lines.append("| " + " | ".join(_escape(text) for text in texts) + " |")
        lines += [""] + [f"- {note}" for note in table.notes]
    return lines


def markdown(record: RunRecord) -> str:
    """Write a run's report as Markdown."""
    red = [cell for cell in record.cells if cell.is_red]
    state = f"{len(red)} of {len(record.cells)} cells red" if red else "all green"
    if record.missing:
        state = f"incomplete, {state}" if red else "incomplete"
    lines = [f"# Quantization gate: {state}", ""]
    lines += [f"Profile `{record.profile}`, {len(record.cells)} cells, {record.seconds_s:.0f} s."]
    engine = record.engine
    if "version" in engine:
        lines += [f"Engine {engine['kind']} {engine['version']} on {engine['cpu_name']}."]
    lines += completeness_lines(record)
    lines += tables_markdown(record)
    lines += noise_markdown(record)
    sections = make_sections(record)
    if sections:
        lines += ["", "## Parts, routes and domains"]
    for section in sections:
        lines += section_markdown(section)
    if red:
        lines += ["", "## What is red", ""]
        for cell in red:
            lines.append(f"- **{cell.id}** {cell.verdict}: {_escape(cell.reason)}")
            if cell.cause:
                lines.append(f"  {_escape(cell.cause)}")
    accepted = [cell for cell in record.cells if cell.accepted]
    if accepted:
        lines += ["", "## Accepted as new baselines", ""]
        lines += [f"- **{cell.id}** {cell.accepted}" for cell in accepted]
    return "\n".join(lines) + "\n"
