"""Judges a test's cell by the test's markers, after the test's own body."""

from __future__ import annotations

import hashlib
from collections.abc import Generator, Sequence
from contextlib import nullcontext
from dataclasses import replace
from statistics import median

import pytest

from pytest_quantgate.errors import CellError
from pytest_quantgate.gate.acceptance import merge_parts
from pytest_quantgate.gate.judge import OF_THE_WHOLE
from pytest_quantgate.gate.loop import answer, failure
from pytest_quantgate.gate.question import Answer, Question
from pytest_quantgate.matrix.cells import Cell
from pytest_quantgate.matrix.run import Run
from pytest_quantgate.metrics.registry import CELL_METRICS
from pytest_quantgate.metrics.scoring import measure_perplexity
from pytest_quantgate.plugin.markers import MARKERS, read_marker
from pytest_quantgate.plugin.parametrize import Point
from pytest_quantgate.plugin.snapshots import accept
from pytest_quantgate.plugin.state import STATE, State
from pytest_quantgate.results.baseline import Baseline
from pytest_quantgate.results.record import CellRecord, to_plain
from pytest_quantgate.results.verdicts import CauseKind, Verdict, VerdictKind
from pytest_quantgate.storage.atomic import write_json
from pytest_quantgate.storage.keys import key_of

NEEDS_REASON = '--snapshot-update needs a reason; add --quant-reason "WHY"'

_NEVER_ACCEPTED = frozenset(
    {
        VerdictKind.INVALID,
        VerdictKind.CRASHED,
        VerdictKind.TIMEOUT,
        VerdictKind.UNAVAILABLE,
        VerdictKind.UNSUPPORTED,
        VerdictKind.INCONCLUSIVE,
    }
)


def beside_no_speed(item: pytest.Item) -> Generator[None, None, None]:
    """Run a test that computes with the engine's codecs while no speed is measured.

    Only where the profile measures speed: else such tests run beside each other and the matrix.
    """
    run = item.config.stash[STATE].open_run()
    with run.hold_device("cpu") if run.settings.profile.speed else nullcontext():
        yield


def gate(item: pytest.Item) -> Generator[None, None, None]:
    """Run a test's body, then judge; a body that could not measure gets the cell's verdict."""
    state = item.config.stash[STATE]
    run = state.open_run()
    assert isinstance(item, pytest.Function)
    point = item.callspec.params["_quant_point"]
    assert isinstance(point, Point)
    questions = [read_marker(mark) for mark in item.iter_markers() if mark.name in MARKERS]
    try:
        yield
    except CellError as error:
        if not point.is_whole_cell:
            raise
        result = failure(run, point.cell, error, questions)
    else:
        if not questions:
            return
        result = answer(run, point.cell, questions)
    if state.options.update_baselines and result.verdict.kind is not VerdictKind.PASS:
        _accept(item, state, run, point.cell, questions, result)
        return
    _write_record(run, item, result.record)
    _write_others(run, item, result.others)
    _report(result)


def _report(result: Answer) -> None:
    verdict, cell = result.verdict, result.record
    message = f"{verdict.kind.value}: {verdict.reason}"
    if verdict.cause is not None:
        message += f"\n{verdict.cause}"
    if cell.is_skipped:
        pytest.skip(f"{cell.id}: {message}")
    if not verdict.kind.is_green:
        pytest.fail(f"{cell.id}: {message}", pytrace=False)


def _accept(
    item: pytest.Function,
    state: State,
    run: Run,
    cell: Cell,
    questions: Sequence[Question],
    result: Answer,
) -> None:
    """Store what was asked about in the cell's baseline through syrupy, or refuse."""
    kind = result.verdict.kind
    if not state.options.reason:
        _write_record(run, item, result.record)
        pytest.fail(f"{cell.id}: {NEEDS_REASON}", pytrace=False)
    _refuse(run, item, cell, result.record, result.verdict)
    asked = {question.metric for question in questions}
    # Another test of this cell may store its part at the same time, in another process.
    with run.cache.lock(f"baseline-{key_of(path=str(run.store.path(run.key(cell))))[:32]}"):
        old = run.baseline(cell).baseline
        of_source = run.described_file(cell).source_sha256
        kept = old if old is not None and old.source_sha256 == of_source else None
        # What a first baseline stores with what was asked about is judged here: nobody else did.
        unasked = () if kept is not None else sorted({*OF_THE_WHOLE, "oracle"} - asked)
        full = answer(
            run,
            cell,
            [Question(metric=name, limits=None) for name in unasked],
            full=True,
            measured=result.measured,
        )
        candidate = full.candidate
        if candidate is None:
            _write_record(run, item, full.record)
            pytest.fail(f"{cell.id}: not accepted as a baseline: INVALID", pytrace=False)
        if kept is None:
            _refuse(run, item, cell, full.record, full.verdict)
        elif not asked >= OF_THE_WHOLE:
            candidate = merge_parts(kept, candidate, asked)
        if candidate == old:
            # Limits that no baseline has a part in: there is nothing to accept.
            _write_record(run, item, result.record)
            _report(result)
            return
        candidate = candidate.model_copy(update={"reason": state.options.reason})
        looks = run.looks(cell)
        if looks:
            run.measurements.keep_tokens(measure_perplexity(run, cell, looks[-1]))
        accept(item, run.store, candidate)
    record = replace(
        full.record,
        verdict=kind.value,
        reason=result.verdict.reason,
        cause=result.verdict.cause,
        judgements=result.verdict.judgements,
        accepted=_moved(old, candidate),
    )
    _write_record(run, item, record)


