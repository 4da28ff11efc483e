"""The control cell: the reference, which every device measures from the same file and text."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from pytest_quantgate.results.chunk_table import Shift
from pytest_quantgate.results.record import CellRecord

MOST_CHANGE = 0.0025
"""The largest relative change of the control's perplexity that is rounding.

Sound settings of one build are up to 0.17 % apart; this is the default limit of a regression, so
that two devices further apart would be taken for one.
"""


@dataclass(frozen=True, kw_only=True)
class Control:
    """How far a device is from another one in the control cell.

    ``shift`` is None where there is nothing to compare: the control was not measured on one of
    them, or not from the same file with the same tokens.
    """

    device: str
    against: str
    cell: str
    shift: Shift | None

    @property
    def is_comparable(self) -> bool:
        """Whether figures of both devices can be compared."""
        return self.shift is not None and abs(self.shift.change) <= MOST_CHANGE


def controls_of(cells: Sequence[CellRecord]) -> tuple[Control, ...]:
    """Hold the control of each device against that of the first one; ``cells`` share a model."""
    devices = tuple(dict.fromkeys(cell.device for cell in cells))
    references = {cell.device: cell for cell in cells if cell.is_reference and cell.ppl is not None}
    first = references.get(devices[0])
    return tuple(
        Control(
            device=device,
            against=devices[0],
            cell=cells[0].reference,
            shift=_shift(first, references.get(device)),
        )
        for device in devices[1:]
    )


def _shift(before: CellRecord | None, after: CellRecord | None) -> Shift | None:
    if before is None or after is None or before.tensor_data_sha256 != after.tensor_data_sha256:
        return None
    pair = after.chunks.paired(before.chunks).of_equal_tokens()
    return pair.shift()
