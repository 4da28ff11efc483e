"""Judges a test's cell by the test's markers, after the test's own body."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Generator, Sequence
from contextlib import nullcontext

import pytest

from pytest_quantgate.config.metrics import METRICS
from pytest_quantgate.errors import CellError
from pytest_quantgate.gate.accepting import Acceptance, accept, lock_baseline
from pytest_quantgate.gate.loop import answer, failure
from pytest_quantgate.gate.question import Answer, Question
from pytest_quantgate.hosts.device_locks import hold_device
from pytest_quantgate.matrix.cells import Cell
from pytest_quantgate.matrix.session import Session
from pytest_quantgate.metrics.registry import properties_of
from pytest_quantgate.plugin.lanes import questions_of
from pytest_quantgate.plugin.parametrize import Point
from pytest_quantgate.plugin.snapshots import store_baseline
from pytest_quantgate.plugin.state import STATE, UNWRITTEN, State
from pytest_quantgate.reports.words import logged
from pytest_quantgate.results.record import CellRecord, to_plain
from pytest_quantgate.results.verdicts import VerdictKind
from pytest_quantgate.storage.atomic import write_json


def beside_no_speed(item: pytest.Item) -> Generator[None, None, None]:
    """Run a test that computes with the engine's codecs while no speed is measured.

    Only where the profile measures speed: else such tests run beside each other and the matrix.
    """
    session = item.config.stash[STATE].open_session()
    with hold_device("cpu") if session.settings.profile.speed else nullcontext():
        yield


def gate(item: pytest.Item) -> Generator[None, None, None]:
    """Run a test's body, then judge; a body that could not measure gets the cell's verdict."""
    state = item.config.stash[STATE]
    session = state.open_session()
    assert isinstance(item, pytest.Function)
    point = item.callspec.params["_quant_point"]
    assert isinstance(point, Point)
    questions = questions_of(item)
    if state.lanes is not None:
        state.lanes.wait(item)
    problem: CellError | None = None
    try:
        yield
    except CellError as error:
        if not point.is_whole_cell:
            raise
        problem = error
    if not questions and problem is None:
        return
    try:
        _judge(item, state, point.cell, questions, problem)
    except CellError as error:  # the machine refuses even what is to be written about the cell
        result = failure(session, point.cell, error, questions)
    else:
        return
    try:
        _write_record(session, item, result.record)
    except CellError:
        item.user_properties.append((UNWRITTEN, json.dumps(to_plain(result.record))))
        _add_properties(item, result.record)
    _report(result)


def _judge(
    item: pytest.Function,
    state: State,
    cell: Cell,
    questions: Sequence[Question],
    problem: CellError | None,
) -> None:
    """Judge a cell, or turn what kept its test from measuring it into its verdict; record it."""
    session = state.open_session()
    if problem is not None:
        result = failure(session, cell, problem, questions)
    elif state.lanes is None:
        result = answer(session, cell, questions)
    else:
        result = state.lanes.answer(item, cell, questions)
    if state.options.update_baselines and result.verdict.kind is not VerdictKind.PASS:
        _accept(item, state, cell, questions, result)
        return
    _write_others(session, item, result.others)
    _write_record(session, item, result.record)
    _report(result)


def _report(result: Answer) -> None:
    verdict, cell = result.verdict, result.record
    message = f"{verdict.kind.value}: {verdict.reason}"
    if verdict.cause is not None:
        message += f"\n{verdict.cause}"
    message = logged(message)
    if cell.is_skipped:
        pytest.skip(f"{cell.id}: {message}")
    if not verdict.kind.is_green:
        pytest.fail(f"{cell.id}: {message}", pytrace=False)


def _accept(
    item: pytest.Function, state: State, cell: Cell, questions: Sequence[Question], result: Answer
) -> None:
    """Store what was asked about in the cell's baseline through syrupy, or refuse."""
    session = state.open_session()
    with lock_baseline(session, cell):
        acceptance: Acceptance = state.measure(
            cell,
            lambda on: accept(on, cell, questions, result, state.options.reason or ""),
        )
        if acceptance.baseline is not None:
            store_baseline(item, session.store, acceptance.baseline)
    _write_record(session, item, acceptance.record)
    if acceptance.refusal is not None:
        pytest.fail(f"{cell.id}: {logged(acceptance.refusal)}", pytrace=False)
    if acceptance.baseline is None:
        _report(result)


def _write_record(session: Session, item: pytest.Item, record: CellRecord) -> None:
    write_json(session.folder / "records" / f"{_file_stem(item)}.json", to_plain(record))
    _add_properties(item, record)


def _add_properties(item: pytest.Item, record: CellRecord) -> None:
    # Plain types only: a numpy scalar here would lose a whole run of pytest-xdist.
    item.user_properties.append(("quant_verdict", record.verdict))
    if record.ppl is not None:
        item.user_properties.append(("quant_ppl", float(record.ppl)))
    if record.file_bytes is not None:
        item.user_properties.append(("quant_file_bytes", int(record.file_bytes)))
    for name, measurement in record.measured.items():
        item.user_properties.extend(properties_of(METRICS[name], measurement).items())


def _write_others(session: Session, item: pytest.Item, records: Sequence[CellRecord]) -> None:
    """Write what was measured of an old engine beside the cell's record."""
    for number, record in enumerate(records):
        path = session.folder / "others" / f"{_file_stem(item)}-{number}.json"
        write_json(path, to_plain(record))


def _file_stem(item: pytest.Item) -> str:
    return hashlib.sha256(item.nodeid.encode()).hexdigest()[:16]