def _refuse(
    run: Run, item: pytest.Function, cell: Cell, record: CellRecord, verdict: Verdict
) -> None:
    """Fail the test where a verdict is none to be accepted."""
    if verdict.kind in _NEVER_ACCEPTED or (
        verdict.cause and verdict.cause.kind is CauseKind.WRONG_ENGINE
    ):
        _write_record(run, item, record)
        pytest.fail(
            f"{cell.id}: not accepted as a baseline: {verdict.kind.value}: {verdict.reason}",
            pytrace=False,
        )


def _moved(old: Baseline | None, new: Baseline) -> str:
    """Say old → new → Δ for the review."""
    size = f"{new.size.file_bytes:,} bytes"
    ppl = None if new.perplexity is None else new.perplexity.ppl
    parts = [] if ppl is None else [f"PPL {ppl:.4f}"]
    if old is None:
        parts = [f"{', '.join([*parts, size])} (new)"]
    else:
        if ppl is not None and old.perplexity is not None:
            before = old.perplexity.ppl
            parts = [f"PPL {before:.4f} → {ppl:.4f} ({100 * (ppl / before - 1):+.3f} %)"]
        change = new.size.file_bytes / old.size.file_bytes - 1
        parts.append(f"{old.size.file_bytes:,} → {size} ({100 * change:+.2f} %)")
    return ", ".join([*parts, *_moved_speed(old, new), *_moved_memory(old, new)])


def _moved_speed(old: Baseline | None, new: Baseline) -> list[str]:
    parts = []
    for digest, speed in new.speed.items():
        before = None if old is None else old.speed.get(digest)
        if speed == before:
            continue
        for phase in ("prefill", "decode"):
            now = median(getattr(speed, f"{phase}_rates"))
            if before is None:
                parts.append(f"{phase} {now:,.4g} t/s (new)")
            else:
                was = median(getattr(before, f"{phase}_rates"))
                parts.append(
                    f"{phase} {was:,.4g} → {now:,.4g} t/s ({100 * (now / was - 1):+.1f} %)"
                )
    return parts


def _moved_memory(old: Baseline | None, new: Baseline) -> list[str]:
    parts = []
    for digest, memory in new.memory.items():
        before = None if old is None else old.memory.get(digest)
        now = memory.peak_resident_bytes
        if before is None:
            parts.append(f"peak memory {now:,} bytes (new)")
        elif before != memory:
            was = before.peak_resident_bytes
            parts.append(f"peak memory {was:,} → {now:,} bytes ({100 * (now / was - 1):+.1f} %)")
    return parts


def _write_record(run: Run, item: pytest.Item, record: CellRecord) -> None:
    # Plain types only: a numpy scalar here would lose a whole run of pytest-xdist.
    item.user_properties.append(("quant_verdict", record.verdict))
    if record.ppl is not None:
        item.user_properties.append(("quant_ppl", float(record.ppl)))
    if record.file_bytes is not None:
        item.user_properties.append(("quant_file_bytes", int(record.file_bytes)))
    for name, measurement in record.measured.items():
        item.user_properties.extend(CELL_METRICS[name].figures(measurement).items())
    write_json(run.folder / "records" / f"{_file_stem(item)}.json", to_plain(record))


def _write_others(run: Run, item: pytest.Item, records: Sequence[CellRecord]) -> None:
    """Write what was measured of an old engine beside the cell's record."""
    for number, record in enumerate(records):
        path = run.folder / "others" / f"{_file_stem(item)}-{number}.json"
        write_json(path, to_plain(record))


def _file_stem(item: pytest.Item) -> str:
    return hashlib.sha256(item.nodeid.encode()).hexdigest()[:16]
