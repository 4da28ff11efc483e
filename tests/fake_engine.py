"""A conftest.py for test projects: an engine that fails on demand.

It runs in the test process, so its crash is only told, not real. ``faults.json`` in the project
maps a format's name to a fault; ``reference`` figures come from nothing, and no test of a figure
uses this.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np

from pytest_quantgate.engines.messages import (
    BufferSize,
    Identity,
    MeasureMemory,
    MeasureSpeed,
    MemoryMeasured,
    Quantize,
    Quantized,
    Score,
    Scored,
    ScoredChunk,
    SpeedMeasured,
    Tokenize,
    Tokenized,
)
from pytest_quantgate.errors import CellCrashed, CellTimeout, CellUnsupported, RequestUnknown
from pytest_quantgate.gguf.formats import FILE_TYPES

_MARK = b"FILE TYPE "


def _read_faults() -> dict[str, str]:
    path = Path("faults.json")
    faults: dict[str, str] = json.loads(path.read_text()) if path.is_file() else {}
    return faults


def _format_of(path: str) -> str:
    tail = Path(path).read_bytes()[-32:]
    return tail.rpartition(_MARK)[2].decode() if _MARK in tail else "F16"


class FakeEngine:
    """Every byte is a token; a format's figures depend on its name and its fault alone.

    A fault is for all engines, or for one of a name: ``old:Q8_0``.
    """

    def __init__(self, name: str = "default") -> None:
        self._name = name
        self._n_speeds = 0

    def _fault(self, format_name: str) -> str:
        faults = _read_faults()
        for key in (f"{self._name}:{format_name}", format_name, f"{self._name}:*", "*"):
            if key in faults:
                return faults[key]
        return ""

    def identity(self) -> Identity:
        runtime = self._fault("library") or "library"
        quantizer = self._fault("quantizer") or "quantizer"
        return Identity(
            kind="fake",
            version="1",
            llama_cpp_version="",
            python_version="",
            platform="",
            cpu_name=self._fault("cpu") or "a processor",
            system_info=self._fault("build") or "FAKE = 1",
            library_sha256=hashlib.sha256(runtime.encode()).hexdigest(),
            quantizer_sha256=hashlib.sha256(quantizer.encode()).hexdigest(),
            devices=tuple((self._fault("devices") or "CPU").split(",")),
            # A fault stands for what a real engine would be another one for.
            surroundings_sha256=hashlib.sha256(json.dumps(_read_faults()).encode()).hexdigest(),
        )

    def ask(self, request: Any, on_reply: Any = None) -> Any:
        match request:
            case Tokenize():
                return self._tokenize(request)
            case Quantize():
                return self._quantize(request)
            case Score():
                return self._score(request, on_reply)
            case MeasureSpeed():
                return self._speed(request)
            case MeasureMemory():
                return self._memory(request)
            case _:
                raise RequestUnknown(f"a fake engine answers no {type(request).__name__}")

    def _tokenize(self, request: Tokenize) -> Tokenized:
        if self._fault("tokenizer") == "refuse":
            raise CellUnsupported("llama.cpp cannot load: unknown model architecture: 'tiny'")
        n_tokens = self._n_tokens(request.text)
        n_ctx, chunks = request.n_ctx, n_tokens // request.n_ctx
        spans = [(i * n_ctx + n_ctx // 2 + 1, (i + 1) * n_ctx) for i in range(chunks)]
        ids = b"other ids" if self._fault("tokenizer") == "splits more" else b"ids"
        return Tokenized(
            n_tokens=n_tokens,
            bos=None,
            token_ids_sha256=tuple(
                hashlib.sha256(ids + str((index, n_ctx)).encode()).hexdigest()
                for index in range(chunks)
            ),
            scored_bytes=tuple(spans),
        )

    def _n_tokens(self, text: str) -> int:
        n_tokens = Path(text).stat().st_size
        return n_tokens * 5 // 4 if self._fault("tokenizer") == "splits more" else n_tokens

    def _quantize(self, request: Quantize) -> Quantized:
        name = next(row.name for row in FILE_TYPES.values() if row.number == request.file_type)
        if self._fault(name) == "refuse":
            raise CellUnsupported(f"llama.cpp cannot quantize: {name} is not for this engine")
        shutil.copyfile(request.source, request.destination)
        with Path(request.destination).open("ab") as stream:
            stream.write(_MARK + name.encode())
        return Quantized(seconds_s=0.01)

    def _score(self, request: Score, on_reply: Any) -> Scored:
        name = _format_of(request.model)
        fault = self._fault(f"{name} at {request.n_ctx}") or self._fault(name)
        if fault == "crash":
            raise CellCrashed("the worker died: killed by SIGABRT. Last log lines:\nGGML_ASSERT")
        if fault == "hostile log":
            raise CellCrashed("it died. Last log lines:\n\x1b[2J\n::error::x\n##[group]<b>&")
        if fault == "hang":
            raise CellTimeout("no sign of life for 300 s; the worker was ended.")
        n_chunks = self._n_tokens(request.text) // request.n_ctx
        for index in request.chunks:
            if index >= n_chunks:
                raise CellUnsupported(f"the text has {n_chunks} chunks, not a chunk {index}")
            count = request.n_ctx - 1 - request.n_ctx // 2
            random = np.random.default_rng([index, *name.encode()])
            nll = random.uniform(1.0, 3.0, count)
            # Not by the same amount everywhere, which would leave no error to estimate.
            nll += {"worse": 1.0, "better": -0.1, "too good": -1.0}.get(fault, 0.0) * (
                0.05 + index / 10_000
            )
            if fault == "late loss":
                # The beginning as another rounding gives it, the rest much worse.
                nll += 1e-4 * (-1) ** index if index < 48 else 0.26 + index / 10_000
            if fault == "noisy":
                nll += 0.5 * (-1) ** (index // 2 % 2)
            if fault == "nan" and index == request.chunks[-1]:
                nll[3] = np.nan
            splits_more = self._fault("tokenizer") == "splits more"
            ids = b"other ids" if splits_more or fault == "other ids" else b"ids"
            on_reply(
                ScoredChunk(
                    index=index,
                    nll_sum_nats=float(nll.sum()),
                    nll_nats=nll.astype(np.float32).tobytes(),
                    top_tokens=np.arange(count, dtype=np.int32).tobytes(),
                    token_ids_sha256=hashlib.sha256(
                        ids + str((index, request.n_ctx)).encode()
                    ).hexdigest(),
                    seconds_s=0.001,
                )
            )
        return Scored(load_s=0.0)

    def _speed(self, request: MeasureSpeed) -> SpeedMeasured:
        """Take 1 ms a token of a prompt and 10 ms a decoded one, and scatter by 1 %."""
        name = _format_of(request.model)
        fault = self._fault(name)
        if fault == "crash":
            raise CellCrashed("the worker died: killed by SIGABRT. Last log lines:\nGGML_ASSERT")
        self._n_speeds += 1
        with Path("speeds.txt").open("a") as stream:
            stream.write(f"{name}\n")
        random = np.random.default_rng([self._n_speeds, *name.encode()])
        scatter = 0.5 if fault == "noisy" else 0.01

        def runs(token_ns: float, count: int) -> tuple[int, ...]:
            factor = float(np.exp(random.normal(0.0, scatter)))
            return (int(token_ns * factor * count),) * request.repetitions

        prefill_ns = 1e6 * (1.25 if fault == "slow prefill" else 1.0)
        decode_ns = 1e7 * (1.25 if fault in {"slow decode", "slow and busy"} else 1.0)
        return SpeedMeasured(
            process_id=self._n_speeds,
            load_s=0.5,
            prefill_ns=runs(prefill_ns, request.n_prompt),
            decode_ns=runs(decode_ns, request.n_decode),
            prefill_warmup_ns=(int(prefill_ns), int(prefill_ns)),
            decode_warmup_ns=(int(decode_ns), int(decode_ns)),
            prefill_is_warm=True,
            decode_is_warm=True,
            decode_loop_ns=(),
            # As if this had used all the processors, or others had used all of them.
            cpu_s=-1e9 if fault == "slow and busy" else 1e6,
            device_description="",
            driver="",
        )

    def _memory(self, request: MeasureMemory) -> MemoryMeasured:
        fault = self._fault(_format_of(request.model))
        if fault == "no such figure":
            raise RequestUnknown("a fake engine answers no MeasureMemory")
        peak = None if fault == "no memory" else 1_100_000 if fault == "large" else 1_000_000
        return MemoryMeasured(
            peak_resident_bytes=peak,
            resident_before_bytes=peak and 500_000,
            load_s=0.5,
            buffers=(
                BufferSize(kind="model", where="CPU", n_bytes=400_000),
                BufferSize(kind="KV", where="CPU", n_bytes=100_000),
            ),
            devices=(),
            device_description="",
            driver="",
        )

    def close(self) -> None:
        pass


def pytest_quantgate_make_engine(name: str, settings: Any, log: Any) -> FakeEngine:
    """Stand in for every engine."""
    del settings, log
    return FakeEngine(name)
