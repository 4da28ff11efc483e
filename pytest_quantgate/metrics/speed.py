"""Speed: prefill and decode apart, in interleaved fresh processes, with every sample kept."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from statistics import median
from typing import TYPE_CHECKING

from pytest_quantgate import statistics
from pytest_quantgate.computing import ModelRequestFields, model_request_fields
from pytest_quantgate.errors import CellError, CellInvalid
from pytest_quantgate.hardware import Fingerprint, HostState, OutsideLoad, host_state
from pytest_quantgate.worker.messages import MeasureSpeed, SpeedMeasured
from pytest_quantgate.worker.placement import CPU

if TYPE_CHECKING:
    from pytest_quantgate.matrix import Cell
    from pytest_quantgate.run import Run

PHASES = ("prefill", "decode")
"""What is timed and judged apart: a change may make one faster and the other slower."""

BUSY_SHARE = 0.1
"""Share of the cores in use that other processes may have without disturbing the figures."""

_N_BATCH, _N_UBATCH = 2048, 512  # llama-bench's, where the profile names none


@dataclass(frozen=True, kw_only=True)
class ProcessSpeed:
    """What one fresh process took, in nanoseconds a run.

    A prefill run is all tokens of the prompt, a decode run all tokens decoded; the warm-ups came
    before and count for nothing. ``*_is_warm`` says that the last two of them took equally long.
    """

    load_s: float | None
    prefill_ns: tuple[int, ...]
    decode_ns: tuple[int, ...]
    prefill_warmup_ns: tuple[int, ...]
    decode_warmup_ns: tuple[int, ...]
    prefill_is_warm: bool
    decode_is_warm: bool


@dataclass(frozen=True, kw_only=True)
class SpeedMeasurement:
    """The speed of a cell, and of what it is held against in processes between its own.

    Process i of ``cell`` and process i of ``reference`` are a pair that ran one after the other;
    ``reference`` is empty for the reference itself, and where ``against`` has the old engine's
    processes in its place; ``old_engine_error`` says why it has not where it should. ``looks``
    are the numbers of pairs, declared beforehand, after which measuring might have ended;
    ``outside_cores`` how many cores other processes used meanwhile.
    """

    prefill_tokens: int
    decode_tokens: int
    depth: int
    n_batch: int
    n_ubatch: int
    cell: tuple[ProcessSpeed, ...]
    reference: tuple[ProcessSpeed, ...]
    looks: tuple[int, ...]
    fingerprint: Fingerprint
    host_before: HostState
    host_after: HostState
    outside_cores: float | None
    seconds_s: float
    against: tuple[ProcessSpeed, ...] = ()
    old_engine_error: str = ""

    @property
    def disturbing_cores(self) -> float | None:
        """How many cores others used, None where that is too little to matter or not known."""
        outside = self.outside_cores
        if outside is None or outside <= BUSY_SHARE * self.fingerprint.n_threads:
            return None
        return outside

    @property
    def notes(self) -> tuple[str, ...]:
        """What must be said aloud of these figures."""
        notes = []
        if self.disturbing_cores is not None:
            cores = f"{self.disturbing_cores:.1f} cores"
            notes.append(f"its speed was measured while other processes used {cores}")
        if self.old_engine_error:
            notes.append(f"the old engine gives no speed: {self.old_engine_error}")
        processes = (*self.cell, *self.reference, *self.against)
        cold = sum(not (item.prefill_is_warm and item.decode_is_warm) for item in processes)
        if 2 * cold > len(processes):
            notes.append(
                f"{cold} of {len(processes)} processes never ran evenly before their speed"
            )
        return tuple(notes)

    def tokens(self, phase: str) -> int:
        """Return the tokens of one run of a phase."""
        return self.prefill_tokens if phase == "prefill" else self.decode_tokens

    def rates(self, phase: str) -> tuple[float, ...]:
        """Return tokens per second, one of each of the cell's processes."""
        return rates(self.cell, phase, self.tokens(phase))

    def reference_rates(self, phase: str) -> tuple[float, ...]:
        """Return tokens per second, one of each of the reference's processes."""
        return rates(self.reference, phase, self.tokens(phase))

    def against_rates(self, phase: str) -> tuple[float, ...]:
        """Return tokens per second, one of each of the old engine's processes."""
        return rates(self.against, phase, self.tokens(phase))

    def tokens_per_s(self, phase: str) -> float:
        """Return the geometric mean of the cell's processes."""
        return math.exp(-statistics.slowness(self.rates(phase)).mean)

    def vs_reference(self, phase: str) -> tuple[float, float, float] | None:
        """Return how many times the reference's speed, and the interval of 95 %."""
        return self._ratio(self.reference_rates(phase), phase)

    def vs_against(self, phase: str) -> tuple[float, float, float] | None:
        """Return how many times the old engine's speed, and the interval of 95 %."""
        return self._ratio(self.against_rates(phase), phase)

    def _ratio(self, before: tuple[float, ...], phase: str) -> tuple[float, float, float] | None:
        if not before:
            return None
        found = statistics.slowdown(before, self.rates(phase))
        low, high = statistics.interval(found)
        return math.exp(-found.mean), math.exp(-high), math.exp(-low)


