"""Speed: prefill and decode apart, in interleaved fresh processes, with every sample kept."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from types import MappingProxyType
from typing import TYPE_CHECKING

from pytest_quantgate import stats
from pytest_quantgate.config.schema import Limits
from pytest_quantgate.engines.messages import MeasureSpeed, SpeedMeasured
from pytest_quantgate.engines.messages.placement import CPU
from pytest_quantgate.errors import CellError, CellInvalid
from pytest_quantgate.matrix.requests import ModelRequestFields, model_request_fields
from pytest_quantgate.results.events import MeasuringSpeed
from pytest_quantgate.results.hardware import Fingerprint, OutsideLoad, host_state
from pytest_quantgate.results.measurements.speed import (
    PHASES,
    ProcessSpeed,
    SpeedMeasurement,
    rates,
)

if TYPE_CHECKING:
    from pytest_quantgate.matrix.resolved import ResolvedCell
    from pytest_quantgate.matrix.session import Session


_N_BATCH, _N_UBATCH = 2048, 512  # llama-bench's, where the profile names none


def enough(
    sides: Sequence[Sequence[ProcessSpeed]],
    looks: tuple[int, ...],
    margin: float,
    limits: Mapping[str, float],
) -> bool:
    """Return whether the processes so far decide on both phases.

    A phase with a limit is decided where its slowdown is inside or outside, one without where its
    interval is narrower than the margin. Asked only at a look, whose share of the errors the
    bounds may have; one side is judged by the scatter of its own rates.
    """
    n_processes = len(sides[0])
    share = stats.spending(looks, stats.ALPHA_REGRESSED)[looks.index(n_processes)]
    for phase in PHASES:
        columns = [rates(side, phase, 1) for side in sides]
        estimate = (
            stats.slowness(columns[0])
            if len(columns) == 1
            else stats.slowdown(columns[0], columns[1])
        )
        if phase in limits:
            outcome = stats.decide_slowdown(estimate, limits[phase], looks, n_processes).outcome
            is_decided = outcome in {stats.Outcome.INSIDE, stats.Outcome.OUTSIDE}
        else:
            is_decided = stats.is_narrow(estimate, margin, share)
        if not is_decided:
            return False
    return True


def run_interleaved(
    sides: Sequence[Callable[[], ProcessSpeed]],
    looks: tuple[int, ...],
    margin: float,
    budget_s: float,
    on_process: Callable[[int], None],
    limits: Mapping[str, float] = MappingProxyType({}),
) -> list[list[ProcessSpeed]]:
    """Run fresh processes of one side or two, interleaved, until they say enough.

    Args:
        sides: each call runs one fresh process.
        looks: the numbers of processes a side after which this may end; the last ends it.
        margin: relative; a phase without a limit is decided where its interval is narrower.
        budget_s: no look is gone beyond after so many seconds; the first look is always reached.
        on_process: called with the number of processes that have ended.
        limits: by phase, the slowdown ln(before/after) between the sides that is judged.

    """
    began_s = time.monotonic()
    found: list[list[ProcessSpeed]] = [[] for _ in sides]
    for look in looks:
        while len(found[0]) < look:
            order = stats.interleaved(len(found[0])) if len(sides) > 1 else (0,)
            for side in order:
                found[side].append(sides[side]())
                on_process(sum(map(len, found)))
        if time.monotonic() - began_s >= budget_s or enough(found, looks, margin, limits):
            break
    return found


def _limits_against(limits: Limits) -> dict[str, float]:
    """Return the profile's limits of both phases against an old engine.

    A phase that has a floor besides is measured until its interval is narrow.
    """
    allowed = {}
    for phase in PHASES:
        change = getattr(limits, f"{phase}_vs_baseline")
        change = limits.speed_vs_same_hardware if change is None else change
        if change is not None and getattr(limits, f"{phase}_tokens_per_s_min") is None:
            allowed[phase] = -math.log1p(change)
    return allowed


def measure_speed(session: Session, cell: ResolvedCell) -> SpeedMeasurement:
    """Measure a cell's speed against its reference's, with nothing else on the device.

    Where an old engine is compared with, its own cell takes the reference's place.

    Raises:
        CellError: the cell, or what it is held against, could not be measured.

    """
    old = session.before(cell)
    if old is not None:
        try:
            return _measure_beside(session, cell, old)
        except _OldEngineError as error:
            alone = _measure_beside(session, cell, None)
            return replace(alone, old_engine_error=str(error))
    return _measure_beside(session, cell, None)


class _OldEngineError(CellError):
    """The old engine's process failed: no fault of the cell that is measured."""


def _measure_beside(
    session: Session, cell: ResolvedCell, old: ResolvedCell | None
) -> SpeedMeasurement:
    profile, reference = cell.profile, session.reference(cell)
    other = old if old is not None else reference
    cells = [cell] if other is cell else [other, cell]
    backend = session.device(cell)
    identity = cell.engine.identity()
    n_batch = profile.n_batch or _N_BATCH
    n_ubatch = profile.n_ubatch or min(_N_UBATCH, n_batch)
    looks = stats.process_looks(profile.speed_processes)
    replies: list[SpeedMeasured] = []

    def process(item: ResolvedCell, loaded: ModelRequestFields) -> ProcessSpeed:
        # A fresh process each time: what differs from one to the next (where the pages lie,
        # which cores) would else be taken for a property of the format.
        request = MeasureSpeed(
            **loaded,
            n_prompt=profile.speed_prefill_tokens,
            n_decode=profile.speed_decode_tokens,
            n_depth=profile.speed_depth,
            repetitions=profile.speed_repetitions,
            n_batch=n_batch,
            n_ubatch=n_ubatch,
        )
        try:
            reply = item.engine.ask(request)
        except CellError as error:
            if item is old:
                raise _OldEngineError(str(error)) from error
            raise
        replies.append(reply)
        return process_speed(reply)

    processes = [partial(process, item, model_request_fields(session, item)) for item in cells]
    # The processor too: a GPU's speed hangs on the core that feeds it.
    held = ",".join(dict.fromkeys((CPU, *cell.placement.names)))
    with session.hold_device(held, cell):
        before, load, began_s = host_state(), OutsideLoad(), time.monotonic()
        sides = run_interleaved(
            processes,
            looks,
            profile.speed_margin,
            profile.speed_seconds,
            lambda done: session.events.append(
                MeasuringSpeed(cell=cell.id, done=done, total=looks[0] * len(cells))
            ),
            {} if old is None else _limits_against(cell.limits),
        )
        outside_cores = load.cores(sum(reply.cpu_s for reply in replies))
        after = host_state()
    return SpeedMeasurement(
        prefill_tokens=profile.speed_prefill_tokens,
        decode_tokens=profile.speed_decode_tokens,
        depth=profile.speed_depth,
        n_batch=n_batch,
        n_ubatch=n_ubatch,
        cell=tuple(sides[-1]),
        reference=tuple(sides[0]) if len(sides) > 1 and old is None else (),
        against=tuple(sides[0]) if old is not None else (),
        looks=looks,
        fingerprint=Fingerprint(
            cpu=identity.cpu_name,
            build=identity.system_info,
            n_threads=session.n_threads,
            device=replies[0].device_description or backend,
            driver=replies[0].driver,
        ),
        host_before=before,
        host_after=after,
        outside_cores=outside_cores,
        seconds_s=time.monotonic() - began_s,
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
