"""Which half of an engine moved a cell: the two-by-two of quantizer and runtime."""

from __future__ import annotations

from dataclasses import dataclass

from pytest_quantgate.results.chunk_table import Shift
from pytest_quantgate.results.verdicts import CauseKind


@dataclass(frozen=True, kw_only=True)
class Effects:
    """The two-by-two of quantizer and runtime, each against both old.

    ``quantizer`` is the new engine's file on the old runtime, ``runtime`` the old file on the
    new one, ``together`` both new; ``left_over`` is what the first two do not add up to. None is
    what was not measured. ``is_same_file`` says that both quantizers made the same bytes: all of
    it is the runtime.
    """

    is_same_file: bool
    quantizer: Shift | None
    runtime: Shift | None
    together: Shift | None
    left_over: Shift | None

    @property
    def cause(self) -> CauseKind | None:
        """The half that moved the values, None where that was not measured or nothing moved."""
        if self.is_same_file or self.quantizer is None or self.runtime is None:
            return None
        moved = (not self.quantizer.is_identical, not self.runtime.is_identical)
        return _HALVES.get(moved)


_HALVES = {
    (True, False): CauseKind.QUANTIZER,
    (False, True): CauseKind.RUNTIME,
    (True, True): CauseKind.QUANTIZER_AND_RUNTIME,
}
