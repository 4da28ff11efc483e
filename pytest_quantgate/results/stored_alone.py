"""What baselines have and a run did not compare: never silently so."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum


class StoredPart(Enum):
    """What of the baselines had no counterpart in the run; the value is what a person reads."""

    CELLS = "baselines that no profile of the configuration looks up"
    LEFT_OUT = "baselines of cells that no test of this run judged (-k, a skip, a hook)"
    SPEED = "stored speeds, since the profile measures none (speed = false)"
    MEMORY = "stored memory, since the profile measures none (memory = false)"


@dataclass(frozen=True, kw_only=True)
class StoredAlone:
    """Baselines, or a section of those of judged cells, that the run held nothing against.

    ``names`` are files below the baselines' folder, or the cells' ids.
    """

    what: StoredPart
    names: tuple[str, ...]
