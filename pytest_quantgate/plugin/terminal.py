"""What a person sees: a live line or plain lines while it runs, a table at the end."""

from __future__ import annotations

import json
import os
import sys
import threading
import time
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import IO

import pytest

from pytest_quantgate.artifacts.cache import read_json
from pytest_quantgate.changes.comparison import compare_engines
from pytest_quantgate.plugin.state import State
from pytest_quantgate.plugin.suites import CALIBRATION_NODE, MATRIX_NODE
from pytest_quantgate.provenance import engine_facts, settings_used
from pytest_quantgate.report.fitting import lay_out, table_width
from pytest_quantgate.report.noise import noise_tables, noise_text_lines
from pytest_quantgate.report.record import (
    CellRecord,
    RunRecord,
    ShardRecord,
    cell_from_plain,
    merge_records,
)
from pytest_quantgate.report.table import make_tables
from pytest_quantgate.report.upgrade import upgrade_lines
from pytest_quantgate.report.write import write_report
from pytest_quantgate.run import Run
from pytest_quantgate.sharding import hash_matrix
from pytest_quantgate.verdicts import VerdictKind

_POLL_S = 0.2
_LINE_EVERY_S = 15.0  # how often a log without a terminal gets a line


@dataclass(kw_only=True)
class Tally:
    """What the run's events add up to."""

    n_cells: int
    started_s: float
    done: set[str] = field(default_factory=set)
    cell: str = ""
    step: str = ""
    part: float = 0.0
    setting: str = ""
    parts: tuple[int, int] = (0, 1)

    def take(self, event: dict[str, object]) -> None:
        """Take one event in."""
        self.cell = str(event["cell"])
        match event["event"]:
            case "done":
                self.done.add(self.cell)
                self.part, self.setting, self.parts = 0.0, "", (0, 1)
            case "setting":
                self.setting = f"{event['name']}, "
                self.parts = int(str(event["done"])), int(str(event["total"]))
            case "score":
                done, total = int(str(event["done"])), int(str(event["total"]))
                self.step = f"{self.setting}chunk {done}/{total}"
                before, parts = self.parts
                self.part = (before + done / max(total, 1)) / parts
            case "wait":
                waited_s = float(str(event["waited_s"]))
                so_far = f", {_duration(waited_s)} so far" if waited_s >= 1 else ""
                self.step = f"waiting for another measurement on {event['device']}{so_far}"
            case "speed":
                done, total = int(str(event["done"])), int(str(event["total"]))
                self.step = f"speed, process {done} of {max(done, total)} or more"
                self.part = min(0.9, done / max(total, 1))
            case "quantize":
                done, total = int(str(event["done"])), int(str(event["total"]))
                self.step = f"quantizing {done}/{total}" if total else "preparing the file"

    def line(self) -> str:
        """Return the line that says where the run is."""
        elapsed = time.time() - self.started_s
        finished = len(self.done) + self.part
        left = "time left unknown"
        if finished >= 0.5:
            seconds = elapsed / finished * (self.n_cells - finished)
            left = f"about {_duration(seconds)} left"
        return f"[{len(self.done)}/{self.n_cells}] {self.cell}: {self.step}, {left}"


def _duration(seconds: float) -> str:
    if seconds < 90:
        return f"{max(1, round(seconds))} s"
    return f"{round(seconds / 60)} min"


