"""A failing example: what was put in, what came out, and the command that repeats it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import numpy.typing as npt

    Float32Array = npt.NDArray[np.float32]
    Uint8Array = npt.NDArray[np.uint8]


@dataclass(frozen=True, kw_only=True)
class Case:
    """One example: what a property is checked on.

    ``rows`` float32 (1, k) values to quantize; ``imatrix`` float32 (k,); ``data`` uint8
    (n, block bytes), arbitrary blocks; ``limit`` a property's own slack.
    """

    rows: Float32Array | None = None
    imatrix: Float32Array | None = None
    data: Uint8Array | None = None
    limit: float | None = None

    def arguments(self) -> list[str]:
        """Return the replay command's arguments: float32 values and bytes in hexadecimal."""
        found = []
        if self.rows is not None:
            found += ["--values", np.ascontiguousarray(self.rows, dtype="<f4").tobytes().hex()]
        if self.imatrix is not None:
            found += ["--imatrix", np.ascontiguousarray(self.imatrix, dtype="<f4").tobytes().hex()]
        if self.data is not None:
            found += ["--data", np.ascontiguousarray(self.data).tobytes().hex()]
        if self.limit is not None:
            found += ["--limit", repr(float(self.limit))]
        return found


@dataclass
class Violation(AssertionError):
    """A property that does not hold on one block.

    ``value`` and ``decoded`` are of the ``element`` that fails, ``bound`` what was allowed there
    and ``error`` what was found; ``block_hex`` the block as stored; ``options`` are further
    arguments of the replay command.
    """

    property_name: str
    type_name: str
    codec: str
    what: str
    case: Case
    block: int = 0
    element: int | None = None
    value: float | None = None
    decoded: float | None = None
    bound: float | None = None
    error: float | None = None
    block_hex: str = ""
    values: list[float] = field(default_factory=list)
    options: tuple[str, ...] = ()

    @property
    def replay(self) -> str:
        """Return the shell command that checks this example again."""
        return " ".join(
            [
                "python -m pytest_quantgate.codecs.replay",
                f"--codec {self.codec} --type {self.type_name} --property {self.property_name}",
                *self.case.arguments(),
                *self.options,
            ]
        )

    def __str__(self) -> str:
        lines = [f"{self.type_name} ({self.codec}): {self.property_name}: {self.what}"]
        if self.element is not None:
            lines.append(f"  block {self.block}, element {self.element}")
        for label, number in (
            ("value", self.value),
            ("decoded", self.decoded),
            ("error", self.error),
            ("bound", self.bound),
        ):
            if number is not None:
                lines.append(f"  {label:8}{number:.9g}")
        if self.block_hex:
            lines.append(f"  block   {self.block_hex}")
        if self.values:
            lines.append(f"  values  {' '.join(f'{value:.9g}' for value in self.values)}")
        lines.append(f"  replay  {self.replay}")
        return "\n".join(lines)
