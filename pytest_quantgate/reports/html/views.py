"""What the page shows of a record: the matrix's rows, plots, heat maps and plain tables."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pytest_quantgate.config import metric, metrics
from pytest_quantgate.reports.blocks import Table, plain
from pytest_quantgate.reports.chunks import (
    kld_interval_on,
    perplexity_on,
    same_top_on,
)
from pytest_quantgate.reports.html.heat import HeatMap, expert_data, heat_maps
from pytest_quantgate.reports.html.plot import Plot, Point, make_plot
from pytest_quantgate.reports.run_tables import (
    FAULT_DETECTOR,
    Group,
    figure_text,
    figure_value,
    group_cells,
    group_change,
    label,
    run_tables,
    speed_name,
    verdict_word,
)
from pytest_quantgate.reports.words import (
    NONE,
    change,
    first_line,
    megabytes,
    number,
    rate,
    share,
    shortened,
)
from pytest_quantgate.results.measurements.memory import MemoryMeasurement
from pytest_quantgate.results.measurements.speed import PHASES, SpeedMeasurement
from pytest_quantgate.results.record import CellRecord, RunRecord

_MOST_CHARACTERS = 60
"""Characters of a reason in the matrix; the whole one shows when it is pointed at."""


@dataclass(frozen=True, kw_only=True)
class Figure:
    """A figure and its interval as they are read; ``value`` sorts them, None last."""

    text: str
    value: float | None = None
    interval: str = ""


@dataclass(frozen=True, kw_only=True)
class MatrixRow:
    """A cell of the matrix."""

    cell: CellRecord
    label: str
    verdict: str
    why: str
    reason: str
    figures: tuple[Figure, ...]
    better: str


@dataclass(frozen=True, kw_only=True)
class Strip:
    """A speed: every process as a dot between 0 and 1, the fastest of the table at 1."""

    name: str
    text: str
    ratio: str
    spread: str
    dots: tuple[float, ...]


@dataclass(frozen=True, kw_only=True)
class GroupView:
    """What is shown of one model on one text and device."""

    title: str
    caveat: str
    notes: tuple[str, ...]
    plots: tuple[Plot, ...]
    has_matrices: bool
    heat_maps: tuple[HeatMap, ...]
    experts: Mapping[str, Any] | None
    speeds: tuple[tuple[str, tuple[Strip, ...]], ...]
    memory: tuple[tuple[str, str, str], ...]


MINOR = frozenset({"bits/w", "PPL"})
"""Headings of the columns that a phone leaves out."""

_HEADINGS = ("size MB", "bits/w", "PPL", "ΔPPL [95 %]", "KLD [95 %]", "same top")


def headings(groups: Sequence[Group]) -> tuple[str, ...]:
    """Return the headings of the matrix's figures."""
    return (*_HEADINGS, *(figure.heading for _, figure in _measured_figures(groups)))


def _measured_figures(groups: Sequence[Group]) -> list[tuple[str, metric.Figure]]:
    """Return the figures, by metric, of what was measured in any of the cells."""
    return [
        (name, figure)
        for name, item in metrics.METRICS.items()
        for figure in item.figures
        if any(name in cell.measured for group in groups for cell in group.cells)
    ]


def matrix(groups: Sequence[Group]) -> tuple[MatrixRow, ...]:
    """Return the rows of the matrix: red ones first, then by model and size."""
    extra = _measured_figures(groups)
    rows = [_matrix_row(cell, group, extra) for group in groups for cell in group.cells]
    return tuple(sorted(rows, key=lambda row: not row.cell.is_red))


def _matrix_row(
    cell: CellRecord, group: Group, extra: Sequence[tuple[str, metric.Figure]]
) -> MatrixRow:
    better = group.dominated_by(cell)
    ppl = perplexity_on(cell, group.chunks)
    shift = None if cell.is_reference else group_change(cell, group)
    moved = ("reference" if cell.is_reference else NONE, "")
    if shift is not None:
        percent, _, bounds = change(*shift).partition(" [")
        moved = percent, f"[{bounds}" if bounds else ""
    top = same_top_on(cell, group.chunks)
    kld, low, high = kld_interval_on(cell, group.chunks)
    interval = f"[{low:.4f}, {high:.4f}]" if math.isfinite(high) else ""
    return MatrixRow(
        cell=cell,
        label=label(cell),
        verdict=verdict_word(cell),
        why=shortened(first_line(cell.reason), _MOST_CHARACTERS),
        reason=cell.reason,
        figures=(
            Figure(text=megabytes(cell.file_bytes), value=cell.file_bytes),
            Figure(text=number(cell.bits_per_weight, ".2f"), value=cell.bits_per_weight),
            Figure(text=number(ppl, ".4f"), value=ppl),
            Figure(text=moved[0], value=None if shift is None else shift[0], interval=moved[1]),
            Figure(
                text=NONE if kld is None else f"{kld:.4f}",
                value=kld,
                interval="" if kld is None else interval,
            ),
            Figure(text=share(top), value=top),
            *(
                Figure(text=figure_text(cell, name, figure), value=figure_value(cell, name, figure))
                for name, figure in extra
            ),
        ),
        better="" if better is None else label(better),
    )


