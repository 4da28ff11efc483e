"""What a codec is: the contract that every property is written against."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    Float32Array = npt.NDArray[np.float32]
    Float64Array = npt.NDArray[np.float64]
    Uint8Array = npt.NDArray[np.uint8]


@dataclass(frozen=True, kw_only=True)
class CodecSpec:
    """A quantized type's layout.

    ``name`` is upstream's name in capitals except the K-quants' suffix (``Q4_K``, ``MXFP4``).
    A block holds ``block_elements`` consecutive weights of a row in ``block_bytes`` bytes.
    """

    name: str
    block_elements: int
    block_bytes: int
    needs_imatrix: bool = False

    @property
    def bits_per_weight(self) -> float:
        """Bits of storage for one weight."""
        return 8.0 * self.block_bytes / self.block_elements


class Codec(Protocol):
    """Quantizes rows of float32 to bytes and back.

    Implemented by the engine's own code (in this process or in a worker), by gguf's Python code
    and, in this project's tests, by copies with one fault each.
    """

    @property
    def spec(self) -> CodecSpec:
        """The layout."""
        ...

    @property
    def label(self) -> str:
        """Which implementation this is, for messages: ``native`` or ``gguf``."""
        ...

    @property
    def can_quantize(self) -> bool:
        """Whether :meth:`quantize` exists (gguf only decodes most types)."""
        ...

    def quantize(self, rows: Float32Array, imatrix: Float32Array | None = None) -> Uint8Array:
        """Quantize ``rows`` (n, k), k a multiple of the block, to (n, k / elements · bytes).

        ``imatrix`` is one float32 weight a column, shape (k,).
        """
        ...

    def dequantize(self, data: Uint8Array) -> Float32Array:
        """Decode (n, bytes) to float32 (n, k)."""
        ...
