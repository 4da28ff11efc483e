"""What a person sees at the end of a run: the tables and what to do next."""

from __future__ import annotations

import os
import time
from datetime import UTC, datetime
from pathlib import Path

import pytest

from pytest_quantgate.errors import ConfigError
from pytest_quantgate.gate.provenance import engine_facts, settings_used
from pytest_quantgate.matrix.run import Run
from pytest_quantgate.matrix.sharding import hash_matrix
from pytest_quantgate.plugin.state import State
from pytest_quantgate.reports.text import text
from pytest_quantgate.reports.write import terminal_blocks, write_report
from pytest_quantgate.results.record import (
    CellRecord,
    RunRecord,
    ShardRecord,
    cell_from_plain,
    merge_records,
)
from pytest_quantgate.results.verdicts import VerdictKind
from pytest_quantgate.storage.atomic import read_json


def read_records(run: Run) -> tuple[CellRecord, ...]:
    """Read what the tests of this run wrote, a cell once, what several tests found joined."""
    order = {cell.id: number for number, cell in enumerate(run.cells)}
    found = _read_folder(run.folder / "records")
    return tuple(sorted(found, key=lambda record: order.get(record.id, len(order))))


def _read_folder(folder: Path) -> list[CellRecord]:
    found: dict[str, CellRecord] = {}
    for path in sorted(folder.glob("*.json")):
        plain = read_json(path)
        if isinstance(plain, dict):
            record = cell_from_plain(plain)
            other = found.get(record.id)
            found[record.id] = record if other is None else merge_records(other, record)
    return list(found.values())


def make_record(state: State, run: Run) -> RunRecord:
    """Gather the run's record."""
    try:
        started = (run.folder / "events.jsonl").stat()
        begun = min(started.st_mtime, getattr(started, "st_birthtime", started.st_ctime))
    except FileNotFoundError:
        begun = time.time()
    if state.progress is not None:
        begun = state.progress.started_s
    against = run.settings.profile.against
    return RunRecord(
        profile=run.settings.profile_name,
        gated=run.gated,
        settings=settings_used(run),
        engine=engine_facts(run, run.settings.profile.engine),
        cells=read_records(run),
        against=None if against is None else engine_facts(run, against),
        others=tuple(_read_folder(run.folder / "others")),
        started=datetime.fromtimestamp(begun, tz=UTC).isoformat(timespec="seconds"),
        seconds_s=time.time() - begun,
        command=run.settings.overrides.command,
        shard=None
        if run.settings.shard is None
        else ShardRecord(
            number=run.settings.shard.number,
            count=run.settings.shard.count,
            cells=tuple(cell.id for cell in run.cells),
            matrix_sha256=hash_matrix(run.nominal),
        ),
    )


_WITHOUT_TESTS = (
    "collectonly",
    "setuponly",
    "setupplan",
    "showfixtures",
    "show_fixtures_per_test",
)
_OF_THE_LAST_RUN = ("lf", "stepwise")


def _must_gate(state: State, run: Run) -> bool:
    """Return whether a run that gates no cell is red: in CI, unless its profile declines."""
    in_ci = os.environ.get("CI", "").lower() not in {"", "0", "false", "no"}
    return in_ci and not run.settings.declines_gate and not state.options.update_baselines


def _must_judge(state: State, run: Run) -> bool:
    """Return whether a run that judges no cell is red.

    It is not where pytest was told to run no test, or to leave out those that passed before.
    """
    excuses = (*_WITHOUT_TESTS, *_OF_THE_LAST_RUN)
    excused = any(state.config.getoption(name, False) for name in excuses)
    must = run.gated or _must_gate(state, run)
    return state.options.matrix and must and bool(run.cells) and not excused


def _is_gated(record: CellRecord) -> bool:
    """Return whether a cell was held against something."""
    return not record.is_skipped and record.kind is not VerdictKind.MEASURED


def check_something_judged(session: pytest.Session, state: State) -> None:
    """Make a run red that had to judge or gate cells and did with none; not an empty shard."""
    run = state.open_run()
    if not _must_judge(state, run):
        return
    records = read_records(run)
    if not records or (_must_gate(state, run) and not any(map(_is_gated, records))):
        session.exitstatus = session.exitstatus or pytest.ExitCode.TESTS_FAILED


def excuse_empty_shard(session: pytest.Session, state: State) -> None:
    """Let a run that had no test succeed where its shard has no cell."""
    nothing_run = session.exitstatus == pytest.ExitCode.NO_TESTS_COLLECTED
    if nothing_run and not state.open_run().cells:
        session.exitstatus = pytest.ExitCode.OK


def summarize(reporter: pytest.TerminalReporter, state: State) -> None:
    """Print the table and what to do next, and write the report."""
    run = state.open_run()
    if not any((run.folder / "records").glob("*.json")):
        # The models are not looked at here: the codecs alone need none of them.
        if state.options.shows_cells and run.settings.shard is not None:
            _write_reports(reporter, state, run, make_record(state, run))
        state.close()
        if run.settings.shard is not None and not run.cells:
            reporter.write_line(
                f"quantgate: shard {run.settings.shard} has no cell of the {len(run.matrix)} that"
                " there are, which is green"
            )
        elif _must_judge(state, run):
            what = "gated run" if run.gated else "run in CI"
            reporter.write_line(f"quantgate: no cell was judged, so the {what} is red", red=True)
        return
    record = make_record(state, run)
    state.close()
    reporter.section("quantization gate", "=")
    blocks = terminal_blocks(record, with_sections=False)
    reporter.write(text(blocks, colour=reporter.hasmarkup))
    for cell in record.cells:
        if cell.accepted:
            reporter.write_line(f"accepted {cell.id}: {cell.accepted}")
    if state.options.matrix and _must_gate(state, run) and not any(map(_is_gated, record.cells)):
        table = f"[tool.quantgate.profiles.{run.settings.profile_name}]"
        reporter.write_line(
            "quantgate: no cell was gated, so the run in CI is red; store baselines, or set"
            f" gate = false in {table} to measure only",
            red=True,
        )
    unjudged = [c for c in record.cells if c.kind is VerdictKind.MEASURED and not c.accepted]
    if unjudged and not run.gated:
        reporter.write_line("No baseline is stored for these cells and settings. Store them with:")
        reporter.write_line(
            f'  {run.settings.overrides.command} --snapshot-update --quant-reason "first baselines"'
        )
    if run.settings.shard is not None:
        reporter.write_line(
            f"quantgate: shard {run.settings.shard}, {len(run.cells)} of {len(run.matrix)} cells;"
            " join the records of all with quantgate merge"
        )
    _write_reports(reporter, state, run, record)


def _write_reports(
    reporter: pytest.TerminalReporter, state: State, run: Run, record: RunRecord
) -> None:
    for path in run.settings.reports:
        try:
            write_report(path, record)
        except ConfigError as error:
            state.lost_report = True
            reporter.write_line(f"quantgate: {error}", red=True)
        else:
            reporter.write_line(f"wrote {path}")