class Progress:
    """Follows the run's events in a thread and shows them on the real standard output.

    What a test process writes is captured, and under pytest-xdist the tests run in other
    processes; so they append events to a file, and the process with the terminal reads it.
    """

    def __init__(self, state: State, events: Path, n_cells: int, stream: IO[str]) -> None:
        self._state = state
        self._events = events
        self._stream = stream
        self._is_terminal = stream.isatty()
        self._tally = Tally(n_cells=n_cells, started_s=time.time())
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._follow, daemon=True)

    @classmethod
    def start(cls, state: State) -> Progress:
        """Begin to follow a run."""
        run = state.open_run()
        # Captured output goes through descriptor 1; this copy stays the real one.
        real = sys.__stdout__ or sys.stdout
        stream = os.fdopen(os.dup(real.fileno()), "w", encoding="utf-8", buffering=1)
        progress = cls(state, run.folder / "events.jsonl", len(run.cells), stream)
        progress._thread.start()
        return progress

    def stop(self) -> None:
        """Stop following; what is shown live is wiped."""
        if not self._stop.is_set():
            self._stop.set()
            self._thread.join()
            self._wipe()
            self._stream.close()

    def test_status(self, report: pytest.TestReport) -> tuple[str, str, str] | None:
        """Give a built-in test no letter: its line with the figures stands for it."""
        if report.when == "call" and report.nodeid.startswith((MATRIX_NODE, CALIBRATION_NODE)):
            verbose = {"passed": "PASSED", "failed": "FAILED", "skipped": "SKIPPED"}
            return report.outcome, "", verbose.get(report.outcome, report.outcome)
        return None

    def _follow(self) -> None:
        position = 0
        last_line_s = time.time()
        while not self._stop.wait(_POLL_S):
            news, position = self._read(position)
            for event in news:
                self._tally.take(event)
            if not news:
                continue
            if self._is_terminal:
                self._stream.write("\r\x1b[K" + self._tally.line())
                self._stream.flush()
            elif time.time() - last_line_s >= _LINE_EVERY_S:
                last_line_s = time.time()
                self._stream.write("\n" + self._tally.line() + "\n")
                self._stream.flush()

    def _read(self, position: int) -> tuple[list[dict[str, object]], int]:
        try:
            with self._events.open("rb") as stream:
                stream.seek(position)
                data = stream.read()
        except FileNotFoundError:
            return [], position
        whole = data[: data.rfind(b"\n") + 1]
        return [json.loads(line) for line in whole.splitlines()], position + len(whole)

    def _wipe(self) -> None:
        if self._is_terminal:
            self._stream.write("\r\x1b[K")
            self._stream.flush()


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
        begun = state.progress._tally.started_s
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


def check_something_judged(session: pytest.Session, state: State) -> None:
    """Make a gated run in which no cell was judged fail, but not a shard that has none."""
    run = state.open_run()
    if state.options.matrix and run.gated and run.cells and not read_records(run):
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
            _write_reports(reporter, run, make_record(state, run))
        state.close()
        if run.settings.shard is not None and not run.cells:
            reporter.write_line(
                f"quantgate: shard {run.settings.shard} has no cell of the {len(run.matrix)} that"
                " there are, which is green"
            )
        elif state.options.matrix and run.gated:
            reporter.write_line("quantgate: no cell was judged, so the gated run is red", red=True)
        return
    record = make_record(state, run)
    state.close()
    reporter.section("quantization gate", "=")
    width = table_width()
    for table in make_tables(record):
        lines = lay_out(table, width)
        reporter.write_line(lines.title, bold=True)
        reporter.write_line(lines.heading)
        for row, line in zip(table.rows, lines.rows, strict=True):
            reporter.write_line(line, red=not row.is_green)
        for line in (*lines.below, ""):
            reporter.write_line(line)
    for noise in noise_tables(record):
        first, heading, *rest = noise_text_lines(noise, width)
        reporter.write_line(first, bold=True)
        reporter.write_line(heading)
        for number, line in enumerate(rest):
            reporter.write_line(line, red=number in noise.red_rows)
        reporter.write_line("")
    upgrade = compare_engines(record)
    if upgrade is not None:
        first, *rest = upgrade_lines(upgrade, width)
        reporter.write_line(first, bold=True)
        for line in rest:
            reporter.write_line(line)
        reporter.write_line("")
    for cell in record.cells:
        if cell.accepted:
            reporter.write_line(f"accepted {cell.id}: {cell.accepted}")
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
    _write_reports(reporter, run, record)


def _write_reports(reporter: pytest.TerminalReporter, run: Run, record: RunRecord) -> None:
    for path in run.settings.reports:
        write_report(path, record)
        reporter.write_line(f"wrote {path}")
