"""Makes a quantized file with ``llama_model_quantize``, or asks what it would make.

Runs in the worker alone: standard library, numpy and llama_cpp.
"""

from __future__ import annotations

import ctypes
import re
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np

from pytest_quantgate.engines.messages import (
    ImportanceRow,
    Message,
    PlanQuantization,
    Progress,
    QuantizationPlanned,
    Quantize,
    Quantized,
)
from pytest_quantgate.engines.worker.errors import EngineRefusal
from pytest_quantgate.engines.worker.llama import LogTap, Refused
from pytest_quantgate.engines.worker.loading import library_folder, low
from pytest_quantgate.engines.worker.native import NativeCodecs
from pytest_quantgate.engines.worker.releases import (
    quantize_parameters,
    set_dry_run,
    set_importance,
    set_tensor_types,
)

_TENSOR_LINE = re.compile(r"^\[\s*(\d+)/\s*(\d+)\]")

# As in "[   3/ 195] output.weight - [ 2048, 50304, 1, 1], type = f16, size = … MiB (q6_K)".
_PLAN_LINE = re.compile(
    r"^\[\s*\d+/\s*\d+\]\s+(?P<name>\S+)\s+-\s+\[.*\],\s+type\s*=\s*(?P<own>\w+),"
    r"\s+size\s*=.*?(?:\((?P<new>\w+)\))?\s*$"
)
_NEEDS_IMATRIX = "will require an imatrix"


def _parameters(request: Quantize | PlanQuantization) -> tuple[Any, Any]:
    """Return llama.cpp's parameters, and what they point to.

    Raises:
        EngineRefusal: a type that this llama.cpp cannot write: its quantizer would abort.

    """
    if request.overrides:
        types = {row.type_id: row.name for row in NativeCodecs(library_folder()).types()}
        types |= {0: "F32", 1: "F16", 30: "BF16"}
        for pattern, number in request.overrides:
            if number not in types:
                raise EngineRefusal(
                    f"this llama.cpp cannot write tensors of ggml type {number} ({pattern!r});"
                    f" valid: {', '.join(types.values())}"
                )
    parameters = quantize_parameters()
    parameters.ftype = request.file_type
    parameters.allow_requantize = request.allow_requantize
    overrides = set_tensor_types(parameters, request.overrides)
    weights = importance_weights(request.imatrix)
    return parameters, (overrides, weights, set_importance(parameters, weights))


def _run(source: str, destination: str, parameters: Any, log: LogTap, listen: Any) -> None:
    log.listener = listen
    try:
        with log.explain("quantize"):
            if low.llama_model_quantize(
                source.encode(), destination.encode(), ctypes.byref(parameters)
            ):
                raise Refused
    finally:
        log.listener = None


def quantize(request: Quantize, log: LogTap, send: Callable[[Message], None]) -> Quantized:
    """Write ``request.destination``; each tensor is a sign of life.

    Raises:
        EngineRefusal: llama.cpp refused (a type it does not know, a missing importance matrix,
            a disk that is full); nothing stays at the destination.

    """
    started = time.perf_counter()
    parameters, _kept = _parameters(request)
    parameters.nthread = request.n_threads

    def listen(line: str) -> None:
        match = _TENSOR_LINE.match(line)
        if match is not None:
            send(Progress(what="quantize", done=int(match[1]), total=int(match[2])))

    try:
        _run(request.source, request.destination, parameters, log, listen)
    except EngineRefusal:
        Path(request.destination).unlink(missing_ok=True)
        raise
    return Quantized(seconds_s=time.perf_counter() - started)


def importance_weights(
    imatrix: Iterable[ImportanceRow],
) -> dict[str, np.ndarray]:
    """Return each weight's importances, float32: mean squares, 1 for what saw no token.

    As ``load_imatrix`` of llama.cpp's ``tools/quantize/quantize.cpp``, in float32 like there.
    """
    weights = {}
    for row in imatrix:
        sums = np.fromfile(row.path, np.float32, row.n_sums, offset=row.sums_offset_bytes)
        sums = sums.reshape(row.n_counts, -1)
        counts = np.fromfile(row.path, np.float32, row.n_counts, offset=row.counts_offset_bytes)
        counts = counts.round()[:, None]
        has_tokens = counts > 0
        means = np.divide(sums, counts, out=np.ones_like(sums), where=has_tokens)
        weights[row.name] = np.ascontiguousarray(means.reshape(-1))
    return weights


def plan_quantization(request: PlanQuantization, log: LogTap) -> QuantizationPlanned:
    """Return the type that each tensor would get, read from the log of llama.cpp's dry run.

    Raises:
        EngineRefusal: llama.cpp refused, or has no dry run: an older one would write the file.

    """
    parameters, _kept = _parameters(request)
    set_dry_run(parameters)
    types: list[tuple[str, str]] = []
    needs_imatrix = False

    def listen(line: str) -> None:
        nonlocal needs_imatrix
        match = _PLAN_LINE.match(line)
        if match is not None:
            types.append((match["name"], (match["new"] or match["own"]).upper()))
        needs_imatrix = needs_imatrix or _NEEDS_IMATRIX in line

    _run(request.source, "", parameters, log, listen)
    return QuantizationPlanned(types=tuple(types), needs_imatrix=needs_imatrix)
