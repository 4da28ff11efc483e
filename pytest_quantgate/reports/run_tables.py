"""The tables of a run: a row a cell, largest first, all figures of the same chunks."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, replace
from functools import partial

from pytest_quantgate.config.metric import Figure
from pytest_quantgate.config.metrics import METRICS
from pytest_quantgate.gate.judges.noise import METRIC
from pytest_quantgate.gguf.formats import FULL_PRECISION
from pytest_quantgate.metrics.registry import load
from pytest_quantgate.reports.blocks import Column, Prose, Row, Table, words
from pytest_quantgate.reports.chunks import (
    change_on,
    common_chunks,
    kld_on,
    perplexity_on,
    same_top_on,
)
from pytest_quantgate.reports.words import (
    NONE,
    change,
    first_line,
    megabytes,
    number,
    rate,
    share,
    some,
)
from pytest_quantgate.results.measurements.memory import MemoryMeasurement
from pytest_quantgate.results.measurements.speed import PHASES, SpeedMeasurement
from pytest_quantgate.results.record import CellRecord, RunRecord
from pytest_quantgate.results.verdicts import VerdictKind

FAULT_DETECTOR = "fault detector, not a ranking of formats"

_N_LISTED = 3
"""Cells that a note names."""

_DOMINATED = "†"
"""The mark of a cell beside which another one is smaller and better."""

_COLUMNS = (
    words("format"),
    Column(heading="size MB"),
    Column(heading="bits/w", drop=3),
    Column(heading="PPL"),
    Column(heading="ΔPPL vs reference [95 %]", brief="ΔPPL [95 %]", is_left=True),
    Column(heading="KLD"),
    Column(heading="same top", drop=2),
)
_WHY = Column(heading="why", is_text=True, drop=8, least=24)


@dataclass(frozen=True, kw_only=True)
class Group:
    """The cells that can be compared with each other: one model, text, device and engine."""

    cells: tuple[CellRecord, ...]
    chunks: AbstractSet[int]

    @property
    def first(self) -> CellRecord:
        """A cell that says what all of them share."""
        return self.cells[0]

    @property
    def reference(self) -> CellRecord | None:
        """The reference, where it was measured."""
        return next((cell for cell in self.cells if cell.is_reference), None)

    @property
    def title(self) -> str:
        """What the cells share, in words."""
        first = self.first
        engine = "" if first.engine == "default" else f", engine {first.engine}"
        text = ", size and speed only"
        if first.text:
            text = f", text {first.text_name}, {len(self.chunks)} common chunks"
        return f"{first.model} on {first.device}{text}, reference {first.reference}{engine}"

    @property
    def only_detects_faults(self) -> bool:
        """Whether the model is too small, or was quantized before, to rank formats by."""
        return any(cell.is_requantized or cell.is_miniature for cell in self.cells)

    def dominated_by(self, cell: CellRecord) -> CellRecord | None:
        """Return a cell that is smaller and better beyond chance."""
        if self.only_detects_faults or cell.ppl is None or cell.file_bytes is None:
            return None
        for other in self.cells:
            if other.file_bytes is not None and other.file_bytes < cell.file_bytes:
                shift = change_on(cell, other, self.chunks)
                if shift is not None and shift.low > 0:
                    return other
        return None


def group_cells(record: RunRecord) -> tuple[Group, ...]:
    """Return the groups of a run, in each the largest file first; calibrated cells have none."""
    groups: dict[tuple[str, str, str, str], list[CellRecord]] = {}
    for cell in record.cells:
        if cell.ppl is not None or METRIC not in cell.measured:
            groups.setdefault((cell.model, cell.text_name, cell.device, cell.engine), []).append(
                cell
            )
    return tuple(
        Group(
            cells=tuple(sorted(cells, key=lambda cell: -(cell.file_bytes or 0))),
            chunks=common_chunks(cells),
        )
        for cells in groups.values()
    )


def label(cell: CellRecord) -> str:
    """Return what a cell is called among those of its group: format and matrix, as in its id."""
    return cell.format if cell.imatrix is None else f"{cell.format}-{cell.imatrix}"


def verdict_word(cell: CellRecord) -> str:
    """Return a cell's verdict, or that it was accepted."""
    return "accepted" if cell.accepted else cell.verdict


