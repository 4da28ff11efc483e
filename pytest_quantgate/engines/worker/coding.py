"""Quantizes, dequantizes and multiplies rows with the engine's own codecs and kernels.

Runs in the worker alone: standard library, numpy and llama_cpp.
"""

from __future__ import annotations

import numpy as np

from pytest_quantgate.engines.messages import (
    CodecsListed,
    Coded,
    Decode,
    Dotted,
    Encode,
    ListCodecs,
    MatMul,
    Message,
    Multiplied,
    VecDot,
)
from pytest_quantgate.engines.worker.loading import library_folder
from pytest_quantgate.engines.worker.native import NativeCodecs
from pytest_quantgate.engines.worker.native_kernels import NativeKernels

Coding = ListCodecs | Encode | Decode
Multiplying = VecDot | MatMul


class WrongValueError(Exception):
    """The arguments are wrong, and ggml was not asked."""


class Coder:
    """The engine's codecs, loaded at the first request."""

    def __init__(self) -> None:
        self._codecs: NativeCodecs | None = None
        self._kernels: NativeKernels | None = None

    def answer(self, request: Coding | Multiplying) -> Message:
        """Answer one request.

        Raises:
            WrongValueError: an unknown type, a wrong shape, values on which ggml would abort.

        """
        try:
            if isinstance(request, Multiplying):
                if self._kernels is None:
                    self._kernels = NativeKernels(library_folder())
                return _multiply(self._kernels, request)
            if self._codecs is None:
                self._codecs = NativeCodecs(library_folder())
            return _code(self._codecs, request)
        except ValueError as error:
            raise WrongValueError(str(error)) from error


def _code(codecs: NativeCodecs, request: Coding) -> Message:
    match request:
        case ListCodecs():
            return CodecsListed(types=tuple(codecs.types()))
        case Encode():
            rows = np.frombuffer(request.rows, dtype=np.float32)
            imatrix = np.frombuffer(request.imatrix, dtype=np.float32) if request.imatrix else None
            shaped = rows.reshape(request.n_rows, request.n_columns)
            return Coded(data=codecs.quantize(request.type_name, shaped, imatrix).tobytes())
        case Decode():
            data = np.frombuffer(request.data, dtype=np.uint8)
            shaped_data = data.reshape(request.n_rows, request.row_bytes)
            return Coded(data=codecs.dequantize(request.type_name, shaped_data).tobytes())


def _multiply(kernels: NativeKernels, request: Multiplying) -> Message:
    data = np.frombuffer(request.data, dtype=np.uint8).reshape(request.n_rows, request.row_bytes)
    activations = np.frombuffer(request.activations, dtype=np.float32)
    if isinstance(request, VecDot):
        products, rounded = kernels.vec_dot(request.type_name, data, activations)
        return Dotted(products=products.tobytes(), activations=rounded.tobytes())
    product = kernels.matmul(
        request.type_name,
        data,
        activations.reshape(request.n_activations, -1),
        device=request.device,
        repack=request.repack,
    )
    return Multiplied(
        taken=product is not None, products=b"" if product is None else product.tobytes()
    )
