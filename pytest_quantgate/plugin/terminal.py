"""What a person sees at the end of a run: the tables and what to do next."""

from __future__ import annotations

import json
import os
import sys

import pytest

from pytest_quantgate.errors import ConfigError
from pytest_quantgate.gate.run_record import make_record, read_records
from pytest_quantgate.matrix.session import Session
from pytest_quantgate.plugin.state import State
from pytest_quantgate.reports.durations import durations_tables
from pytest_quantgate.reports.text import text
from pytest_quantgate.reports.words import logged
from pytest_quantgate.reports.write import terminal_blocks, write_report
from pytest_quantgate.results.record import CellRecord, RunRecord
from pytest_quantgate.results.record_file import cell_from_plain
from pytest_quantgate.results.verdicts import VerdictKind

_WITHOUT_TESTS = (
    "collectonly",
    "setuponly",
    "setupplan",
    "showfixtures",
    "show_fixtures_per_test",
)
_OF_THE_LAST_RUN = ("lf", "stepwise")
_HYPOTHESIS = "hypothesispytest"  # as its plugin is registered


def _must_gate(state: State, gate: Session) -> bool:
    """Return whether a run that gates no cell is red: in CI, unless its profile declines."""
    in_ci = os.environ.get("CI", "").lower() not in {"", "0", "false", "no"}
    return in_ci and not gate.settings.declines_gate and not state.options.update_baselines


def _must_judge(state: State, gate: Session) -> bool:
    """Return whether a run that judges no cell is red.

    It is not where pytest was told to run no test, or to leave out those that passed before.
    """
    excuses = (*_WITHOUT_TESTS, *_OF_THE_LAST_RUN)
    excused = any(state.config.getoption(name, False) for name in excuses)
    # The models are looked at only where the matrix was asked for: the codecs need none of them.
    if not state.options.matrix or excused:
        return False
    return (gate.matrix.is_gated or _must_gate(state, gate)) and bool(gate.matrix.cells)


def _unwritten(state: State) -> list[CellRecord]:
    """Return the records that are in no file, since the disk took none."""
    return [cell_from_plain(json.loads(text)) for text in state.unwritten.values()]


def check_something_judged(session: pytest.Session, state: State) -> None:
    """Make a run red that had to judge or gate cells and did with none; not an empty shard."""
    gate = state.open_session()
    if not _must_judge(state, gate):
        return
    records = read_records(gate, _unwritten(state))
    if not records or (_must_gate(state, gate) and not any(record.is_gated for record in records)):
        session.exitstatus = session.exitstatus or pytest.ExitCode.TESTS_FAILED


def excuse_empty_shard(session: pytest.Session, state: State) -> None:
    """Let a run that had no test succeed where its shard has no cell."""
    nothing_run = session.exitstatus == pytest.ExitCode.NO_TESTS_COLLECTED
    if nothing_run and not state.open_session().matrix.cells:
        session.exitstatus = pytest.ExitCode.OK


def summarize(reporter: pytest.TerminalReporter, state: State) -> None:
    """Print the table and what to do next, and write the report."""
    gate = state.open_session()
    if not state.unwritten and not any((gate.folder / "records").glob("*.json")):
        # The models are not looked at here: the codecs alone need none of them.
        if state.options.shows_cells and gate.settings.shard is not None:
            _write_reports(reporter, state, gate, make_record(gate))
        state.close()
        if gate.settings.shard is not None and not gate.matrix.cells:
            reporter.write_line(
                f"quantgate: shard {gate.settings.shard} has no cell of the"
                f" {len(gate.matrix.all)} that there are, which is green"
            )
        elif _must_judge(state, gate):
            what = "gated run" if gate.matrix.is_gated else "run in CI"
            reporter.write_line(f"quantgate: no cell was judged, so the {what} is red", red=True)
        return
    record = make_record(gate, _unwritten(state))
    state.close()
    reporter.section("quantization gate", "=")
    blocks = terminal_blocks(record, with_sections=False)
    if state.options.durations is not None:
        blocks += durations_tables(record, max(0, state.options.durations))
    reporter.write(text(blocks, colour=reporter.hasmarkup))
    for cell in record.cells:
        if cell.accepted:
            reporter.write_line(logged(f"accepted {cell.id}: {cell.accepted}"))
    if (
        state.options.matrix
        and _must_gate(state, gate)
        and not any(c.is_gated for c in record.cells)
    ):
        table = f"[tool.quantgate.profiles.{gate.settings.profile_name}]"
        reporter.write_line(
            "quantgate: no cell was gated, so the run in CI is red; store baselines, or set"
            f" gate = false in {table} to measure only",
            red=True,
        )
    unjudged = [c for c in record.cells if c.kind is VerdictKind.MEASURED and not c.accepted]
    if unjudged and not gate.matrix.is_gated:
        reporter.write_line("No baseline is stored for these cells and settings. Store them with:")
        command = gate.settings.overrides.command
        reporter.write_line(f'  {command} --snapshot-update --quant-reason "first baselines"')
    if gate.settings.shard is not None:
        reporter.write_line(
            f"quantgate: shard {gate.settings.shard}, {len(gate.matrix.cells)} of"
            f" {len(gate.matrix.all)} cells; join the records of all with quantgate merge"
        )
    _write_reports(reporter, state, gate, record)


def _write_reports(
    reporter: pytest.TerminalReporter, state: State, gate: Session, record: RunRecord
) -> None:
    for path in gate.settings.reports:
        try:
            write_report(path, record)
        except ConfigError as error:
            state.lost_report = True
            reporter.write_line(logged(f"quantgate: {error}"), red=True)
        else:
            reporter.write_line(f"wrote {path}")


def silence_hypothesis(config: pytest.Config) -> None:
    """Take Hypothesis's summary out of a run of the matrix in which nothing used Hypothesis.

    It would import all of Hypothesis, a second's work, to say nothing.
    """
    plugins = config.pluginmanager
    has_workers = plugins.hasplugin("dsession")  # of pytest-xdist, which may have used it
    if "hypothesis" not in sys.modules and not has_workers and plugins.hasplugin(_HYPOTHESIS):
        plugins.unregister(name=_HYPOTHESIS)