def run_tables(record: RunRecord) -> tuple[Table, ...]:
    """Return a table for each model, text and device of a run."""
    return tuple(map(_table, group_cells(record)))


def _table(group: Group) -> Table:
    extra = _measured_columns(group.cells)
    rows, dominated = [], []
    for cell in group.cells:
        better = group.dominated_by(cell)
        if better is not None:
            dominated.append(f"{label(cell)} ({label(better)})")
        figures = (
            f"{label(cell)} {_DOMINATED}" if better is not None else label(cell),
            megabytes(cell.file_bytes),
            number(cell.bits_per_weight, ".2f"),
            number(perplexity_on(cell, group.chunks), ".4f"),
            _change(cell, group),
            number(kld_on(cell, group.chunks), ".4f"),
            share(same_top_on(cell, group.chunks)),
            *(find_text(cell) for _, find_text in extra),
            verdict_word(cell),
            _why(cell),
        )
        rows.append(Row(cells=figures, is_red=cell.is_red))
    notes: list[Prose] = []
    if dominated:
        words_of = "larger and worse than another beyond chance"
        notes = [f"{_DOMINATED} {words_of}: {', '.join(dominated)}"]
    columns = (*_COLUMNS, *(column for column, _ in extra), words("verdict"), _WHY)
    if not any(line.cells[-1] for line in rows):
        columns, rows = columns[:-1], [replace(line, cells=line.cells[:-1]) for line in rows]
    return Table(
        title=group.title,
        caveat=FAULT_DETECTOR if group.only_detects_faults else "",
        columns=columns,
        rows=tuple(rows),
        notes=(*notes, *twin_notes(group.cells), *_speed_notes(group), *_notes(group.cells)),
    )


def _why(cell: CellRecord) -> str:
    is_first = cell.accepted is not None and cell.kind is VerdictKind.MEASURED
    if is_first:
        return "what it is compared with from now on"
    # That nothing is stored is what the headline says of all such cells.
    is_plain = cell.kind is VerdictKind.MEASURED and not cell.is_gated and bool(cell.judgements)
    return "" if is_plain else first_line(cell.reason)


def _change(cell: CellRecord, group: Group) -> str:
    if cell.is_reference:
        return "reference" if cell.format in FULL_PRECISION else "stand-in reference"
    shift = group_change(cell, group)
    return NONE if shift is None else change(*shift)


def group_change(cell: CellRecord, group: Group) -> tuple[float, float, float] | None:
    """Return a cell's change from the reference and its interval, on the group's chunks.

    From a record that lacks the reference it is the cell's own, where that is of the same chunks.
    """
    if group.reference is not None:
        shift = change_on(cell, group.reference, group.chunks)
        return None if shift is None else (shift.change, shift.low, shift.high)
    stored = cell.ppl_vs_reference
    if stored is None or stored.chunks != len(group.chunks):
        return None
    return stored.change, stored.low, stored.high


MeasuredColumn = tuple[Column, Callable[[CellRecord], str]]
"""A column, and what writes a cell's text in it."""


def _measured_columns(cells: Sequence[CellRecord]) -> list[MeasuredColumn]:
    """Return the columns of what was measured in any of the cells."""
    columns: list[MeasuredColumn] = []
    for name, metric in METRICS.items():
        if not any(name in cell.measured for cell in cells):
            continue
        if metric.columns is not None:
            columns += load(metric.columns)(cells)
        for figure in metric.figures:
            text = partial(figure_text, metric=name, figure=figure)
            columns.append((Column(heading=figure.heading, drop=9, is_below=True), text))
    return columns