def group_views(record: RunRecord) -> tuple[GroupView, ...]:
    """Return a view of each model, text, device and engine."""
    tables = run_tables(record)
    return tuple(
        _group_view(group, table) for group, table in zip(group_cells(record), tables, strict=True)
    )


def _group_view(group: Group, table: Table) -> GroupView:
    return GroupView(
        title=group.title,
        caveat=FAULT_DETECTOR if group.only_detects_faults else "",
        notes=tuple(map(plain, table.notes)),
        plots=tuple(filter(None, group_plots(group))),
        has_matrices=any(cell.imatrix for cell in group.cells),
        heat_maps=heat_maps(group),
        experts=expert_data(group),
        speeds=_speeds(group),
        memory=_memory(group),
    )


def group_plots(group: Group) -> Iterable[Plot | None]:
    """Return perplexity and divergence against size; None for too few points."""
    yield from _plots(f"{group.first.model} on {group.first.device}", [group])


def device_plots(groups: Sequence[Group]) -> tuple[tuple[str, tuple[Plot, ...]], ...]:
    """Return the plots of each model and text that was measured on several devices, together."""
    together: dict[tuple[str, str, str], list[Group]] = {}
    for group in groups:
        first = group.first
        together.setdefault((first.model, first.text_name, first.engine), []).append(group)
    return tuple(
        (f"{model} on {len(several)} devices", plots)
        for (model, _, _), several in together.items()
        if len(several) > 1 and (plots := tuple(filter(None, _plots(model, several))))
    )


def _plots(name: str, groups: Sequence[Group]) -> Iterable[Plot | None]:
    by_ppl, by_kld = [], []
    for group, cell in ((item, cell) for item in groups for cell in item.cells):
        if cell.file_bytes is None:
            continue
        common: dict[str, Any] = {
            "label": label(cell),
            "size": cell.file_bytes / 1e6,
            "is_red": cell.is_red,
            "has_matrix": cell.imatrix is not None,
            "device": cell.device,
            "matrix": cell.imatrix or "none",
        }
        where = f" on {cell.device}" if len(groups) > 1 else ""
        size = f"{label(cell)}{where}: {megabytes(cell.file_bytes)} MB"
        shift = (0.0, 0.0, 0.0) if cell.is_reference else group_change(cell, group)
        if shift is not None:
            description = "reference" if cell.is_reference else f"ΔPPL {change(*shift)}"
            value, low, high = (100 * part for part in shift)
            description = f"{size}, {description}, {cell.verdict}"
            by_ppl.append(Point(description=description, value=value, low=low, high=high, **common))
        kld, low, high = kld_interval_on(cell, group.chunks)
        if kld is not None:
            description = f"{size}, KLD {kld:.5f} [{low:.5f}, {high:.5f}] nats, {cell.verdict}"
            by_kld.append(Point(description=description, value=kld, low=low, high=high, **common))
    yield make_plot(
        by_ppl,
        f"{name}: perplexity against size",
        "ΔPPL vs reference (log beyond ±1 %)",
        is_log=False,
        unit=" %",
    )
    yield make_plot(
        by_kld, f"{name}: divergence against size", "mean KLD in nats (log)", is_log=True
    )


def _speeds(group: Group) -> tuple[tuple[str, tuple[Strip, ...]], ...]:
    measured = [
        (label(cell), item)
        for cell in group.cells
        if isinstance(item := cell.measured.get("speed"), SpeedMeasurement)
    ]
    tables = []
    for phase in PHASES if measured else ():
        fastest = max(max(speed.rates(phase)) for _, speed in measured)
        strips = []
        for name, speed in measured:
            rates, ratio = speed.rates(phase), speed.vs_reference(phase)
            strips.append(
                Strip(
                    name=name,
                    text=f"{'= ' if speed.timed_as else ''}{rate(speed.tokens_per_s(phase))}",
                    ratio=NONE
                    if ratio is None
                    else f"{ratio[0]:.2f}× [{ratio[1]:.2f}, {ratio[2]:.2f}]",
                    spread=f"{rate(min(rates))} to {rate(max(rates))} in {len(rates)} processes",
                    dots=tuple(round(value / fastest, 4) for value in rates),
                )
            )
        threads = measured[0][1].fingerprint.n_threads
        heading = f"{speed_name(phase, measured[0][1])}, tokens per second, {threads} threads"
        tables.append((heading, tuple(strips)))
    return tuple(tables)


def _memory(group: Group) -> tuple[tuple[str, str, str], ...]:
    rows = []
    for cell in group.cells:
        measured = cell.measured.get("memory")
        if isinstance(measured, MemoryMeasurement):
            buffers = ", ".join(
                f"{item.kind} on {item.where} {megabytes(item.n_bytes)}"
                for item in measured.buffers
            )
            rows.append((label(cell), megabytes(measured.peak_resident_bytes), buffers or NONE))
    return tuple(rows)
