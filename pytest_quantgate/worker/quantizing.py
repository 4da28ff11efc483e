"""Makes a quantized file with ``llama_model_quantize``.

Runs in the worker alone: standard library and llama_cpp.
"""

from __future__ import annotations

import ctypes
import re
import time
from collections.abc import Callable
from pathlib import Path

from llama_cpp import llama_cpp as low

from pytest_quantgate.worker.llama import EngineRefusal, LogTap
from pytest_quantgate.worker.messages import Message, Progress, Quantize, Quantized

_TENSOR_LINE = re.compile(r"^\[\s*(\d+)/\s*(\d+)\]")


def quantize(request: Quantize, log: LogTap, send: Callable[[Message], None]) -> Quantized:
    """Write ``request.destination``; each tensor is a sign of life.

    Raises:
        EngineRefusal: llama.cpp refused (a type it does not know, a missing importance matrix,
            a disk that is full); nothing stays at the destination.

    """
    started = time.perf_counter()
    parameters = low.llama_model_quantize_default_params()
    parameters.nthread = request.n_threads
    parameters.ftype = request.file_type
    parameters.allow_requantize = request.allow_requantize
    overrides = (low.llama_model_tensor_override * (len(request.overrides) + 1))()
    for slot, (pattern, number) in zip(overrides, request.overrides, strict=False):
        slot.pattern = pattern.encode()
        slot.type = number
    if request.overrides:
        parameters.tt_overrides = ctypes.cast(
            overrides, ctypes.POINTER(low.llama_model_tensor_override)
        )

    def listen(line: str) -> None:
        match = _TENSOR_LINE.match(line)
        if match is not None:
            send(Progress(what="quantize", done=int(match[1]), total=int(match[2])))

    log.listener = listen
    try:
        code = low.llama_model_quantize(
            request.source.encode(), request.destination.encode(), ctypes.byref(parameters)
        )
    finally:
        log.listener = None
    if code != 0:
        Path(request.destination).unlink(missing_ok=True)
        raise EngineRefusal(f"llama.cpp cannot quantize: {log.last_error()}")
    return Quantized(seconds_s=time.perf_counter() - started)
