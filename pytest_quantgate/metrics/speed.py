"""Speed: prefill and decode apart, in interleaved fresh processes, with every sample kept."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING

from pytest_quantgate import stats
from pytest_quantgate.engines.messages import MeasureSpeed, SpeedMeasured
from pytest_quantgate.engines.messages.placement import CPU
from pytest_quantgate.errors import CellError, CellInvalid
from pytest_quantgate.matrix.requests import model_request_fields
from pytest_quantgate.metrics.speed_sessions import keep_session, known_scatter
from pytest_quantgate.results.events import MeasuringSpeed
from pytest_quantgate.results.hardware import Fingerprint, OutsideLoad, host_state
from pytest_quantgate.results.measurements.speed import (
    PHASES,
    ProcessSpeed,
    SpeedMeasurement,
    rates,
)
from pytest_quantgate.storage.keys import key_of

if TYPE_CHECKING:
    from pytest_quantgate.matrix.resolved import ResolvedCell
    from pytest_quantgate.matrix.session import Session


_N_BATCH, _N_UBATCH = 2048, 512  # llama-bench's, where the profile names none


Sides = Sequence[Sequence[ProcessSpeed]]
"""The processes of each side so far, the cell's own last."""

Decided = Callable[[SpeedMeasurement], Mapping[str, bool]]
"""Says of each phase that has limits whether what was measured so far decides them all."""


def enough(
    sides: Sides, looks: tuple[int, ...], margin: float, decided: Mapping[str, bool]
) -> bool:
    """Return whether the processes so far say enough of both phases.

    A phase with limits does where these are decided, one without where its interval is narrower
    than the margin. Asked only at a look, whose share of the errors the bounds may have; one side
    is judged by the scatter of its own rates.
    """
    share = stats.spending(looks, stats.ALPHA_REGRESSED)[looks.index(len(sides[0]))]

    def is_narrow(phase: str) -> bool:
        columns = [rates(side, phase, 1) for side in sides]
        one_side = len(columns) == 1
        estimate = stats.slowness(columns[0]) if one_side else stats.slowdown(*columns)
        return stats.is_narrow(estimate, margin, share)

    return all(decided[phase] if phase in decided else is_narrow(phase) for phase in PHASES)


def run_interleaved(
    sides: Sequence[Callable[[], ProcessSpeed]],
    looks: tuple[int, ...],
    margin: float,
    budget_s: float,
    on_process: Callable[[int], None],
    decided: Callable[[Sides], Mapping[str, bool]] = lambda _sides: {},
) -> list[list[ProcessSpeed]]:
    """Run fresh processes of one side or two, interleaved, until they say enough.

    Args:
        sides: each call runs one fresh process.
        looks: the numbers of processes a side after which this may end; the last ends it.
        margin: relative; a phase without limits ends where its interval is narrower.
        budget_s: no look is gone beyond after so many seconds; the first look is always reached.
        on_process: called with the number of processes that have ended.
        decided: says of each phase that has limits whether these processes decide them.

    """
    began_s = time.monotonic()
    found: list[list[ProcessSpeed]] = [[] for _ in sides]
    for look in looks:
        while len(found[0]) < look:
            order = stats.interleaved(len(found[0])) if len(sides) > 1 else (0,)
            for side in order:
                found[side].append(sides[side]())
                on_process(sum(map(len, found)))
        if time.monotonic() - began_s >= budget_s:
            break
        if enough(found, looks, margin, decided(found)):
            break
    return found


def measure_speed(
    session: Session, cell: ResolvedCell, decided: Decided | None = None
) -> SpeedMeasurement:
    """Measure a cell's speed against its reference's, with nothing else on the device.

    Where an old engine is compared with, its own cell takes the reference's place. With ``decided``
    measuring ends where the limits are decided, else where the intervals are narrow. Of cells with
    equal bytes the first is timed; another is timed too where its own limits are not decided by it.

    Raises:
        CellError: the cell, or what it is held against, could not be measured.

    """
    old = session.before(cell)
    key = _bytes_key(session, cell, old)
    first, timed = session.timed.get(key, (cell.id, None))
    if timed is not None and first != cell.id:
        scatter = {} if old is not None else known_scatter(session, cell, timed)
        timed = replace(timed, timed_as=first, between_sessions=scatter)
        if decided is None or all(decided(timed).values()):
            return timed
    measured = _measure(session, cell, old, decided)
    session.timed.setdefault(key, (cell.id, measured))
    return measured


def _bytes_key(session: Session, cell: ResolvedCell, old: ResolvedCell | None) -> str:
    """Return what two cells share that must be equally fast: tensors, device and engines."""
    sides = (cell, session.reference(cell) if old is None else old)
    return key_of(
        device=cell.cell.device,
        is_reference=cell.is_reference,
        sides=[
            [
                item.cell.engine,
                item.cell.model,
                [
                    (t.name, t.type, t.sha256)
                    for t in session.artifacts.described_file(item).tensors
                ],
            ]
            for item in sides
        ],
    )


def _measure(
    session: Session, cell: ResolvedCell, old: ResolvedCell | None, decided: Decided | None
) -> SpeedMeasurement:
    if old is not None:
        try:
            return _measure_beside(session, cell, old, decided)
        except _OldEngineError as error:
            alone = _measure_beside(session, cell, None, decided)
            return replace(alone, old_engine_error=str(error))
    return _measure_beside(session, cell, None, decided)


