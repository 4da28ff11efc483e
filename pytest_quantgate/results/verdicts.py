"""Verdicts, and the evidence that each carries."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum, StrEnum
from typing import Any

from pydantic_core import core_schema

from pytest_quantgate.config.metrics import LIMITS


class VerdictKind(Enum):
    """What is said of a cell; the value is the word that a person reads."""

    PASS = "PASS"  # noqa: S105 # a verdict, not a password
    """Every limit is kept."""
    IMPROVED = "IMPROVED"
    """Better than the baseline by more than the limit."""
    MEASURED = "MEASURED"
    """Nothing to compare with was asked for, or none is stored and the run is not gated."""
    UNSUPPORTED = "UNSUPPORTED"
    """llama.cpp refuses the format or the request, and says why; a format that the profile lists
    as `optional` is skipped."""
    INCONCLUSIVE = "INCONCLUSIVE"
    """The text is too short to decide; the reason says how many chunks would."""
    CHANGED = "CHANGED"
    """Every limit is kept, but tensors have other types than the baseline's; red until accepted."""
    NO_BASELINE = "NO_BASELINE"
    """No baseline is stored, or the stored one is damaged."""
    NOT_COMPARABLE = "NOT_COMPARABLE"
    """The baseline is of another text, source or setting."""
    SUSPICIOUS = "SUSPICIOUS"
    """An equal file became better by more than four times the limit; red until accepted."""
    REGRESSED = "REGRESSED"
    """A limit is broken; the cause is named: the tokenizer, the quantizer, the importance matrix,
    the file's metadata or the runtime kernels."""
    INVALID = "INVALID"
    """A value is not finite."""
    UNAVAILABLE = "UNAVAILABLE"
    """A required device, file or interpreter is missing."""
    TIMEOUT = "TIMEOUT"
    """The worker process made no progress and was stopped."""
    CRASHED = "CRASHED"
    """The worker process died; every other cell goes on."""

    @property
    def is_green(self) -> bool:
        """Whether the verdict passes a test by itself."""
        return self in _GREEN


_GREEN = frozenset({VerdictKind.PASS, VerdictKind.IMPROVED, VerdictKind.MEASURED})
"""UNSUPPORTED is green only where a baseline or the profile says so: a skip, decided there."""

_SEVERITY = (
    VerdictKind.MEASURED,
    VerdictKind.PASS,
    VerdictKind.IMPROVED,
    VerdictKind.UNSUPPORTED,
    VerdictKind.CHANGED,
    VerdictKind.INCONCLUSIVE,
    VerdictKind.NO_BASELINE,
    VerdictKind.NOT_COMPARABLE,
    VerdictKind.SUSPICIOUS,
    VerdictKind.REGRESSED,
    VerdictKind.INVALID,
    VerdictKind.UNAVAILABLE,
    VerdictKind.TIMEOUT,
    VerdictKind.CRASHED,
)


class Against(StrEnum):
    """What a figure is judged against."""

    LIMIT = "limit"
    REFERENCE = "reference"
    BASELINE = "baseline"
    ANCHOR = "anchor"
    """The first accepted figure, from which drift is judged."""
    ORACLE = "oracle"
    CONDITIONS = "conditions"
    """The other conditions of a sweep."""
    SETTINGS = "settings"
    """The other settings of a noise measurement."""
    NOISE = "noise"
    """The noise of settings, above which a limit should be."""
    NOTHING = "nothing"

    @classmethod
    def _missing_(cls, value: object) -> Against | None:
        # Earlier records have the name of a limit that is below the noise.
        return cls.NOISE if value in LIMITS else None


class Fact:
    """One fact that a judgement rests on, with its figures; ``str`` gives its words."""


@dataclass(frozen=True)
class Stated(Fact):
    """What somebody else worded: an engine's message, or a record's reason."""

    text: str

    def __str__(self) -> str:
        return self.text


@dataclass(frozen=True)
class Reason:
    """Why a judgement came out as it did; its words are those of its facts."""

    facts: tuple[Fact, ...]

    def __str__(self) -> str:
        return "; ".join(map(str, self.facts))

    def also(self, fact: Fact | None) -> Reason:
        """Return the reason with one more fact; None adds nothing."""
        return self if fact is None else Reason((*self.facts, fact))

    @classmethod
    def __get_pydantic_core_schema__(cls, _source: Any, _handler: Any) -> Any:
        """Let a record hold the words alone."""
        return core_schema.no_info_after_validator_function(
            lambda text: cls((Stated(text),)),
            core_schema.str_schema(),
            serialization=core_schema.to_string_ser_schema(),
        )


@dataclass(frozen=True, kw_only=True)
class Judgement:
    """One metric against one limit.

    ``estimate``, ``low`` and ``high`` are relative changes (0.01 is +1 %) where ``against`` is
    the reference or the baseline, else in the metric's unit; ``low`` and ``high`` are the
    one-sided bounds that decided. ``more_chunks`` says how many more would probably decide.
    """

    metric: str
    against: Against
    verdict: VerdictKind
    reason: Reason
    estimate: float | None = None
    low: float | None = None
    high: float | None = None
    limit: float | None = None
    more_chunks: int | None = None


class CauseKind(Enum):
    """What moved a cell; the value is what a person reads."""

    TOKENIZER = "tokenizer"
    QUANTIZER = "quantizer"
    RUNTIME = "runtime kernels"
    QUANTIZER_AND_RUNTIME = "quantizer and runtime kernels"
    QUANTIZER_OR_CPU = "quantizer, or the kind of CPU that it ran on: the file was made elsewhere"
    OTHER_CPU = "not attributable: made on another kind of CPU"
    IMATRIX = "importance matrix: its values are not the baseline's"
    METADATA = "the file's metadata"
    MACHINE = "the machine's state, not the engine: file, libraries and processor are the same"
    NOT_REPRODUCIBLE = (
        "not reproducible: the same file, libraries, processor and batch gave other values"
    )
    DRIFTED = (
        "the sum of the changes that were accepted one by one; against the last accepted"
        " baseline the limit is kept"
    )
    WRONG_ENGINE = (
        "the engine does not compute what transformers does in float32; a baseline from it"
        " would bless the fault"
    )
    RECORDED = "as an earlier release recorded it"


@dataclass(frozen=True, kw_only=True)
class Cause:
    """What moved a cell, and what shows it.

    ``measured`` says how far the quantizer and the runtime move it each by itself, where both
    were exchanged one at a time.
    """

    kind: CauseKind
    evidence: tuple[str, ...] = ()
    measured: tuple[str, ...] = ()

    def __str__(self) -> str:
        evidence = f" ({'; '.join(self.evidence)})" if self.evidence else ""
        apart = f"; measured apart: {'; '.join(self.measured)}" if self.measured else ""
        return f"cause: {self.kind.value}{evidence}{apart}"


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """A cell's verdict with its evidence; ``cause`` says what moved it away from its baseline."""

    kind: VerdictKind
    reason: str
    judgements: tuple[Judgement, ...] = ()
    cause: Cause | None = None


def worst(kinds: list[VerdictKind]) -> VerdictKind:
    """Return the verdict that a cell gets from its judgements; IMPROVED wins over PASS."""
    return max(kinds, key=_SEVERITY.index, default=VerdictKind.MEASURED)
