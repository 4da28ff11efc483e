"""What stands in a measurement's place where a cell has nothing of the kind."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Absent:
    """Why a cell has nothing of a metric.

    ``is_natural`` where it cannot have any by what it is, as a reference has no difference from
    itself: nobody misses it. Else a limit that a test sets by name is UNSUPPORTED, and
    ``is_noted`` tells whether a run says aloud that what its profile asks for was not judged.
    """

    reason: str
    is_natural: bool = False
    is_noted: bool = True
