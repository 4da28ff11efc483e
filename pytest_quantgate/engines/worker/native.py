"""ggml's own quantizers and kernels, called through ctypes.

Runs inside a worker: imports the standard library and numpy only. llama_cpp is asked for nothing
but the folder of its libraries. Calls that abort the process are refused here with a
``ValueError``: types that ``ggml_quantize_chunk`` has no case for (Q8_1, Q8_K), rows that are no
multiple of the block, a missing importance matrix (``ggml_quantize_requires_imatrix``), and values
beyond what the IQ2 and IQ3 searches survive (``GGML_ASSERT(grid_index >= 0)``).
"""

from __future__ import annotations

import ctypes
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from pytest_quantgate.engines.messages import NativeType

if TYPE_CHECKING:
    import numpy.typing as npt

# ggml.h, enum ggml_type: the numbers are part of the file format and never change.
TYPE_IDS: dict[str, int] = {
    "Q4_0": 2,
    "Q4_1": 3,
    "Q5_0": 6,
    "Q5_1": 7,
    "Q8_0": 8,
    "Q2_K": 10,
    "Q3_K": 11,
    "Q4_K": 12,
    "Q5_K": 13,
    "Q6_K": 14,
    "IQ2_XXS": 16,
    "IQ2_XS": 17,
    "IQ3_XXS": 18,
    "IQ1_S": 19,
    "IQ4_NL": 20,
    "IQ3_S": 21,
    "IQ2_S": 22,
    "IQ4_XS": 23,
    "IQ1_M": 29,
    "TQ1_0": 34,
    "TQ2_0": 35,
    "MXFP4": 39,
    "NVFP4": 40,
    "Q1_0": 41,
    "Q2_0": 42,
}
"""Quantized types that ``ggml_quantize_chunk`` handles, with their numbers."""


GRID_SEARCH_MAX = 2.0**32
"""IQ2_XS, IQ2_S, IQ3_XXS and IQ3_S abort on NaN, on infinity and somewhere above 1e12."""


class TypeTraits(ctypes.Structure):
    """``struct ggml_type_traits`` of ggml.h."""

    _fields_ = [
        ("type_name", ctypes.c_char_p),
        ("blck_size", ctypes.c_int64),
        ("blck_size_interleave", ctypes.c_int64),
        ("type_size", ctypes.c_size_t),
        ("is_quantized", ctypes.c_bool),
        ("to_float", ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int64)),
        ("from_float_ref", ctypes.c_void_p),
    ]


def library_folder() -> Path:
    """Return the folder of the installed llama-cpp-python's libraries.

    Raises ``FileNotFoundError`` if llama_cpp is not installed.
    """
    spec = find_spec("llama_cpp")
    if spec is None or spec.origin is None:
        raise FileNotFoundError("llama_cpp is not installed: pip install llama-cpp-python")
    return Path(spec.origin).parent / "lib"


def load_library(folder: Path, stem: str) -> ctypes.CDLL:
    """Load ``lib<stem>`` from ``folder``; raises ``FileNotFoundError`` naming what was tried."""
    names = {
        "linux": [f"lib{stem}.so"],
        "darwin": [f"lib{stem}.dylib", f"lib{stem}.so"],
        "win32": [f"{stem}.dll", f"lib{stem}.dll"],
    }.get(sys.platform, [f"lib{stem}.so"])
    for name in names:
        path = folder / name
        if path.exists():
            return ctypes.CDLL(str(path))
    raise FileNotFoundError(f"{folder} has none of {', '.join(names)}")


