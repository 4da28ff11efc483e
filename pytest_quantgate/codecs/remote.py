"""The engine's codecs in its worker process, so that a crash of one is a verdict."""

from __future__ import annotations

from functools import cached_property
from typing import TYPE_CHECKING, TypedDict

import numpy as np

from pytest_quantgate.engines.messages import Decode, Encode, ListCodecs, MatMul, NativeType, VecDot
from pytest_quantgate.errors import CellUnsupported
from pytest_quantgate.storage.arrays import array_of

if TYPE_CHECKING:
    import numpy.typing as npt

    from pytest_quantgate.engines.engine import Engine


class _Rows(TypedDict):
    type_name: str
    data: bytes
    n_rows: int
    row_bytes: int


def _rows(name: str, data: npt.NDArray[np.uint8]) -> _Rows:
    """Return what a request says of quantized rows, uint8 (n, bytes)."""
    return _Rows(type_name=name, data=data.tobytes(), n_rows=data.shape[0], row_bytes=data.shape[1])


class WorkerCodecs:
    """Offers what ``NativeCodecs`` and ``NativeKernels`` do, in the worker.

    Every call may raise a :class:`~pytest_quantgate.errors.CellError`, and ``ValueError`` where
    the values or the type are wrong.
    """

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self.python: str | None = getattr(engine, "python", None)
        """The engine's interpreter, None where it is this one."""

    @cached_property
    def _types(self) -> dict[str, NativeType]:
        return {row.name: row for row in self._engine.ask(ListCodecs()).types}

    def types(self) -> list[NativeType]:
        """Return the quantized types of the engine."""
        return list(self._types.values())

    def type(self, name: str) -> NativeType:
        """Return one type; raises ``CellUnsupported`` where the engine has it not."""
        if name not in self._types:
            raise CellUnsupported(f"this engine has no quantized type {name}")
        return self._types[name]

    def quantize(
        self,
        name: str,
        rows: npt.NDArray[np.float32],
        imatrix: npt.NDArray[np.float32] | None = None,
    ) -> npt.NDArray[np.uint8]:
        """Quantize ``rows`` (n, k) float32; ``imatrix`` (k,) float32. Returns uint8 (n, bytes)."""
        source = np.ascontiguousarray(rows, dtype=np.float32)
        if source.ndim != 2:
            raise ValueError(f"rows of shape {source.shape}; give two dimensions")
        weights = b"" if imatrix is None else np.asarray(imatrix, dtype=np.float32).tobytes()
        reply = self._engine.ask(
            Encode(
                type_name=name,
                rows=source.tobytes(),
                n_rows=source.shape[0],
                n_columns=source.shape[1],
                imatrix=weights,
            )
        )
        found = self.type(name)
        row_bytes = source.shape[1] // found.block_elements * found.block_bytes
        return array_of(reply.data, np.uint8, len(source), row_bytes)

    def dequantize(self, name: str, data: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
        """Decode ``data`` uint8 (n, bytes) to float32 (n, k)."""
        source = np.ascontiguousarray(data, dtype=np.uint8)
        found = self.type(name)
        reply = self._engine.ask(Decode(**_rows(name, source)))
        columns = source.shape[1] // found.block_bytes * found.block_elements
        return array_of(reply.data, np.float32, len(source), columns)

    def devices(self) -> list[str]:
        """Return the names of the engine's devices, such as ``CPU`` and ``CUDA0``."""
        return list(self._engine.identity().devices)

    def vec_dot(
        self, name: str, data: npt.NDArray[np.uint8], activations: npt.NDArray[np.float32]
    ) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]:
        """Multiply rows with a vector; see ``NativeKernels.vec_dot``."""
        reply = self._engine.ask(
            VecDot(
                **_rows(name, data),
                activations=activations.astype(np.float32).tobytes(),
            )
        )
        products = array_of(reply.products, np.float32, len(data))
        return products, array_of(reply.activations, np.float32, len(activations))

    def matmul(
        self,
        name: str,
        data: npt.NDArray[np.uint8],
        activations: npt.NDArray[np.float32],
        *,
        device: str = "CPU",
        repack: bool = False,
    ) -> npt.NDArray[np.float32] | None:
        """Multiply through a backend; see ``NativeKernels.matmul``."""
        reply = self._engine.ask(
            MatMul(
                **_rows(name, data),
                activations=activations.astype(np.float32).tobytes(),
                n_activations=activations.shape[0],
                device=device,
                repack=repack,
            )
        )
        if not reply.taken:
            return None
        return array_of(reply.products, np.float32, activations.shape[0], data.shape[0])
