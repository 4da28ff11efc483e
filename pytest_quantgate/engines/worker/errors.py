"""What can be wrong with an engine, as the worker says it.

Runs on the parent's side too: standard library.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

_SAYS_NO_REASON = re.compile(
    r"(failed to load model( from .*)?"
    r"|failed to read (header|key-value pairs|tensor info|tensor data))$"
)
_MOST_REASONS = 3


def join_reasons(lines: Sequence[str]) -> str:
    """Return the errors of a log as one line: those that give a reason, the first ones first.

    llama.cpp ends a failed load with lines that only say so; "" where there is no line at all.
    """
    errors = [line.strip() for line in lines if re.search(r"\w", line)]
    reasons = [line for line in errors if not _SAYS_NO_REASON.search(line)] or errors[:1]
    return "; ".join(dict.fromkeys(reasons[:_MOST_REASONS]))


class EngineRefusal(Exception):
    """llama.cpp answered that it cannot do what it was asked; the text says what."""


class KeptDamaged(Exception):
    """A kept file is not what was written; the text says which, and what to do."""


class EngineUnusable(ImportError):
    """The interpreter's llama-cpp-python cannot be used; one line says why, and what to do.

    An ImportError, so that the first lines of a worker, which know none of its modules, can tell it
    from a fault in these. ``command`` is what to type next, "" where the text says all.
    """

    def __init__(self, problem: str, *, command: str = "") -> None:
        super().__init__(problem)
        self.command = command