class NativeCodecs:
    """The quantizers of the engine whose libraries are in ``folder`` (llama_cpp's if None)."""

    def __init__(self, folder: Path | str | None = None) -> None:
        self.folder = library_folder() if folder is None else Path(folder)
        base = load_library(self.folder, "ggml-base")
        base.ggml_type_name.restype = ctypes.c_char_p
        base.ggml_type_name.argtypes = [ctypes.c_int]
        base.ggml_blck_size.restype = ctypes.c_int64
        base.ggml_blck_size.argtypes = [ctypes.c_int]
        base.ggml_type_size.restype = ctypes.c_size_t
        base.ggml_type_size.argtypes = [ctypes.c_int]
        base.ggml_quantize_init.restype = None
        base.ggml_quantize_init.argtypes = [ctypes.c_int]
        base.ggml_quantize_requires_imatrix.restype = ctypes.c_bool
        base.ggml_quantize_requires_imatrix.argtypes = [ctypes.c_int]
        base.ggml_quantize_chunk.restype = ctypes.c_size_t
        base.ggml_quantize_chunk.argtypes = [
            ctypes.c_int,
            ctypes.c_void_p,
            ctypes.c_void_p,
            ctypes.c_int64,
            ctypes.c_int64,
            ctypes.c_int64,
            ctypes.c_void_p,
        ]
        base.ggml_get_type_traits.restype = ctypes.POINTER(TypeTraits)
        base.ggml_get_type_traits.argtypes = [ctypes.c_int]
        self._base = base
        self._types = {row.name: row for row in self._find_types()}

    def _find_types(self) -> list[NativeType]:
        """List the types this build can quantize.

        A build without a type doesn't export its ``quantize_<type>``; asking its type table beyond
        its end would read foreign memory, so the export decides.
        """
        types = []
        for name, type_id in TYPE_IDS.items():
            symbol = name.lower()[:-1] + "K" if name.endswith("_K") else name.lower()
            if not hasattr(self._base, f"quantize_{symbol}"):
                continue
            reported = self._base.ggml_type_name(type_id)
            if reported is None or reported.decode().lower() != name.lower():
                continue
            types.append(
                NativeType(
                    name=name,
                    type_id=type_id,
                    block_elements=int(self._base.ggml_blck_size(type_id)),
                    block_bytes=int(self._base.ggml_type_size(type_id)),
                    needs_imatrix=bool(self._base.ggml_quantize_requires_imatrix(type_id)),
                )
            )
        return types

    def types(self) -> list[NativeType]:
        """Return the quantized types of this engine."""
        return list(self._types.values())

    def type(self, name: str) -> NativeType:
        """Return one type; raises ``ValueError`` naming the valid ones."""
        try:
            return self._types[name]
        except KeyError:
            valid = ", ".join(self._types)
            raise ValueError(
                f"this engine has no quantized type {name!r}; it has {valid}"
            ) from None

    def quantize(
        self,
        name: str,
        rows: npt.NDArray[np.float32],
        imatrix: npt.NDArray[np.float32] | None = None,
    ) -> npt.NDArray[np.uint8]:
        """Quantize ``rows`` (n, k) float32; ``imatrix`` (k,) float32. Returns uint8 (n, bytes)."""
        kind = self.type(name)
        source = np.ascontiguousarray(rows, dtype=np.float32)
        if source.ndim != 2 or source.shape[1] == 0 or source.shape[1] % kind.block_elements:
            raise ValueError(
                f"{name} takes rows of a multiple of {kind.block_elements} values, "
                f"not an array of shape {source.shape}"
            )
        if name.startswith(("IQ2", "IQ3")) and not (np.abs(source) <= GRID_SEARCH_MAX).all():
            raise ValueError(
                f"{name} aborts the process on values that are not finite or above 1e12; "
                f"valid here is up to {GRID_SEARCH_MAX:g}"
            )
        n_rows, n_columns = source.shape
        weights = None
        if imatrix is not None:
            weights = np.ascontiguousarray(imatrix, dtype=np.float32)
            if weights.shape != (n_columns,):
                raise ValueError(
                    f"the importance matrix has shape {weights.shape}, valid is ({n_columns},)"
                )
            if not (np.isfinite(weights) & (weights >= 0)).all():
                raise ValueError("an importance matrix holds finite numbers from 0 up")
        elif kind.needs_imatrix:
            raise ValueError(f"{name} can't be quantized without an importance matrix")
        row_bytes = n_columns // kind.block_elements * kind.block_bytes
        data = np.zeros((n_rows, row_bytes), dtype=np.uint8)
        if n_rows == 0:
            return data
        self._base.ggml_quantize_init(kind.type_id)
        written = self._base.ggml_quantize_chunk(
            kind.type_id,
            source.ctypes.data,
            data.ctypes.data,
            0,
            n_rows,
            n_columns,
            None if weights is None else weights.ctypes.data,
        )
        if written != data.nbytes:
            raise RuntimeError(f"{name}: ggml wrote {written} bytes of {data.nbytes}")
        return data

    def dequantize(self, name: str, data: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
        """Decode ``data`` uint8 (n, bytes) to float32 (n, k) through ``to_float``."""
        kind = self.type(name)
        source = np.ascontiguousarray(data, dtype=np.uint8)
        if source.ndim != 2 or source.shape[1] % kind.block_bytes:
            raise ValueError(
                f"{name} has blocks of {kind.block_bytes} bytes, got an array of {source.shape}"
            )
        n_columns = source.shape[1] // kind.block_bytes * kind.block_elements
        rows = np.empty((source.shape[0], n_columns), dtype=np.float32)
        if rows.size == 0:
            return rows
        self._base.ggml_quantize_init(kind.type_id)
        traits = self._base.ggml_get_type_traits(kind.type_id).contents
        traits.to_float(source.ctypes.data, rows.ctypes.data, rows.size)
        return rows
