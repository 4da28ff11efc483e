"""The newest version's figures in the formats of tools that keep and plot histories."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from enum import Enum

from pytest_quantgate import stats
from pytest_quantgate.reports.history.figures import KLD, PPL, Unit
from pytest_quantgate.reports.history.series import History, Point, Series


class Export(Enum):
    """A format; the value is its name on the command line."""

    BENCHER = "bencher"
    SMALLER = "github-benchmark-smaller"
    BIGGER = "github-benchmark-bigger"


def export(history: History, kind: Export) -> str:
    """Return the newest version's figures as JSON.

    ``BENCHER`` is Bencher Metric Format; the others are github-action-benchmark's
    ``customSmallerIsBetter`` and ``customBiggerIsBetter``, each with the figures of its direction.
    """
    newest = history.versions[-1]
    latest = [
        (series, series.points[-1])
        for series in history.series
        if history.is_cumulative or series.points[-1].at.version is newest
    ]
    if kind is Export.BENCHER:
        content: object = _bencher(latest)
    else:
        is_bigger = kind is Export.BIGGER
        content = [
            _benchmark(series, point)
            for series, point in latest
            if series.name.figure.more_is_better is is_bigger
        ]
    return json.dumps(content, indent=1, ensure_ascii=False, allow_nan=False) + "\n"


def _bencher(latest: list[tuple[Series, Point]]) -> dict[str, dict[str, dict[str, float]]]:
    benchmarks: dict[str, dict[str, dict[str, float]]] = {}
    for series, point in latest:
        measure = {"value": point.value}
        bounds = _interval(series, point)
        if bounds is not None:
            measure |= {"lower_value": bounds[0], "upper_value": bounds[1]}
        benchmarks.setdefault(series.cell, {})[_slug(series)] = measure
    return benchmarks


def _slug(series: Series) -> str:
    figure = series.name.figure
    # A prefill and a decode are two measures, and so is either at another depth.
    if figure.unit is Unit.RATE:
        return "-".join(series.name.title.removesuffix(" t/s").replace("@", "").split())
    return figure.slug


def _benchmark(series: Series, point: Point) -> dict[str, str | float]:
    bounds = _interval(series, point)
    entry: dict[str, str | float] = {
        "name": f"{series.cell}: {_slug(series)}",
        "unit": series.name.figure.unit.value,
        "value": point.value,
    }
    if bounds is not None:
        entry["range"] = f"{bounds[0]:.6g} to {bounds[1]:.6g}"
    entry["extra"] = "\n".join(_extra(series, point))
    return entry


def _extra(series: Series, point: Point) -> Iterator[str]:
    version = point.at.version
    yield f"{version.name}, {version.day}"
    if point.at.made_by is not None:
        yield f"{point.at.made_by.engine}, llama.cpp {point.at.made_by.llama_cpp}"
    if series.name.hardware:
        yield series.name.hardware
    if series.chunks:
        yield f"{series.chunks} chunks"


def _interval(series: Series, point: Point) -> tuple[float, float] | None:
    """Return the interval of 95 % of a value by itself, None where there is none."""
    if point.samples:
        slowness = stats.interval(stats.slowness(point.samples))
        bounds = math.exp(-slowness[1]), math.exp(-slowness[0])
    elif series.name.figure is PPL:
        rows = point.at.chunks
        low, high = stats.interval(rows.mean(rows.nll_sum_nats))
        bounds = math.exp(low), math.exp(high) if math.isfinite(high) else high
    elif series.name.figure is KLD and point.at.chunks.kld_sums is not None:
        rows = point.at.chunks
        bounds = stats.interval(rows.mean(point.at.chunks.kld_sums))
    else:
        return None
    return bounds if all(map(math.isfinite, bounds)) else None
