"""The tables of a calibration: what each setting moved, the noise, and the limits below it."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass

from pytest_quantgate.gate.judges.noise import METRIC, Assessment, assess
from pytest_quantgate.results.measurements.noise import NoiseMeasurement, SettingScores
from pytest_quantgate.results.record import CellRecord, RunRecord

HEADINGS = ("format", "setting", "PPL", "ΔPPL", "KLD", "ΔKLD", "tokens changed", "RMS nats", "")
_RIGHT = frozenset({2, 3, 4, 5, 6, 7})
_SETTING = HEADINGS.index("setting")
_LEAST_NAMES = 20
_GAP = "  "


@dataclass(frozen=True, kw_only=True)
class NoiseTable:
    """One model on one text, device and engine; rows have the texts of ``HEADINGS``."""

    title: str
    rows: tuple[tuple[str, ...], ...]
    red_rows: frozenset[int]
    notes: tuple[str, ...]


def find_noise(cell: CellRecord) -> NoiseMeasurement | None:
    """Return a cell's settings noise, None where it was not measured."""
    found = cell.measured.get(METRIC)
    return found if isinstance(found, NoiseMeasurement) else None


def noise_tables(record: RunRecord) -> tuple[NoiseTable, ...]:
    """Return a table for each model, text, device and engine of a run that was calibrated."""
    groups: dict[tuple[str, str, str, str], list[CellRecord]] = {}
    for cell in record.cells:
        if find_noise(cell) is not None:
            key = (cell.model, cell.text, cell.device, cell.engine)
            groups.setdefault(key, []).append(cell)
    return tuple(_table(cells) for cells in groups.values())


def _table(cells: Sequence[CellRecord]) -> NoiseTable:
    rows: list[tuple[str, ...]] = []
    red: set[int] = set()
    notes: list[str] = []
    first = cells[0]
    title = f"{first.model} on {first.device}, text {first.text}"
    if first.engine != "default":
        title += f", engine {first.engine}"
    for cell in cells:
        measured = find_noise(cell)
        assert measured is not None
        found = assess(measured)
        label = cell.format if cell.imatrix is None else f"{cell.format} ({cell.imatrix})"
        for number, (item, names) in enumerate(_merged(measured)):
            if item in found.outliers:
                red.add(len(rows))
            rows.append((label if number == 0 else "", *_columns(item, names, measured, found)))
        rows.append(("", "largest shift", "", *_largest(found, measured), "", ""))
        notes += [
            f"{label}: {item.reason.removeprefix('warning: ')}"
            for item in cell.judgements
            if item.metric == METRIC and item.against != "settings"
        ]
    measured = find_noise(first)
    assert measured is not None
    return NoiseTable(
        title=f"{title}, {measured.chunks} chunks, {measured.tokens:,} tokens",
        rows=tuple(rows),
        red_rows=frozenset(red),
        notes=tuple(notes),
    )


def _merged(measured: NoiseMeasurement) -> list[tuple[SettingScores, str]]:
    """Return the settings with their names; those bit-equal to the profile's own as one."""
    own, *others = measured.settings
    equal = [item.name for item in others if item.tokens_changed == 0]
    found = [(own, own.name)]
    if equal:
        found.append((own, ", ".join(equal)))
    return found + [(item, item.name) for item in others if item.name not in equal]


def _columns(
    item: SettingScores, name: str, measured: NoiseMeasurement, found: Assessment
) -> tuple[str, ...]:
    own = measured.own
    if item.ppl is None:
        return name, "–", "–", "–", "–", "–", "–", _said(item, found)
    change = shift = "–"
    if own.ppl and math.isfinite(own.ppl):
        change = f"{100 * (item.ppl / own.ppl - 1):+.4f} %"
    if item.mean_kld_nats is not None:
        shift = f"{item.mean_kld_nats - (own.mean_kld_nats or 0.0):+.1e}"
    if item is own:
        is_itself = name == own.name
        change, shift = ("", "") if is_itself else ("identical", "identical")
    changed = item.tokens_changed
    return (
        name,
        f"{item.ppl:.4f}",
        change,
        "–" if item.mean_kld_nats is None else f"{item.mean_kld_nats:.5f}",
        shift,
        "–" if changed is None else f"{changed:,}",
        "–" if item.rms_nats is None else f"{item.rms_nats:.2g}",
        _said(item, found),
    )


def _said(item: SettingScores, found: Assessment) -> str:
    if item in found.outliers:
        return "OUTLIER"
    return "not available" if item.problem is not None else ""


def _largest(found: Assessment, measured: NoiseMeasurement) -> tuple[str, ...]:
    kld = "–" if found.kld_shift_nats is None else f"{found.kld_shift_nats:.1e}"
    relative = ""
    if found.kld_shift_nats is not None and measured.own.mean_kld_nats:
        relative = f"{100 * found.kld_shift_nats / measured.own.mean_kld_nats:.2f} %"
    return f"{100 * found.ppl_shift:.4f} %", relative, kld, ""


def noise_text_lines(table: NoiseTable, width: int) -> list[str]:
    """Lay a table out for a terminal of so many columns: title, headings, rows, warnings.

    Where the names of settings do not fit, a row takes several lines; no figure is left out.
    """
    grid = [HEADINGS, *table.rows]
    widths = [max(len(line[i]) for line in grid) for i in range(len(HEADINGS))]
    others = sum(widths) - widths[_SETTING] + len(_GAP) * (len(widths) - 1)
    widths[_SETTING] = min(widths[_SETTING], max(width - others, _LEAST_NAMES))
    lines = [table.title]
    for line in grid:
        names = textwrap.wrap(line[_SETTING], widths[_SETTING]) or [""]
        padded = [
            text.rjust(room) if i in _RIGHT else text.ljust(room)
            for i, (text, room) in enumerate(
                zip((*line[:_SETTING], names[0], *line[_SETTING + 1 :]), widths, strict=True)
            )
        ]
        indent = " " * (sum(widths[:_SETTING]) + len(_GAP) * _SETTING)
        more = (f"{indent}{name}" for name in names[1:])
        lines.append("\n".join([_GAP.join(padded).rstrip(), *more]))
    return [*lines, *(f"warning: {note}" for note in table.notes)]


def noise_markdown(record: RunRecord) -> list[str]:
    """Return the lines of a Markdown report on settings noise."""
    lines: list[str] = []
    for table in noise_tables(record):
        lines += ["", f"## Settings noise: {table.title}", ""]
        lines.append("| " + " | ".join(HEADINGS) + " |")
        lines.append("|---|---|--:|--:|--:|--:|--:|--:|---|")
        lines += ["| " + " | ".join(row) + " |" for row in table.rows]
        lines += [""] + [f"- warning: {note}" for note in table.notes]
    return lines