def figure_text(cell: CellRecord, metric: str, figure: Figure) -> str:
    """Return a figure of a cell's measurement as its metric writes it."""
    return number(figure_value(cell, metric, figure), figure.text)


def figure_value(cell: CellRecord, metric: str, figure: Figure) -> float | None:
    """Return a figure of a cell's measurement, None where it has none."""
    measurement = cell.measured.get(metric)
    return None if measurement is None else getattr(measurement, figure.name)


def speed_columns(cells: Iterable[CellRecord]) -> list[MeasuredColumn]:
    """Return a column a phase: tokens per second, and how many times the reference's."""
    measured = (cell.measured.get("speed") for cell in cells)
    first = next(item for item in measured if isinstance(item, SpeedMeasurement))
    return [
        (
            Column(
                heading=f"{speed_name(phase, first)} t/s (× ref. [95 %])", drop=9, is_below=True
            ),
            partial(_speed, phase=phase),
        )
        for phase in PHASES
    ]


def memory_columns(cells: Iterable[CellRecord]) -> list[MeasuredColumn]:
    """Return the column of the peak memory."""
    del cells
    return [(Column(heading="peak MB", drop=9, is_below=True), _memory)]


def speed_name(phase: str, speed: SpeedMeasurement) -> str:
    """Return what llama-bench calls it: ``pp512``, ``tg128 @ d4096``."""
    depth = f" @ d{speed.depth}" if speed.depth else ""
    return f"{'pp' if phase == 'prefill' else 'tg'}{speed.tokens(phase)}{depth}"


def _speed(cell: CellRecord, phase: str) -> str:
    measured = cell.measured.get("speed")
    if not isinstance(measured, SpeedMeasurement):
        return NONE
    speed = f"{'= ' if measured.timed_as else ''}{rate(measured.tokens_per_s(phase))}"
    ratio = measured.vs_reference(phase)
    if ratio is None:
        return speed
    times, low, high = ratio
    return f"{speed} ({times:.2f}× [{low:.2f}, {high:.2f}])"


def _memory(cell: CellRecord) -> str:
    measured = cell.measured.get("memory")
    if not isinstance(measured, MemoryMeasurement):
        return NONE
    return megabytes(measured.peak_resident_bytes)


def _speed_notes(group: Group) -> Iterator[str]:
    """Say how many threads the speeds are of, and what their ratios are to."""
    speeds = [item.measured.get("speed") for item in group.cells]
    threads = {item.fingerprint.n_threads for item in speeds if isinstance(item, SpeedMeasurement)}
    if threads:
        counts = " or ".join(map(str, sorted(threads)))
        ratio = f"× is how many times the speed of {group.first.reference}"
        yield f"speed with {counts} threads, in fresh processes; {ratio}, timed in turns with it"


def twin_notes(cells: Sequence[CellRecord]) -> list[str]:
    """Name cells that are of the same bytes."""
    notes = []
    first: dict[str, CellRecord] = {}
    for cell in cells:
        if cell.tensor_data_sha256 is None:
            continue
        twin = first.setdefault(cell.tensor_data_sha256, cell)
        if twin is not cell and cell.format == twin.format:
            notes.append(f"{label(cell)}: {cell.format} ignores the matrix: same bytes")
        elif twin is not cell:
            same = f"has the same tensors, byte for byte, as {label(twin)}"
            notes.append(f"{label(cell)} {same}")
    return notes


def _notes(cells: Sequence[CellRecord]) -> list[str]:
    """Return what must be said of the cells; what is true of several is said once."""
    by_note: dict[str, list[str]] = {}
    for cell in cells:
        for note in cell.notes:
            by_note.setdefault(note, []).append(label(cell))
    return [f"{some(labels, _N_LISTED)}: {note}" for note, labels in by_note.items()]
