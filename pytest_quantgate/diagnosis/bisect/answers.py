"""What each candidate answered, kept so that a bisection that was ended goes on where it was."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from enum import Enum
from pathlib import Path

from pytest_quantgate.storage.atomic import read_json, write_json


class Kind(Enum):
    """What a candidate is."""

    GOOD = "good"
    BAD = "bad"
    SKIP = "skip"


@dataclass(frozen=True, kw_only=True)
class Answer:
    """One candidate's answer.

    ``shift`` is the relative change of perplexity from the good end, None where there is none;
    ``quantizer`` and ``runtime`` are the parts of it that the two-by-two gives to the file and to
    the kernels. ``seconds_s`` is what building and measuring took.
    """

    kind: Kind
    reason: str
    shift: float | None = None
    quantizer: float | None = None
    runtime: float | None = None
    seconds_s: float = 0.0

    @property
    def half(self) -> str:
        """The half of the engine that moved the cell, "" where that is not known."""
        if self.quantizer is None or self.runtime is None:
            return ""
        return "quantizer" if abs(self.quantizer) > abs(self.runtime) else "runtime"


class Answers:
    """The answers of one bisection in a file.

    Args:
        path: the file; its folder is made.
        question: what is asked: answers to another question are not read.

    """

    def __init__(self, path: Path, question: str) -> None:
        self._path = path
        self._question = question
        kept = read_json(path) or {}
        rows = kept.get("answers", {}) if kept.get("question") == question else {}
        self._answers = {
            name: Answer(**{**row, "kind": Kind(row["kind"])}) for name, row in rows.items()
        }

    def __contains__(self, candidate: str) -> bool:
        return candidate in self._answers

    def __getitem__(self, candidate: str) -> Answer:
        return self._answers[candidate]

    @property
    def kinds(self) -> Mapping[str, Kind]:
        """What each candidate is that was asked."""
        return {name: answer.kind for name, answer in self._answers.items()}

    @property
    def mean_seconds_s(self) -> float | None:
        """How long an answer took, None where none was needed yet."""
        took = [answer.seconds_s for answer in self._answers.values() if answer.seconds_s]
        return sum(took) / len(took) if took else None

    def put(self, candidate: str, answer: Answer) -> None:
        """Keep an answer."""
        self._answers[candidate] = answer
        self._path.parent.mkdir(parents=True, exist_ok=True)
        rows = {
            name: {**asdict(item), "kind": item.kind.value} for name, item in self._answers.items()
        }
        write_json(self._path, {"version": 1, "question": self._question, "answers": rows})
