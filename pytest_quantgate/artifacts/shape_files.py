"""Files of shapes: planned without writing them, or written from a few quantized rows.

Every matrix takes its rows from a pool of rows of its length, in order, beginning at a place of
its own and starting over at the pool's end. llama.cpp quantizes each row by itself, so quantizing
the pool and repeating its rows gives, byte for byte, the file that quantizing the whole gives.
"""

from __future__ import annotations

import hashlib
import math
import tempfile
from collections.abc import Callable, Iterator, Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from pytest_quantgate.artifacts.file_hashes import FileHashes
from pytest_quantgate.artifacts.quantizing import override_numbers
from pytest_quantgate.artifacts.shapes import Shape
from pytest_quantgate.engines.engine import Engine
from pytest_quantgate.engines.messages import Encode, PlanQuantization
from pytest_quantgate.errors import CellUnsupported
from pytest_quantgate.gguf.formats import FILE_TYPES, TENSOR_TYPES, Format
from pytest_quantgate.gguf.reader import GgufFile, Tensor
from pytest_quantgate.gguf.writer import Buffer, write_gguf
from pytest_quantgate.storage.arrays import array_of
from pytest_quantgate.storage.atomic import read_json, write_json
from pytest_quantgate.storage.cache import Cache, Entry
from pytest_quantgate.storage.keys import key_of

Array = np.ndarray[Any, Any]

POOL_ROWS = 1021
"""Rows of a pool: a prime, so that one expert's rows begin elsewhere than the next one's."""

EncodeRows = Callable[[str, Array], Array]
"""Quantizes float32 rows (n, k) to a type of a name; uint8 (n, bytes)."""


@lru_cache(maxsize=2)
def _pool(row_length: int) -> Array:
    """Return pseudo-random rows, float16 of shape (POOL_ROWS, row_length), mean square 1/length."""
    random = np.random.default_rng(row_length)
    rows = random.standard_normal((POOL_ROWS, row_length), dtype=np.float32)
    return (rows / np.float32(math.sqrt(row_length))).astype(np.float16)


def _encoded_pool(row_length: int, type_name: str, encode: EncodeRows) -> Array:
    """Return the pool's rows as a type stores them: uint8 (POOL_ROWS, bytes of a row)."""
    rows = _pool(row_length)
    if type_name == "F16":
        return rows.view(np.uint8)
    wide = rows.astype(np.float32)
    if type_name == "F32":
        return wide.view(np.uint8)
    if type_name == "BF16":
        # ggml_compute_fp32_to_bf16: round to nearest, ties to even; no NaN is among the rows.
        bits = wide.view(np.uint32)
        upper = (bits + 0x7FFF + ((bits >> 16) & 1)) >> 16
        return np.ascontiguousarray(upper.astype(np.uint16)).view(np.uint8)
    return encode(type_name, wide)


def _vector(tensor: Tensor) -> bytes:
    """Return a norm's ones, or the zeros of a bias."""
    one = np.ones if tensor.name.endswith("_norm.weight") else np.zeros
    return one(tensor.n_elements, dtype=np.float32).tobytes()


def write_shape(path: Path, header: bytes, file: GgufFile, encode: EncodeRows) -> None:
    """Write a shape's file.

    Args:
        path: where to.
        header: its header's bytes.
        file: what the header says.
        encode: the engine's quantizer.

    """
    pools: dict[tuple[int, str], Array] = {}

    def data(tensor: Tensor) -> Iterator[Buffer]:
        if len(tensor.shape) == 1:
            yield _vector(tensor)
            return
        key = (tensor.shape[0], tensor.type.name)
        if key not in pools:
            pools[key] = _encoded_pool(*key, encode)
        place = int.from_bytes(hashlib.sha256(tensor.name.encode()).digest()[:4], "big")
        rows = np.roll(pools[key], -(place % POOL_ROWS), axis=0)
        whole, rest = divmod(math.prod(tensor.shape[1:]), POOL_ROWS)
        yield from [rows.data] * whole
        yield rows[:rest].data

    write_gguf(path, header, map(data, file.tensors))


class ShapeFiles:
    """Plans and writes the files of shapes.

    Args:
        cache: where plans and files are kept.

    """

    def __init__(self, cache: Cache) -> None:
        self._cache = cache
        self._identify = FileHashes(cache.hashes).path_identity

    def plan(self, shape: Shape, target: Format, engine: Engine) -> GgufFile:
        """Return what the file of a format would be: its exact bytes and each tensor's type.

        Raises:
            CellUnsupported: the engine cannot tell, or needs an importance matrix, which a shape
                has none of.
            CellError: the engine could not be asked.

        """
        return shape.file(self._types(shape, target, engine))

    def file(self, shape: Shape, target: Format, engine: Engine) -> Entry:
        """Return the file of a format, written if it is not in the cache.

        Raises:
            CellError: as :meth:`plan`.

        """
        types = self._types(shape, target, engine)

        def encode(type_name: str, rows: Array) -> Array:
            kind = TENSOR_TYPES[type_name]
            reply = engine.ask(
                Encode(
                    type_name=type_name,
                    rows=rows.tobytes(),
                    n_rows=rows.shape[0],
                    n_columns=rows.shape[1],
                    imatrix=b"",
                )
            )
            row_bytes = rows.shape[1] // kind.block_elements * kind.block_bytes
            return array_of(reply.data, np.uint8, len(rows), row_bytes)

        def make(path: Path) -> dict[str, Any]:
            write_shape(path, shape.header(target.file_type, types), shape.file(types), encode)
            return {"format": target.name}

        key = self._key(shape, target, engine, "shape")
        return self._cache.artifact(key, ".gguf", make, self._identify)

    def _key(self, shape: Shape, target: Format, engine: Engine, kind: str) -> str:
        return key_of(
            kind=kind,
            source=shape.sha256,
            file_type=target.file_type.number,
            overrides=target.overrides,
            quantizer=engine.identity().quantizer_sha256,
        )

    def _types(self, shape: Shape, target: Format, engine: Engine) -> Mapping[str, str] | None:
        """Return the tensors' types in a format; None for those of full precision."""
        if target.is_full_precision and target.name == FILE_TYPES["F16"].name:
            return None
        key = self._key(shape, target, engine, "plan")
        stored = self._cache.sub("plans") / f"{key}.json"
        plan = read_json(stored)
        if not isinstance(plan, dict):
            plan = self._ask(shape, target, engine)
            write_json(stored, plan)
        if plan["needs_imatrix"]:
            raise CellUnsupported(
                f"format {target.name} needs an importance matrix, and the shape {shape.name!r}"
                " has no activations to make one from"
            )
        types = dict(plan["types"])
        if list(types) != [name for name, _, _ in shape.tensors]:
            raise CellUnsupported(
                f"the engine's plan for {target.name} does not have the shape's tensors in their"
                " order: this llama.cpp writes files otherwise"
            )
        return types

    def _ask(self, shape: Shape, target: Format, engine: Engine) -> dict[str, Any]:
        # The dry run wants the file at its full length; most file systems store no zeros for it.
        with tempfile.TemporaryDirectory(dir=self._cache.sub("plans")) as folder:
            path = Path(folder) / "shape.gguf"
            with path.open("wb") as stream:
                stream.write(shape.header(FILE_TYPES["F16"]))
                stream.truncate(shape.file().n_bytes)
            reply = engine.ask(
                PlanQuantization(
                    source=str(path),
                    file_type=target.file_type.number,
                    overrides=override_numbers(target),
                    allow_requantize=False,
                )
            )
        return {"types": [list(row) for row in reply.types], "needs_imatrix": reply.needs_imatrix}
