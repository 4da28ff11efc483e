"""The question to a candidate: whether the cell is red, held against the good end in one run."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from pytest_quantgate.diagnosis.bisect.answers import Answer, Kind
from pytest_quantgate.diagnosis.bisect.builds import Builder, BuildFailed
from pytest_quantgate.errors import ConfigError
from pytest_quantgate.results.chunk_table import Shift
from pytest_quantgate.results.effects import Effects
from pytest_quantgate.results.record import CellRecord
from pytest_quantgate.results.record_file import read_record
from pytest_quantgate.results.verdicts import VerdictKind

_GOOD = frozenset({VerdictKind.PASS, VerdictKind.IMPROVED, VerdictKind.MEASURED})
_BAD = frozenset({VerdictKind.REGRESSED, VerdictKind.CHANGED, VerdictKind.INVALID})


@dataclass(frozen=True, kw_only=True)
class Question:
    """Measures one cell with a candidate and with the good end, and reads the verdict.

    The gate goes on to the end of the text while the bounds leave a cell undecided; what is
    undecided then is skipped. ``crash_is_bad`` says that a candidate whose process dies is bad, as
    the red cell that is looked into.

    Attributes:
        root: the project's folder.
        good: the good end's interpreter.
        builder: makes a candidate's.
        options: what chooses the cell, as ``--quant-formats=Q4_K_M``.
        test: which of the built-in suite's tests is red, as ``test_cell``.
        records: the folder of run records.
        crash_is_bad: see above.
        move_is_bad: what moved in any bit, the file or the figures, is bad, whatever the limits.

    """

    root: Path
    good: Path
    builder: Builder
    options: tuple[str, ...]
    records: Path
    test: str = "test_cell"
    crash_is_bad: bool = False
    move_is_bad: bool = False

    def ask(self, candidate: str) -> Answer:
        """Build a candidate and answer for it."""
        try:
            python = self.builder.python(candidate)
        except BuildFailed as error:
            return Answer(kind=Kind.SKIP, reason=f"cannot be built: {error}")
        record = self.records / f"{candidate}.json"
        record.parent.mkdir(parents=True, exist_ok=True)
        record.unlink(missing_ok=True)
        done = subprocess.run(
            self.command(python, record), cwd=self.root, capture_output=True, text=True, check=False
        )
        if not record.is_file():
            lines = (done.stderr.strip() or done.stdout.strip()).splitlines()
            raise ConfigError(f"pytest gave no record: {lines[-1] if lines else 'no output'}")
        cells = [cell for cell in read_record(record).cells if not cell.is_reference]
        cells = cells or list(read_record(record).cells)
        if len(cells) != 1:
            raise ConfigError(
                f"{len(cells)} cells were measured; a bisection asks about one: choose it with"
                " --model, --format, --text and --device"
            )
        answer = answer_of(cells[0], crash_is_bad=self.crash_is_bad)
        moved = _has_moved(cells[0].effects)
        if not self.move_is_bad or moved is None:
            return answer
        kind, words = (Kind.BAD, "moved") if moved else (Kind.GOOD, "the same in every bit")
        return replace(answer, kind=kind, reason=f"{words}. {answer.reason}")

    def command(self, python: Path, record: Path) -> Sequence[str]:
        """Return the command that holds an interpreter against the good end."""
        return [
            *(sys.executable, "-m", "pytest", f"quant-matrix::{self.test}", "-q"),
            *("-p", "no:cacheprovider", *self.options),
            *(f"--quant-engine=python={python}", f"--quant-against=python={self.good}"),
            f"--quant-report={record}",
        ]


def answer_of(cell: CellRecord, *, crash_is_bad: bool) -> Answer:
    """Return what a cell's verdict says of the candidate that measured it."""
    died = cell.kind in (VerdictKind.CRASHED, VerdictKind.TIMEOUT)
    kind = Kind.SKIP
    if cell.kind in _GOOD:
        kind = Kind.GOOD
    elif cell.kind in _BAD or (died and crash_is_bad):
        kind = Kind.BAD
    effects = cell.effects
    is_same_file = effects is not None and effects.is_same_file
    return Answer(
        kind=kind,
        reason=f"{cell.verdict}: {cell.reason.partition(chr(10))[0]}",
        shift=None if effects is None else _change(effects.together),
        quantizer=0.0 if is_same_file else None if effects is None else _change(effects.quantizer),
        runtime=None if effects is None else _change(effects.runtime),
    )


def _has_moved(effects: Effects | None) -> bool | None:
    """Return whether any bit of the file or the figures moved, None where that is not known."""
    if effects is None or effects.together is None:
        return None
    return not (effects.is_same_file and effects.together.is_identical)


def _change(shift: Shift | None) -> float | None:
    return None if shift is None else shift.change
