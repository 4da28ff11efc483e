"""A failing example: what was put in, what came out, and the command that repeats it."""

from __future__ import annotations

import shlex
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from pytest_quantgate.codecs.origin import codec_options

if TYPE_CHECKING:
    from pytest_quantgate.codecs.codec import Codec, Float32Array, Uint8Array


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
        words = []
        for option, values in (("--values", self.rows), ("--imatrix", self.imatrix)):
            if values is not None:
                words += [option, np.ascontiguousarray(values, dtype="<f4").tobytes().hex()]
        if self.data is not None:
            words += ["--data", np.ascontiguousarray(self.data).tobytes().hex()]
        if self.limit is not None:
            words += ["--limit", repr(float(self.limit))]
        return words


@dataclass(kw_only=True, eq=False)
class Violation(AssertionError):
    """A property that does not hold on one block.

    All figures are of the ``element`` that fails: ``decoded`` is what the codec made of ``value``,
    and ``error`` its distance from ``expected``, or from ``value`` where nothing else is expected;
    ``bound`` is what was allowed. ``product`` stands in ``decoded``'s place for a kernel.
    ``block_hex`` is the block as stored; ``options`` are further arguments of the replay command.
    """

    property_name: str
    codec: Codec
    what: str
    case: Case = field(default_factory=Case)
    block: int = 0
    element: int | None = None
    value: float | None = None
    expected: float | None = None
    decoded: float | None = None
    product: float | None = None
    error: float | None = None
    bound: float | None = None
    block_hex: str = ""
    values: list[float] = field(default_factory=list)
    options: tuple[str, ...] = ()

    @property
    def type_name(self) -> str:
        """The quantized type."""
        return self.codec.spec.name

    @property
    def replay(self) -> str:
        """Return the shell command that checks this example again."""
        return shlex.join(
            [
                *("python", "-m", "pytest_quantgate.codecs.replay"),
                *codec_options(self.codec),
                *("--type", self.type_name, "--property", self.property_name),
                *self.case.arguments(),
                *self.options,
            ]
        )

    def __str__(self) -> str:
        lines = [f"{self.type_name} ({self.codec.label}): {self.property_name}: {self.what}"]
        if self.element is not None:
            lines.append(f"  block {self.block}, element {self.element}")
        for label in ("value", "expected", "decoded", "product", "error", "bound"):
            number = getattr(self, label)
            if number is not None:
                lines.append(f"  {label:9}{number:.9g}")
        if self.block_hex:
            lines.append(f"  block    {self.block_hex}")
        if self.values:
            lines.append(f"  values   {' '.join(f'{value:.9g}' for value in self.values)}")
        lines.append(f"  replay   {self.replay}")
        return "\n".join(lines)
