"""MXFP4 and Q4_K in plain numpy, written from ggml-quants.c, and copies with one fault each.

The unmutated copies store the same bytes as the engine (tested), so that a fault injected here
is one that llama.cpp could have. A fault is a keyword of the constructor.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from pytest_quantgate.codecs.codec import CodecSpec

if TYPE_CHECKING:
    import numpy.typing as npt

    Float32Array = npt.NDArray[np.float32]
    Uint8Array = npt.NDArray[np.uint8]

F = np.float32
KVALUES = np.array([0, 1, 2, 3, 4, 6, 8, 12, 0, -1, -2, -3, -4, -6, -8, -12], dtype=F)


class ReferenceMxfp4:
    """MXFP4: ``quantize_row_mxfp4_ref`` and ``dequantize_row_mxfp4``.

    Faults: ``exponent`` is added to the stored exponent, ``decoded_exponent`` to the one that is
    decoded; ``half_up`` sends ties away from zero; ``swap_stored`` and ``swap_decoded`` exchange
    the nibbles; ``interleave`` stores neighbours in one byte, and decodes them so; ``table``
    replaces 6.
    """

    label = "reference"
    can_quantize = True

    def __init__(
        self,
        *,
        exponent: int = 0,
        decoded_exponent: int = 0,
        half_up: bool = False,
        swap_stored: bool = False,
        swap_decoded: bool = False,
        interleave: bool = False,
        largest: int = 12,
    ) -> None:
        self.spec = CodecSpec(name="MXFP4", block_elements=32, block_bytes=17)
        self.exponent = exponent
        self.decoded_exponent = decoded_exponent
        self.half_up = half_up
        self.swap_stored = swap_stored
        self.swap_decoded = swap_decoded
        self.interleave = interleave
        self.table = np.where(np.abs(KVALUES) == 12, np.sign(KVALUES) * largest, KVALUES).astype(F)

    @staticmethod
    def _half_scale(e: npt.NDArray[np.int64]) -> Float32Array:
        return np.ldexp(F(1), (e - 128).astype(np.int32)).astype(F)

    def quantize(self, rows: Float32Array, imatrix: Float32Array | None = None) -> Uint8Array:
        del imatrix
        x = rows.reshape(-1, 32).astype(F)
        amax = np.abs(x).max(axis=1)
        with np.errstate(all="ignore"):
            e = np.where(amax > 0, np.floor(np.log2(amax)) - 2 + 127 + self.exponent, 0)
        stored = e.astype(np.int64) & 255
        with np.errstate(all="ignore"):
            grid = KVALUES[None, None, :] * self._half_scale(stored)[:, None, None]
            distance = np.abs(grid - x[:, :, None])
        code = distance.argmin(axis=2)
        if self.half_up:
            magnitude = np.where(
                distance == distance.min(axis=2, keepdims=True), np.abs(KVALUES), -1
            )
            code = magnitude.argmax(axis=2)
        if self.interleave:
            low, high = code[:, 0::2], code[:, 1::2]
        else:
            low, high = code[:, :16], code[:, 16:]
        if self.swap_stored:
            low, high = high, low
        data = np.concatenate([stored[:, None], low | (high << 4)], axis=1)
        return data.astype(np.uint8).reshape(rows.shape[0], -1)

    def dequantize(self, data: Uint8Array) -> Float32Array:
        blocks = data.reshape(-1, 17)
        with np.errstate(all="ignore"):
            d = self._half_scale(blocks[:, 0].astype(np.int64) + self.decoded_exponent)
        low, high = blocks[:, 1:] & 15, blocks[:, 1:] >> 4
        if self.swap_decoded:
            low, high = high, low
        if self.interleave:
            code = np.stack([low, high], axis=2).reshape(-1, 32)
        else:
            code = np.concatenate([low, high], axis=1)
        with np.errstate(all="ignore"):
            return (self.table[code] * d[:, None]).astype(F).reshape(data.shape[0], -1)


def _nearest_int(x: Float32Array) -> npt.NDArray[np.int64]:
    return np.rint(x).astype(np.int64)


def _sum(x: Float32Array) -> Float32Array:
    """Sum the last axis in order, in float32, as the C loops do."""
    return np.asarray(np.cumsum(x, axis=-1, dtype=F)[..., -1])


def fit_sub_blocks(
    x: Float32Array, top: int = 15, rmin: float = -1.0, rdelta: float = 0.1, steps: int = 20
) -> tuple[Float32Array, Float32Array]:
    """``make_qkx2_quants`` with squared error for sub-blocks (n, 32): scales and minima (n,).

    As upstream, an accepted fit's minimum replaces the one that later trials start from.
    """
    weight = (np.sqrt(_sum(x * x) / F(32))[:, None] + np.abs(x)).astype(F)
    low, high = np.minimum(x.min(axis=1), F(0)), x.max(axis=1)
    flat = high == low
    span = np.where(flat, F(1), high - low).astype(F)
    sum_w, sum_x = _sum(weight), _sum(weight * x)
    iscale = (F(top) / span).astype(F)
    scale = (F(1) / iscale).astype(F)

    def codes(inverse: Float32Array) -> Float32Array:
        return np.clip(_nearest_int(inverse[:, None] * (x - low[:, None])), 0, top).astype(F)

    def error(code: Float32Array, s: Float32Array, m: Float32Array) -> Float32Array:
        diff = (s[:, None] * code + m[:, None] - x).astype(F)
        return _sum(weight * (diff * diff))

    best = error(codes(iscale), scale, low)
    for step in range(steps + 1):
        code = codes(((F(rmin) + F(rdelta) * F(step) + F(top)) / span).astype(F))
        sum_l, sum_l2 = _sum(weight * code), _sum(weight * code * code)
        sum_xl = _sum(weight * code * x)
        det = (sum_w * sum_l2 - sum_l * sum_l).astype(F)
        safe = np.where(det > 0, det, F(1))
        s = ((sum_w * sum_xl - sum_x * sum_l) / safe).astype(F)
        m = ((sum_l2 * sum_x - sum_l * sum_xl) / safe).astype(F)
        positive = m > 0
        s = np.where(positive, sum_xl / np.where(sum_l2 > 0, sum_l2, F(1)), s).astype(F)
        m = np.where(positive, F(0), m).astype(F)
        found = error(code, s, m)
        better = (det > 0) & (found < best)
        best = np.where(better, found, best)
        scale, low = np.where(better, s, scale).astype(F), np.where(better, m, low).astype(F)
        span = np.where(flat, F(1), high - low).astype(F)
    return np.where(flat, F(0), scale).astype(F), (-low).astype(F)


class ReferenceQ4K:
    """Q4_K: ``quantize_row_q4_K_ref`` and ``dequantize_row_q4_K``.

    Faults: ``exchange`` is the sub-block whose scale and minimum change places; ``shift`` by how
    much the high bits of scales 4 … 7 are shifted when packed (6); ``decode_from`` the byte offset
    that their high bits are read from (−4); ``truncate`` drops the fraction of a code;
    ``divisor`` divides the largest scale (63); ``floor_minimum`` rounds minima down;
    ``swap_group`` decodes one group's nibbles in the wrong order.
    """

    label = "reference"
    can_quantize = True

    def __init__(
        self,
        *,
        exchange: int | None = None,
        shift: int = 6,
        decode_from: int = -4,
        truncate: bool = False,
        divisor: float = 63.0,
        floor_minimum: bool = False,
        swap_group: int | None = None,
    ) -> None:
        self.spec = CodecSpec(name="Q4_K", block_elements=256, block_bytes=144)
        self.exchange = exchange
        self.shift = shift
        self.decode_from = decode_from
        self.truncate = truncate
        self.divisor = F(divisor)
        self.floor_minimum = floor_minimum
        self.swap_group = swap_group

    def _unpack(self, packed: npt.NDArray[np.int64]) -> tuple[npt.NDArray[np.int64], ...]:
        """``get_scale_min_k4``: (n, 12) to scales and minima (n, 8)."""
        low, middle, high = packed[:, :4], packed[:, 4:8], packed[:, 8:]
        scale_bits = {-4: low, 0: middle}[self.decode_from]
        scales = np.concatenate([low & 63, (high & 15) | ((scale_bits >> 6) << 4)], axis=1)
        minima = np.concatenate([middle & 63, (high >> 4) | ((middle >> 6) << 4)], axis=1)
        return scales, minima

    def quantize(self, rows: Float32Array, imatrix: Float32Array | None = None) -> Uint8Array:
        del imatrix
        with np.errstate(all="ignore"):
            return self._quantize(rows)

    def _quantize(self, rows: Float32Array) -> Uint8Array:
        x = rows.reshape(-1, 8, 32).astype(F)
        scale, minimum = (part.reshape(-1, 8) for part in fit_sub_blocks(x.reshape(-1, 32)))
        top_scale = np.maximum(scale.max(axis=1), F(0))
        top_minimum = np.maximum(minimum.max(axis=1), F(0))

        def six_bits(
            part: Float32Array, largest: Float32Array, down: bool
        ) -> npt.NDArray[np.int64]:
            inverse = np.where(largest > 0, F(63) / largest, F(0)).astype(F)
            scaled = np.nan_to_num((inverse[:, None] * part).astype(F))
            rounded = np.floor(scaled).astype(np.int64) if down else _nearest_int(scaled)
            return np.asarray(np.minimum(63, rounded & 255))

        ls = six_bits(scale, top_scale, down=False)
        lm = six_bits(minimum, top_minimum, down=self.floor_minimum)
        if self.exchange is not None:
            j = self.exchange
            ls[:, j], lm[:, j] = lm[:, j].copy(), ls[:, j].copy()
        packed = np.concatenate(
            [
                ls[:, :4] | ((ls[:, 4:] >> 4) << self.shift),
                lm[:, :4] | ((lm[:, 4:] >> 4) << 6),
                (ls[:, 4:] & 15) | ((lm[:, 4:] & 15) << 4),
            ],
            axis=1,
        )
        d = (top_scale / self.divisor).astype(np.float16)
        dmin = (top_minimum / F(63)).astype(np.float16)
        ls, lm = ReferenceQ4K()._unpack(packed)
        step = (d.astype(F)[:, None] * ls.astype(F))[:, :, None]
        offset = (dmin.astype(F)[:, None] * lm.astype(F))[:, :, None]
        level = np.where(step == 0, F(0), (x + offset) / step).astype(F)
        level = np.floor(level) if self.truncate else np.rint(level)
        code = np.clip(np.nan_to_num(level), 0, 15).astype(np.int64).reshape(-1, 4, 2, 32)
        nibbles = (code[:, :, 0] | (code[:, :, 1] << 4)).reshape(-1, 128)
        halves = np.stack([d, dmin], axis=1).view(np.uint8).reshape(-1, 4)
        data = np.concatenate([halves, packed.astype(np.uint8), nibbles.astype(np.uint8)], axis=1)
        return data.reshape(rows.shape[0], -1)

    def dequantize(self, data: Uint8Array) -> Float32Array:
        with np.errstate(all="ignore"):
            return self._dequantize(data)

    def _dequantize(self, data: Uint8Array) -> Float32Array:
        blocks = np.ascontiguousarray(data.reshape(-1, 144))
        halves = np.ascontiguousarray(blocks[:, :4]).view(np.float16).astype(F)
        scales, minima = self._unpack(blocks[:, 4:16].astype(np.int64))
        nibbles = blocks[:, 16:].reshape(-1, 4, 32)
        code = np.stack([nibbles & 15, nibbles >> 4], axis=2)
        if self.swap_group is not None:
            code[:, self.swap_group] = code[:, self.swap_group, ::-1].copy()
        step = (halves[:, :1] * scales.astype(F))[:, :, None]
        offset = (halves[:, 1:] * minima.astype(F))[:, :, None]
        values = step * code.reshape(-1, 8, 32).astype(F) - offset
        return values.astype(F).reshape(data.shape[0], -1)
