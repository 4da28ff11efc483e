"""What was found of each mutant of benchmarks/mutants.py, and the table of all."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from mutant_list import Expected, Mutant

from pytest_quantgate.results.record import CellRecord
from pytest_quantgate.results.verdicts import CauseKind, VerdictKind

MUCH_WORSE = 2.0
"""How many times the sound perplexity counts as failing llama.cpp's check, which wants less than
20 of a model that has about 10."""

_CAUSES = {
    Expected.QUANTIZER: {CauseKind.QUANTIZER.value},
    Expected.RUNTIME: {CauseKind.RUNTIME.value},
    Expected.TOKENIZER: {CauseKind.TOKENIZER.value},
}


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """One mutant's line of the output.

    ``verdicts`` are by cell; ``causes`` those of red cells, ``metrics`` what was red in them.
    ``is_bit_equal`` says that no cell differs from the sound build's in any bit of its file, of
    its chunks' sums or of the divergences between batches. ``located`` is the operation in which
    a mutant of the runtime first differs, "" for none.
    """

    name: str
    what: str
    place: str
    edit: str
    expected: str
    resembles: str
    why_harmless: str
    verdicts: dict[str, str]
    causes: list[str]
    metrics: list[str]
    reason: str
    is_bit_equal: bool
    ppl_ratio: float
    failed_tests: str
    other_texts: list[str]
    located: str = ""
    problem: str = ""
    build_s: float = 0.0
    seconds_s: float = 0.0

    @classmethod
    def of_problem(cls, mutant: Mutant, line: int, problem: str) -> Outcome:
        """Return the outcome of a mutant that could not be built or asked about."""
        empty: dict[str, Any] = {
            "verdicts": {},
            "causes": [],
            "metrics": [],
            "other_texts": [],
            "reason": "",
            "is_bit_equal": False,
            "ppl_ratio": 1.0,
            "failed_tests": "",
        }
        return cls(**_about(mutant, line), **empty, problem=problem)

    @classmethod
    def of_cells(
        cls, mutant: Mutant, line: int, cells: Sequence[CellRecord], **measured: Any
    ) -> Outcome:
        """Return the outcome of a mutant whose cells were judged."""
        red = [cell for cell in cells if cell.is_red]
        causes = [cell.cause.kind.value for cell in red if cell.cause is not None]
        metrics = [
            judgement.metric
            for cell in red
            for judgement in cell.judgements
            if not judgement.verdict.is_green
        ]
        return cls(
            **_about(mutant, line),
            verdicts={cell.id: cell.verdict for cell in cells},
            causes=sorted(set(causes)),
            metrics=sorted(set(metrics)),
            reason=red[0].reason if red else "",
            **measured,
        )

    @classmethod
    def read_all(cls, path: Path) -> list[Outcome]:
        """Return the outcomes of a file, the last of each mutant; none where there is no file."""
        if not path.exists():
            return []
        names = {field.name for field in fields(cls)}
        lines = path.read_text(encoding="utf-8").splitlines()
        rows = [json.loads(line) for line in lines if line]
        last = {row["name"]: {key: row[key] for key in names & row.keys()} for row in rows}
        return [cls(**row) for row in last.values()]

    @property
    def red(self) -> list[str]:
        """The verdicts that fail a run."""
        return [kind for kind in self.verdicts.values() if not VerdictKind(kind).is_green]

    @property
    def is_equivalent(self) -> bool:
        """Whether it is no fault: it was said beforehand why, or no bit differs."""
        return bool(self.why_harmless) or (self.is_bit_equal and not self.red)

    @property
    def has_right_cause(self) -> bool:
        """Whether the gate names the half of llama.cpp that the fault is in.

        What is red between batches of one build alone needs no cause: it is the kernels'.
        """
        expected = Expected(self.expected)
        if expected is Expected.CRASH:
            return VerdictKind.CRASHED.value in self.red
        causes = set(self.causes)
        if not causes and self.metrics == ["batches"]:
            return expected is Expected.RUNTIME
        return causes == _CAUSES.get(expected)

    @property
    def is_right(self) -> bool:
        """Whether the gate says what it should."""
        if self.problem:
            return False
        return not self.red if self.is_equivalent else bool(self.red) and self.has_right_cause

    @property
    def short(self) -> str:
        """What the gate says, in one line."""
        if self.problem:
            return f"not run: {self.problem}"
        if not self.red:
            return "green, no bit differs" if self.is_bit_equal else "green"
        causes = ", ".join(self.causes) or "no cause"
        return f"{len(self.red)} of {len(self.verdicts)} red: {', '.join(self.metrics)}; {causes}"


def _about(mutant: Mutant, line: int) -> dict[str, Any]:
    return {
        "name": mutant.name,
        "what": mutant.what,
        "place": f"{Path(mutant.edit.file).name}:{line}",
        "edit": f"{mutant.edit.old} → {mutant.edit.new}",
        "expected": mutant.expected.value,
        "resembles": mutant.resembles,
        "why_harmless": mutant.why_harmless,
    }


def table(outcomes: Sequence[Outcome]) -> str:
    """Return a Markdown table of all mutants, and the counts."""
    rows = [
        "| mutant | place | the gate | first operation | quantization test | PPL | same text |",
        "|---|---|---|---|---|---|---|",
    ]
    for item in outcomes:
        mark = "" if item.is_right else " (MISSED)"
        resembles = f" ({item.resembles})" if item.resembles else ""
        rows.append(
            f"| {item.what}{resembles} | {item.place} | {item.short}{mark} |"
            f" {item.located.partition(' (')[0] or '–'} | {item.failed_tests or '–'} |"
            f" {item.ppl_ratio:.3g} × | {'no' if item.other_texts else 'yes'} |"
        )
    return "\n".join([*rows, "", *counts(outcomes)])


def counts(outcomes: Sequence[Outcome]) -> list[str]:
    """Return how many faults the gate and each of llama.cpp's checks show."""
    harmless = [item for item in outcomes if item.is_equivalent]
    faults = [item for item in outcomes if not item.is_equivalent]
    red = [item for item in faults if item.red]
    return [
        f"{len(outcomes)} mutants, {len(harmless)} of them equivalent: "
        f"{sum(not item.red for item in harmless)} of those green.",
        f"{len(faults)} faults: {len(red)} red, {sum(item.is_right for item in faults)} of them"
        " with the right cause.",
        f"Quantization test fails in {sum(bool(item.failed_tests) for item in faults)}, perplexity"
        f" more than {MUCH_WORSE:g} times the sound one in"
        f" {sum(not item.ppl_ratio <= MUCH_WORSE for item in faults)}, another text in"
        f" {sum(bool(item.other_texts) for item in faults)}.",
    ]
