"""A history as blocks: what changed and why, then every figure of each cell."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from pytest_quantgate.reports.blocks import (
    Block,
    Bullets,
    Column,
    Heading,
    Paragraph,
    Prose,
    Row,
    Table,
    bullets,
    intervals,
    row,
    spans,
    strong,
    words,
)
from pytest_quantgate.reports.history.series import Change, History, Series
from pytest_quantgate.reports.history.sparkline import sparkline
from pytest_quantgate.reports.words import NONE, count

_SPARK_WIDTH = 16


def headline(history: History) -> str:
    """Return what a history says, in one sentence."""
    cells = count(history.n_cells, "cell")
    changed = len({series.cell for series in history.changed})
    if not changed:
        return f"No change of level in {cells}"
    worse = sum(series.is_worse for series in history.changed)
    figures = count(len(history.changed), "figure")
    return f"{changed} of {cells} changed level: {figures}, {worse or 'none'} for the worse"


def span_of_time(history: History) -> str:
    """Return what the history is of, and from when to when."""
    days = dict.fromkeys(
        version.day[:10] for version in (history.versions[0], history.versions[-1])
    )
    over = f"{history.source[0].upper()}{history.source[1:]}"
    return f"{over}, {' to '.join(days)}."


def history_blocks(history: History) -> list[Block]:
    """Return the whole report."""
    return [
        Heading(text="History", level=1),
        Paragraph(text=f"{headline(history)}.", is_strong=True),
        Paragraph(text=span_of_time(history)),
        *bullets(f"Warning: {warning}" for warning in history.warnings),
        *_changes(history),
        *_all_figures(history),
    ]


def grouped_changes(history: History) -> list[tuple[str, list[tuple[Series, Change]]]]:
    """Return the changes by cell and version: what moved together has one cause."""
    groups: dict[tuple[str, str], list[tuple[Series, Change]]] = {}
    for series in history.changed:
        for change in series.changes:
            groups.setdefault((series.cell, change.at.version.name), []).append((series, change))
    return [(cell, items) for (cell, _), items in groups.items()]


def _changes(history: History) -> Iterator[Block]:
    groups = grouped_changes(history)
    if not groups:
        return
    yield Heading(text="What changed")
    titles: list[Prose] = []
    details: list[tuple[Prose, ...]] = []
    for cell, items in groups:
        change = items[0][1]
        version = change.at.version
        where = f" at {version.name} ({version.day})"
        subject = f": {version.subject}" if version.subject else ""
        titles.append(spans(strong(cell), where, subject))
        why = dict.fromkeys(reason for _, item in items for reason in item.why)
        details.append((*(figures(series, item) for series, item in items), *why))
    yield Bullets(items=tuple(titles), below=tuple(details))


def figures(series: Series, change: Change) -> str:
    """Return a change's figure before and after, and how far it moved."""
    text = series.name.figure.text
    levels = f"{text(change.before)} → {text(change.after)}"
    return f"{series.name.title}: {levels}, {change.difference}, {change.direction.value}"


def _all_figures(history: History) -> Iterator[Block]:
    columns = (
        words("cell"),
        Column(heading="figure", is_left=True),
        Column(heading="history", is_left=True, drop=1),
        Column(heading="first"),
        Column(heading="last"),
        intervals("change"),
    )
    rows = []
    cell = ""
    for series in history.series:
        rows.append(_row(series, is_first=series.cell != cell))
        cell = series.cell
    yield Table(
        columns=columns, rows=tuple(rows), title="Every figure", notes=tuple(_notes(history.series))
    )


def _row(series: Series, *, is_first: bool) -> Row:
    first, last = series.values[0], series.values[-1]
    figure = series.name.figure
    is_moved = abs(last - first) > series.floor
    return row(
        series.cell if is_first else "",
        series.name.title,
        sparkline(series.values, floor=series.floor, width=_SPARK_WIDTH),
        figure.text(first),
        figure.text(last),
        figure.change(first, last) if is_moved else "same" if first == last else NONE,
        is_red=series.is_worse,
    )


def _notes(series: Sequence[Series]) -> Iterator[str]:
    lengths = {item.chunks for item in series if item.chunks}
    if lengths:
        some = " or ".join(map(str, sorted(lengths)))
        yield f"PPL, KLD and same top are of the {some} chunks that a cell has in every version"
    machines = dict.fromkeys(item.name.hardware for item in series if item.name.hardware)
    if machines:
        yield f"speed and memory on {'; '.join(machines)}"
    if any(item.values[0] != item.values[-1] for item in series):
        yield f"{NONE} stands where last and first differ by rounding"
