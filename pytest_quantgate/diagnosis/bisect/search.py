"""The search itself: ask the bad end, then whatever the history offers, until one is left."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, replace

from pytest_quantgate.diagnosis.bisect.answers import Answer, Answers, Kind
from pytest_quantgate.diagnosis.bisect.histories import History, Step
from pytest_quantgate.errors import ConfigError

Ask = Callable[[str], Answer]
"""Builds a candidate and holds it against the good end."""


@dataclass(frozen=True, kw_only=True)
class Bisection:
    """What was found: one suspect is the first bad; of several the others could not be asked.

    ``before`` is the answer of the last good one that was asked, None where that is the good end.
    """

    suspects: tuple[str, ...]
    before: Answer | None
    after: Answer
    asked: int


def bisect(
    history: History,
    ask: Ask,
    answers: Answers,
    tell: Callable[[Step, float | None], None] = lambda _step, _seconds_s: None,
) -> Bisection:
    """Find the first bad candidate.

    Args:
        history: what lies between both ends.
        ask: answers for one candidate.
        answers: those that are known, to which others are added.
        tell: is told before each question what is left, and how many seconds an answer takes.

    Raises:
        ConfigError: the bad end is not bad, or the good end is.

    """
    # A limit that the good end breaks too, such as a distance from the reference, tells nothing.
    asked = _ask(history.good, ask, answers)
    start = answers[history.good]
    if start.kind is Kind.BAD:
        raise ConfigError(
            f"{history.describe(history.good)}, the good end, is bad itself ({start.reason}); name"
            " a good end that is green, or raise the limit that it breaks"
        )
    asked += _ask(history.bad, ask, answers)
    end = answers[history.bad]
    if end.kind is not Kind.BAD:
        raise ConfigError(
            f"{history.describe(history.bad)} is not bad but {end.kind.value} ({end.reason}); name"
            " a bad end under which the cell is red"
        )
    while True:
        step = history.step(answers.kinds)
        if step.candidate is None:
            break
        tell(step, answers.mean_seconds_s)
        asked += _ask(step.candidate, ask, answers)
    return Bisection(
        suspects=step.suspects,
        before=_last_good(history, answers),
        after=answers[step.suspects[-1]],
        asked=asked,
    )


def _ask(candidate: str, ask: Ask, answers: Answers) -> int:
    """Ask a candidate unless its answer is known; return how many were asked."""
    if candidate in answers:
        return 0
    started_s = time.monotonic()
    answer = ask(candidate)
    answers.put(candidate, replace(answer, seconds_s=time.monotonic() - started_s))
    return 1


def _last_good(history: History, answers: Answers) -> Answer | None:
    """Return the answer of the good candidate that was asked last: nothing later is good."""
    good = [
        name for name, kind in answers.kinds.items() if kind is Kind.GOOD and name != history.good
    ]
    return answers[good[-1]] if good else None