class _OldEngineError(CellError):
    """The old engine's process failed: no fault of the cell that is measured."""


def _measure_beside(
    session: Session, cell: ResolvedCell, old: ResolvedCell | None, decided: Decided | None
) -> SpeedMeasurement:
    other = old if old is not None else session.reference(cell)
    cells = [cell] if other is cell else [other, cell]
    backend = session.device(cell)
    replies: list[SpeedMeasured] = []
    requests = [_request(session, item, like=cell) for item in cells]
    processes = [
        partial(_run, item, request, replies, is_old=item is old)
        for item, request in zip(cells, requests, strict=True)
    ]
    # The processor too: a GPU's speed hangs on the core that feeds it.
    held = ",".join(dict.fromkeys((CPU, *cell.placement.names)))
    with session.hold_device(held, cell):
        load, blank = OutsideLoad(), _blank(session, cell, requests[-1], backend)
        began_s = time.monotonic()

        def so_far(sides: Sides) -> SpeedMeasurement:
            beside = () if len(sides) == 1 else tuple(sides[0])
            device = replies[0].device_description or backend
            measured = replace(
                blank,
                cell=tuple(sides[-1]),
                reference=beside if old is None else (),
                against=beside if old is not None else (),
                fingerprint=replace(blank.fingerprint, device=device, driver=replies[0].driver),
                seconds_s=time.monotonic() - began_s,
            )
            scatter = {} if old is not None else known_scatter(session, cell, measured)
            return replace(measured, between_sessions=scatter)

        sides = run_interleaved(
            processes,
            blank.looks,
            cell.profile.speed_margin,
            cell.profile.speed_seconds,
            lambda done: session.events.append(
                MeasuringSpeed(cell=cell.id, done=done, total=blank.looks[0] * len(cells))
            ),
            lambda sides: {} if decided is None else decided(so_far(sides)),
        )
        # What this machine does meanwhile says nothing of a speed on another.
        is_here = session.lane is None or session.lane.host is None
        outside_cores = load.cores(sum(reply.cpu_s for reply in replies)) if is_here else None
        measured = replace(so_far(sides), host_after=host_state(), outside_cores=outside_cores)
    if measured.disturbing_cores is None:
        keep_session(session, cell, measured)
    return measured


def _request(session: Session, item: ResolvedCell, *, like: ResolvedCell) -> MeasureSpeed:
    """Return what a process of either side is asked: both are measured as ``like`` is."""
    profile = like.profile
    n_batch = profile.n_batch or _N_BATCH
    return MeasureSpeed(
        **model_request_fields(session, item),
        n_prompt=profile.speed_prefill_tokens,
        n_decode=profile.speed_decode_tokens,
        n_depth=profile.speed_depth,
        repetitions=profile.speed_repetitions,
        n_batch=n_batch,
        n_ubatch=profile.n_ubatch or min(_N_UBATCH, n_batch),
    )


def _run(
    item: ResolvedCell, request: MeasureSpeed, replies: list[SpeedMeasured], *, is_old: bool
) -> ProcessSpeed:
    """Measure in a fresh process, and keep its reply.

    What differs from one process to the next (where the pages lie, which cores) would else be taken
    for a property of the format.
    """
    try:
        reply = item.engine.ask(request)
    except CellError as error:
        if is_old:
            raise _OldEngineError(str(error)) from error
        raise
    replies.append(reply)
    return process_speed(reply)


def _blank(
    session: Session, cell: ResolvedCell, request: MeasureSpeed, backend: str
) -> SpeedMeasurement:
    """Return a measurement that has no process yet."""
    identity, host = cell.engine.identity(), host_state()
    return SpeedMeasurement(
        prefill_tokens=request.n_prompt,
        decode_tokens=request.n_decode,
        depth=request.n_depth,
        n_batch=request.n_batch,
        n_ubatch=request.n_ubatch,
        cell=(),
        reference=(),
        looks=stats.process_looks(cell.profile.speed_processes),
        fingerprint=Fingerprint(
            cpu=identity.cpu_name,
            build=identity.system_info,
            n_threads=session.n_threads,
            device=backend,
            driver="",
        ),
        host_before=host,
        host_after=host,
        outside_cores=None,
        seconds_s=0.0,
    )


def process_speed(reply: SpeedMeasured) -> ProcessSpeed:
    """Take what a process tells.

    Raises:
        CellInvalid: its clock stood still or ran backwards.

    """
    times = (*reply.prefill_ns, *reply.decode_ns)
    if not reply.prefill_ns or not reply.decode_ns or min(times) <= 0:
        raise CellInvalid(f"the engine's clock gave {times} nanoseconds")
    return ProcessSpeed(
        load_s=reply.load_s,
        prefill_ns=tuple(reply.prefill_ns),
        decode_ns=tuple(reply.decode_ns),
        prefill_warmup_ns=tuple(reply.prefill_warmup_ns),
        decode_warmup_ns=tuple(reply.decode_warmup_ns),
        prefill_is_warm=reply.prefill_is_warm,
        decode_is_warm=reply.decode_is_warm,
    )
