"""The engine's codecs with one fault each, for the properties that must notice it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from pytest_quantgate.codecs.adapters import NativeCodec

if TYPE_CHECKING:
    from pytest_quantgate.codecs.codec import Float32Array, Uint8Array


class ScaleTooLarge(NativeCodec):
    """Decodes with a scale that is a quarter too large."""

    def dequantize(self, data: Uint8Array) -> Float32Array:
        return super().dequantize(data) * np.float32(1.25)


class NeighboursExchanged(NativeCodec):
    """Decodes the first two elements of each block in each other's place."""

    def dequantize(self, data: Uint8Array) -> Float32Array:
        decoded = super().dequantize(data).reshape(-1, self.spec.block_elements).copy()
        decoded[:, :2] = decoded[:, 1::-1]
        return decoded.reshape(len(data), -1)


class LargestOverflows(NativeCodec):
    """Decodes the largest element to infinity."""

    def dequantize(self, data: Uint8Array) -> Float32Array:
        decoded = super().dequantize(data).copy()
        decoded[decoded == decoded.max()] = np.inf
        return decoded


class LastBitOff(NativeCodec):
    """Decodes positive values to their next float32."""

    def dequantize(self, data: Uint8Array) -> Float32Array:
        decoded = super().dequantize(data)
        return np.where(decoded > 0, np.nextafter(decoded, np.float32(np.inf)), decoded)


class ZeroIsTiny(NativeCodec):
    """Decodes zeros to something."""

    def dequantize(self, data: Uint8Array) -> Float32Array:
        decoded = super().dequantize(data)
        return np.where(decoded == 0, np.float32(1e-20), decoded)


class HalvesDown(NativeCodec):
    """Rounds values between two levels to the lower one."""

    def quantize(self, rows: Float32Array, imatrix: Float32Array | None = None) -> Uint8Array:
        below = np.nextafter(rows, np.float32(-np.inf))
        return super().quantize(np.where(np.abs(rows) < np.abs(rows).max(), below, rows), imatrix)


class ExponentOffAboveOne(NativeCodec):
    """Stores MXFP4's exponent one too high for blocks that exceed 1."""

    def quantize(self, rows: Float32Array, imatrix: Float32Array | None = None) -> Uint8Array:
        data = super().quantize(rows, imatrix).reshape(-1, self.spec.block_bytes).copy()
        largest = np.abs(rows).reshape(-1, self.spec.block_elements).max(axis=1)
        data[largest > 1, 0] += 1
        return data.reshape(len(rows), -1)


class BlocksLeak(NativeCodec):
    """Stores a last byte that depends on all blocks before."""

    def quantize(self, rows: Float32Array, imatrix: Float32Array | None = None) -> Uint8Array:
        data = super().quantize(rows, imatrix).reshape(-1, self.spec.block_bytes).copy()
        data[-1, -1] ^= data[:-1].sum() % 255
        return data.reshape(len(rows), -1)


class MatrixUpsideDown(NativeCodec):
    """Takes the reciprocal of an importance matrix."""

    def quantize(self, rows: Float32Array, imatrix: Float32Array | None = None) -> Uint8Array:
        return super().quantize(rows, None if imatrix is None else np.float32(1) / imatrix)


class MatrixNotIgnored(NativeCodec):
    """Multiplies with an importance matrix though the format ignores it."""

    def quantize(self, rows: Float32Array, imatrix: Float32Array | None = None) -> Uint8Array:
        return super().quantize(rows if imatrix is None else rows * imatrix)


class LastCodeOff(NativeCodec):
    """Stores another last code."""

    def quantize(self, rows: Float32Array, imatrix: Float32Array | None = None) -> Uint8Array:
        data = super().quantize(rows, imatrix).copy()
        data[:, -1] ^= 1
        return data
