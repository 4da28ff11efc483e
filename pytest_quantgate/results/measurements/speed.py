"""Speed: prefill and decode apart, in interleaved fresh processes, with every sample kept."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from statistics import median

from pytest_quantgate import stats
from pytest_quantgate.results.hardware import Fingerprint, HostState

PHASES = ("prefill", "decode")
"""What is timed and judged apart: a change may make one faster and the other slower."""


BUSY_SHARE = 0.1
"""Share of the cores in use that other processes may have without disturbing the figures."""


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

    def __post_init__(self) -> None:
        for times in (self.prefill_ns, self.decode_ns):
            if not times or min(times) < 1:
                raise ValueError("a process without a run, or with one that took no time")


@dataclass(frozen=True, kw_only=True)
class SpeedMeasurement:
    """The speed of a cell, and of what it is held against in processes between its own.

    Process i of ``cell`` and process i of ``reference`` are a pair that ran one after the other;
    ``reference`` is empty for the reference itself, and where ``against`` has the old engine's
    processes in its place; ``old_engine_error`` says why it has not where it should. ``looks``
    are the numbers of pairs, declared beforehand, after which measuring might have ended;
    ``outside_cores`` how many cores other processes used meanwhile. ``between_sessions`` is, by
    phase, how far earlier sessions of the cell on this machine lie from each other, where enough of
    them are known.
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
    timed_as: str = ""
    between_sessions: Mapping[str, stats.SessionScatter] = field(default_factory=dict)

    def check(self) -> None:
        """Refuse what no measuring ends with.

        Raises:
            ValueError: no processes, some that stand in no pair, or a number that is no look.

        """
        if not self.cell or min(self.prefill_tokens, self.decode_tokens) < 1:
            raise ValueError("a speed of no process, or of no tokens")
        if any(len(others) not in {0, len(self.cell)} for others in (self.reference, self.against)):
            raise ValueError("processes that stand in no pairs")
        if len(self.cell) not in self.looks:
            raise ValueError("measuring ended at no look")

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
        if self.timed_as:
            notes.append(f"= is the speed of {self.timed_as}: equal bytes are timed once")
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
        return math.exp(-stats.slowness(self.rates(phase)).mean)

    def vs_reference(self, phase: str) -> tuple[float, float, float] | None:
        """Return how many times the reference's speed, and the interval of 95 %."""
        return self._ratio(self.reference_rates(phase), phase)

    def vs_against(self, phase: str) -> tuple[float, float, float] | None:
        """Return how many times the old engine's speed, and the interval of 95 %."""
        return self._ratio(self.against_rates(phase), phase)

    def _ratio(self, before: tuple[float, ...], phase: str) -> tuple[float, float, float] | None:
        if not before:
            return None
        found = stats.slowdown(before, self.rates(phase))
        low, high = stats.interval(found)
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
