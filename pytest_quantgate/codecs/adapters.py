"""Codecs behind the one contract: the engine's own, and gguf's Python code."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

import numpy as np

from pytest_quantgate.codecs.codec import CodecSpec

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pytest_quantgate.codecs.codec import Float32Array, Uint8Array
    from pytest_quantgate.engines.messages import NativeType


class CodecBackend(Protocol):
    """What quantizes by name: ``NativeCodecs`` in this process, or a worker's stand-in for it."""

    def types(self) -> Sequence[NativeType]:
        """Return the quantized types of the engine."""
        ...

    def type(self, name: str) -> NativeType:
        """Return one of them."""
        ...

    def quantize(
        self, name: str, rows: Float32Array, imatrix: Float32Array | None = None
    ) -> Uint8Array:
        """Quantize (n, k) to (n, bytes)."""
        ...

    def dequantize(self, name: str, data: Uint8Array) -> Float32Array:
        """Decode (n, bytes) to (n, k)."""
        ...


class NativeCodec:
    """One type of an engine. Where a type demands an importance matrix and none is given: ones."""

    label = "native"
    can_quantize = True

    def __init__(self, backend: CodecBackend, name: str) -> None:
        native_type = backend.type(name)
        self.backend = backend
        self.spec = CodecSpec(
            name=native_type.name,
            block_elements=native_type.block_elements,
            block_bytes=native_type.block_bytes,
            needs_imatrix=native_type.needs_imatrix,
        )

    def quantize(self, rows: Float32Array, imatrix: Float32Array | None = None) -> Uint8Array:
        """Quantize (n, k) to (n, bytes)."""
        if imatrix is None and self.spec.needs_imatrix:
            imatrix = np.ones(rows.shape[1], dtype=np.float32)
        return self.backend.quantize(self.spec.name, rows, imatrix)

    def dequantize(self, data: Uint8Array) -> Float32Array:
        """Decode (n, bytes) to (n, k)."""
        return self.backend.dequantize(self.spec.name, data)


class GgufCodec:
    """One type of the gguf package's ``quants`` module; it ignores importance matrices."""

    label = "gguf"

    def __init__(self, name: str) -> None:
        from gguf import GGML_QUANT_SIZES, GGMLQuantizationType  # noqa: PLC0415 - only here
        from gguf.quants import quantize  # noqa: PLC0415 - only here

        self._type = GGMLQuantizationType[name]
        elements, size = GGML_QUANT_SIZES[self._type]
        self.spec = CodecSpec(name=name, block_elements=elements, block_bytes=size)
        try:
            quantize(np.zeros((1, elements), dtype=np.float32), self._type)
        except NotImplementedError:
            self.can_quantize = False
        else:
            self.can_quantize = True

    def quantize(self, rows: Float32Array, imatrix: Float32Array | None = None) -> Uint8Array:  # noqa: ARG002 - the contract's
        """Quantize (n, k) to (n, bytes); raises ``NotImplementedError`` where gguf can't."""
        from gguf.quants import quantize  # noqa: PLC0415 - only here

        with np.errstate(all="ignore"):
            return np.asarray(quantize(rows, self._type), dtype=np.uint8)

    def dequantize(self, data: Uint8Array) -> Float32Array:
        """Decode (n, bytes) to (n, k)."""
        from gguf.quants import dequantize  # noqa: PLC0415 - only here

        with np.errstate(all="ignore"):
            return np.asarray(dequantize(data, self._type), dtype=np.float32)


def gguf_codec(name: str) -> GgufCodec | None:
    """Return gguf's codec of a type, None where this gguf has none."""
    from gguf import GGMLQuantizationType  # noqa: PLC0415 - only here
    from gguf.quants import dequantize  # noqa: PLC0415 - only here

    if name not in GGMLQuantizationType.__members__:
        return None
    codec = GgufCodec(name)
    try:
        dequantize(np.zeros((1, codec.spec.block_bytes), dtype=np.uint8), codec._type)
    except NotImplementedError:
        return None
    return codec
