"""One model on several devices, side by side: quality, then speed, and whether they compare."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from pytest_quantgate.reports.blocks import Column, Prose, Row, Table, spans, strong, words
from pytest_quantgate.reports.chunks import common_chunks, kld_on, perplexity_on
from pytest_quantgate.reports.run_tables import label, speed_name
from pytest_quantgate.reports.words import NONE, number, rate
from pytest_quantgate.results.control import MOST_CHANGE, Control, controls_of
from pytest_quantgate.results.measurements.speed import PHASES, SpeedMeasurement
from pytest_quantgate.results.record import CellRecord, RunRecord

FigureText = Callable[[CellRecord], str]


def device_tables(record: RunRecord) -> tuple[Table, ...]:
    """Return a table of quality and one of speed for each model that several devices measured."""
    groups: dict[tuple[str, str, str], list[CellRecord]] = {}
    for cell in record.cells:
        groups.setdefault((cell.model, cell.text_name, cell.engine), []).append(cell)
    tables: list[Table] = []
    for cells in groups.values():
        if len({cell.device for cell in cells}) > 1:
            tables += _tables(cells)
    return tuple(tables)


def _tables(cells: Sequence[CellRecord]) -> list[Table]:
    model = cells[0].model
    chunks = common_chunks(cells)
    tables = []
    if chunks:
        quality: dict[str, FigureText] = {
            "PPL": lambda cell: number(perplexity_on(cell, chunks), ".4f"),
            "KLD": lambda cell: number(kld_on(cell, chunks), ".4f"),
        }
        notes = tuple(map(_note, controls_of(cells)))
        tables.append(_table(f"{model}: quality by device", cells, quality, notes))
    speeds = [s for c in cells if isinstance(s := c.measured.get("speed"), SpeedMeasurement)]
    if speeds:
        texts = {f"{speed_name(phase, speeds[0])} t/s": _speed_text(phase) for phase in PHASES}
        tables.append(_table(f"{model}: speed by device", cells, texts, ()))
    return tables


def _table(
    title: str, cells: Sequence[CellRecord], texts: dict[str, FigureText], notes: tuple[Prose, ...]
) -> Table:
    """Return a table with a row a format and, for each figure, a column a device."""
    devices = tuple(dict.fromkeys(cell.device for cell in cells))
    by_size = sorted(cells, key=lambda cell: -(cell.file_bytes or 0))
    rows = []
    for name in dict.fromkeys(map(label, by_size)):
        of_device = {cell.device: cell for cell in by_size if label(cell) == name}
        figures = [
            find_text(of_device[device]) if device in of_device else NONE
            for find_text in texts.values()
            for device in devices
        ]
        rows.append(Row(cells=(name, *figures)))
    headings = [f"{figure} {device}" for figure in texts for device in devices]
    columns = (words("format"), *(Column(heading=heading) for heading in headings))
    return Table(title=title, columns=columns, rows=tuple(rows), notes=notes)


def _speed_text(phase: str) -> FigureText:
    def text(cell: CellRecord) -> str:
        measured = cell.measured.get("speed")
        if not isinstance(measured, SpeedMeasurement):
            return NONE
        return rate(measured.tokens_per_s(phase))

    return text


def _note(control: Control) -> Prose:
    """Say what the control cell tells of two devices."""
    pair = f"{control.device} and {control.against}"
    shift = control.shift
    if shift is None:
        return spans(
            f"{control.cell} was not measured on both {pair} from the same file and tokens: ",
            strong("not known whether their figures compare"),
        )
    if shift.is_identical:
        return f"{control.cell} is identical on {pair} ({shift.tokens:,} tokens): figures compare"
    change = f"{control.cell} is {100 * shift.change:+.3f} % on {control.device} of what it is on"
    if control.is_comparable:
        return f"{change} {control.against}, rounding: figures compare within that"
    return spans(
        f"{change} {control.against}, more than rounding ({100 * MOST_CHANGE:g} %): ",
        strong("compare figures within a device only"),
    )
