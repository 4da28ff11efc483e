"""Writes a history as one page that looks like a run's and fetches nothing."""

from __future__ import annotations

from dataclasses import dataclass

from pytest_quantgate import __version__
from pytest_quantgate.reports.history.report import (
    figures,
    grouped_changes,
    headline,
    span_of_time,
)
from pytest_quantgate.reports.history.series import Direction, History, Series
from pytest_quantgate.reports.html.chart import Chart, make_chart, table_line
from pytest_quantgate.reports.html.environment import environment


@dataclass(frozen=True, kw_only=True)
class ChangeCard:
    """What changed in a cell at a version: its figures, why, and how they went."""

    cell: str
    at: str
    subject: str
    is_worse: bool
    is_better: bool
    figures: tuple[str, ...]
    why: tuple[str, ...]
    charts: tuple[Chart, ...]


@dataclass(frozen=True, kw_only=True)
class SeriesRow:
    """A row of the table of all figures."""

    series: Series
    line: str
    marks: tuple[tuple[float, float], ...]
    first: str
    last: str
    change: str
    change_value: float | None


def history_html(history: History) -> str:
    """Return the page."""
    return (
        environment()
        .get_template("history.html")
        .render(
            history=history,
            headline=headline(history),
            span_of_time=span_of_time(history),
            is_bad=any(series.is_worse for series in history.series),
            cards=_cards(history),
            rows=tuple(map(_row, history.series)),
            version=__version__,
        )
    )


def _cards(history: History) -> tuple[ChangeCard, ...]:
    return tuple(
        ChangeCard(
            cell=cell,
            at=f"{items[0][1].at.version.name}, {items[0][1].at.version.day}",
            subject=items[0][1].at.version.subject,
            is_worse=any(series.is_worse for series, _ in items),
            is_better=all(change.direction is Direction.BETTER for _, change in items),
            figures=tuple(figures(series, change) for series, change in items),
            why=tuple(dict.fromkeys(reason for _, change in items for reason in change.why)),
            charts=tuple(make_chart(series) for series, _ in items),
        )
        for cell, items in grouped_changes(history)
    )


def _row(series: Series) -> SeriesRow:
    line, marks = table_line(series)
    first, last = series.values[0], series.values[-1]
    figure = series.name.figure
    return SeriesRow(
        series=series,
        line=line,
        marks=marks,
        first=figure.text(first),
        last=figure.text(last),
        change="same" if first == last else figure.change(first, last),
        change_value=last / first - 1 if first else None,
    )
