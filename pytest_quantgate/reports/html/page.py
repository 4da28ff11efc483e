"""Writes the page: everything in it is escaped by the templates, and it fetches nothing."""

from __future__ import annotations

from pytest_quantgate import __version__
from pytest_quantgate.config.values import duration
from pytest_quantgate.gate.compare.common_shift import shifts_of_run
from pytest_quantgate.gate.compare.comparison import compare_engines
from pytest_quantgate.reports.across_devices import device_tables
from pytest_quantgate.reports.common_shift import common_shift_blocks
from pytest_quantgate.reports.durations import stages_of
from pytest_quantgate.reports.html.environment import environment
from pytest_quantgate.reports.html.identity import identity
from pytest_quantgate.reports.html.plot import Plot
from pytest_quantgate.reports.html.views import (
    MINOR,
    device_plots,
    group_views,
    headings,
    matrix,
)
from pytest_quantgate.reports.noise import noise_tables
from pytest_quantgate.reports.red import find_red
from pytest_quantgate.reports.run_report import not_compared, state
from pytest_quantgate.reports.run_tables import group_cells
from pytest_quantgate.reports.upgrade.report import upgrade_blocks
from pytest_quantgate.results.record import RunRecord


def plot_svg(plot: Plot) -> str:
    """Return a plot as a file of its own."""
    return environment().get_template("plot.svg").render(plot=plot)


def run_html(record: RunRecord) -> str:
    """Return the page of a run."""
    groups = group_cells(record)
    comparison = compare_engines(record)
    return (
        environment()
        .get_template("page.html")
        .render(
            record=record,
            stages=stages_of(record.cells),
            state=state(record),
            red=find_red(record),
            not_compared=not_compared(record),
            headings=headings(groups),
            minor=MINOR,
            matrix=matrix(groups),
            models=sorted({cell.model for group in groups for cell in group.cells}),
            devices=sorted({cell.device for group in groups for cell in group.cells}),
            identity=identity(record),
            groups=group_views(record),
            across_devices=device_plots(groups),
            upgrade=upgrade_blocks(comparison) if comparison is not None else (),
            noise=noise_tables(record),
            device_tables=device_tables(record),
            # An upgrade's own blocks have it.
            common=common_shift_blocks(shifts_of_run(record)) if comparison is None else (),
            duration=duration,
            version=__version__,
        )
    )