def speed_figures(measured: SpeedMeasurement) -> dict[str, float]:
    """Return what stands beside a test's result."""
    figures = {}
    for phase in PHASES:
        figures[f"quant_{phase}_tokens_per_s"] = measured.tokens_per_s(phase)
        ratio = measured.vs_reference(phase)
        if ratio is not None:
            figures[f"quant_{phase}_vs_reference"] = ratio[0]
        change = measured.vs_against(phase)
        if change is not None:
            figures[f"quant_{phase}_vs_against"] = change[0]
    return figures


def rates(processes: Sequence[ProcessSpeed], phase: str, n_tokens: int) -> tuple[float, ...]:
    """Return tokens per second, one a process: that of its median run."""
    runs = (item.prefill_ns if phase == "prefill" else item.decode_ns for item in processes)
    return tuple(n_tokens * 1e9 / median(times) for times in runs)


def enough(
    sides: Sequence[Sequence[ProcessSpeed]],
    looks: tuple[int, ...],
    margin: float,
) -> bool:
    """Tell whether the processes so far pin both phases down within the margin.

    Asked only at a look, whose share of REGRESSED's error the intervals may have; one side is
    judged by the scatter of its own rates.
    """
    share = statistics.spending(looks, statistics.ALPHA_REGRESSED)[looks.index(len(sides[0]))]
    for phase in PHASES:
        columns = [rates(side, phase, 1) for side in sides]
        estimate = (
            statistics.slowness(columns[0])
            if len(columns) == 1
            else statistics.slowdown(columns[0], columns[1])
        )
        if not statistics.is_narrow(estimate, margin, share):
            return False
    return True


def run_interleaved(
    sides: Sequence[Callable[[], ProcessSpeed]],
    looks: tuple[int, ...],
    margin: float,
    budget_s: float,
    on_process: Callable[[int], None],
) -> list[list[ProcessSpeed]]:
    """Run fresh processes of one side or two, interleaved, until they say enough.

    Args:
        sides: each call runs one fresh process.
        looks: the numbers of processes a side after which this may end; the last ends it.
        margin: relative; this ends at a look where both phases' intervals are narrower.
        budget_s: no look is gone beyond after so many seconds; the first look is always reached.
        on_process: called with the number of processes that have ended.

    """
    began_s = time.monotonic()
    found: list[list[ProcessSpeed]] = [[] for _ in sides]
    for look in looks:
        while len(found[0]) < look:
            order = statistics.interleaved(len(found[0])) if len(sides) > 1 else (0,)
            for side in order:
                found[side].append(sides[side]())
                on_process(sum(map(len, found)))
        if time.monotonic() - began_s >= budget_s or enough(found, looks, margin):
            break
    return found


def measure_speed(run: Run, cell: Cell) -> SpeedMeasurement:
    """Measure a cell's speed against its reference's, with nothing else on the device.

    Where an old engine is compared with, its own cell takes the reference's place.

    Raises:
        CellError: the cell, or what it is held against, could not be measured.

    """
    old = run.old_cell(cell)
    if old is not None:
        try:
            return _measure_beside(run, cell, old)
        except _OldEngineError as error:
            alone = _measure_beside(run, cell, None)
            return replace(alone, old_engine_error=str(error))
    return _measure_beside(run, cell, None)


class _OldEngineError(CellError):
    """The old engine's process failed: no fault of the cell that is measured."""


def _measure_beside(run: Run, cell: Cell, old: Cell | None) -> SpeedMeasurement:
    profile, reference = run.profile_of(cell), run.reference_cell(cell)
    other = old if old is not None else reference
    cells = [cell] if other == cell else [other, cell]
    backend = run.device(cell)
    identity = run.engine(cell.engine).identity()
    n_batch = profile.n_batch or _N_BATCH
    n_ubatch = profile.n_ubatch or min(_N_UBATCH, n_batch)
    looks = statistics.process_looks(profile.speed_processes)
    replies: list[SpeedMeasured] = []

    def process(item: Cell, loaded: ModelRequestFields) -> ProcessSpeed:
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
            reply = run.engine(item.engine).ask(request)
        except CellError as error:
            if item == old:
                raise _OldEngineError(str(error)) from error
            raise
        replies.append(reply)
        return process_speed(reply)

    processes = [partial(process, item, model_request_fields(run, item)) for item in cells]
    # The processor too: a GPU's speed hangs on the core that feeds it.
    held = ",".join(dict.fromkeys((CPU, *run.placement(cell).names)))
    with run.hold_device(held, cell):
        before, load, began_s = host_state(), OutsideLoad(), time.monotonic()
        sides = run_interleaved(
            processes,
            looks,
            profile.speed_margin,
            profile.speed_seconds,
            lambda done: run.emit("speed", cell, done=done, total=looks[0] * len(cells)),
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
            n_threads=run.n_threads,
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
