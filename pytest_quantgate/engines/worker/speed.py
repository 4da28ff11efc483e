"""Prefill and decode speed, timed as llama-bench times them.

Random tokens from a fixed seed, so that every process works on the same ones; the beginning of
sequence first where the vocabulary adds it; one context a test, of exactly the size that it
needs; no sampling. The clock runs while llama.cpp decodes and not while Python prepares.

Runs in the worker alone: standard library, numpy and llama_cpp.
"""

from __future__ import annotations

import ctypes
import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from pytest_quantgate.engines.messages import MeasureSpeed, Message, Progress, SpeedMeasured
from pytest_quantgate.engines.worker.devices import describe_device
from pytest_quantgate.engines.worker.errors import EngineRefusal
from pytest_quantgate.engines.worker.llama import LogTap, Model
from pytest_quantgate.engines.worker.loading import low
from pytest_quantgate.engines.worker.releases import clear_memory

MAX_WARM_UPS = 4
"""Warm-up ends here even if the times still differ."""

STABLE = 0.05
"""Two warm-ups in a row that differ by no more than this share of the shorter end it."""

_WARM_UP_TOKENS = 16
_THREAD_PARAMETERS_BYTES = 4096  # a ggml_threadpool_params and room for a longer one


def warm_up(run: Callable[[], int]) -> tuple[tuple[int, ...], bool]:
    """Run until two runs in a row take equally long; return all times, and whether two did."""
    times: list[int] = []
    while len(times) < MAX_WARM_UPS:
        times.append(run())
        if len(times) > 1:
            shorter, longer = sorted(times[-2:])
            if longer - shorter <= STABLE * shorter:
                return tuple(times), True
    return tuple(times), False


class Threads:
    """A thread pool for one context, as llama-bench attaches one.

    Without it ggml may start its threads anew for each graph. Where the library does not export
    the functions, ggml's own way is left as it is.
    """

    def __init__(self, context: Any, n_threads: int) -> None:
        library, pointer = low._lib, ctypes.c_void_p
        self._context = context
        self._pool: int | None = None
        try:
            init, new = library.ggml_threadpool_params_init, library.ggml_threadpool_new
            attach, detach = library.llama_attach_threadpool, library.llama_detach_threadpool
            free = library.ggml_threadpool_free
        except AttributeError:
            return
        init.restype, init.argtypes = None, [pointer, ctypes.c_int]
        new.restype, new.argtypes = pointer, [pointer]
        attach.restype, attach.argtypes = None, [pointer, pointer, pointer]
        for function in (detach, free):
            function.restype, function.argtypes = None, [pointer]
        self._detach, self._free = detach, free
        parameters = ctypes.create_string_buffer(_THREAD_PARAMETERS_BYTES)
        init(parameters, n_threads)
        self._pool = new(parameters)
        if self._pool:
            attach(context, self._pool, None)

    def close(self) -> None:
        """Take the threads from the context and end them."""
        if self._pool:
            self._detach(self._context)
            self._free(self._pool)


class Sequence:
    """One sequence in a model's present context: fed with random tokens, and timed."""

    def __init__(self, model: Model, n_batch: int) -> None:
        self._context = model.context
        self._vocabulary = model.vocabulary
        self._n_batch = n_batch
        self._random = np.random.default_rng(0)
        self._position = 0
        self._state: Any = None
        self._batch = low.llama_batch_init(n_batch, 0, 1)
        for i in range(n_batch):
            self._batch.n_seq_id[i] = 1
            self._batch.seq_id[i][0] = 0
            self._batch.logits[i] = 0

    def close(self) -> None:
        """Free the batch."""
        low.llama_batch_free(self._batch)

    def restart(self, n_depth: int) -> None:
        """Bring the memory to a depth, always the same; computed once, then restored."""
        clear_memory(self._context, data=False)
        self._position = 0
        if n_depth == 0:
            return
        if self._state is not None and low.llama_state_seq_set_data(
            self._context, self._state, len(self._state), 0
        ):
            self._position = n_depth
            return
        self.prompt(n_depth)
        size = low.llama_state_seq_get_size(self._context, 0)
        self._state = (ctypes.c_uint8 * size)()
        low.llama_state_seq_get_data(self._context, self._state, size, 0)

    def prompt(self, count: int) -> tuple[int, int]:
        """Decode so many tokens in batches, with logits of each batch's last.

        Returns:
            Nanoseconds in llama.cpp, and with what Python did besides.

        """
        clock, elapsed = time.perf_counter_ns, 0
        entered = clock()
        for start in range(0, count, self._n_batch):
            ids = self._tokens(min(self._n_batch, count - start))
            batch = self._batch
            batch.n_tokens = len(ids)
            for i, token in enumerate(ids):
                batch.token[i] = token
                batch.pos[i] = self._position + i
            batch.logits[len(ids) - 1] = 1
            elapsed += self._decode()
            batch.logits[len(ids) - 1] = 0
            self._position += len(ids)
        return elapsed, clock() - entered

    def generate(self, count: int) -> tuple[int, int]:
        """Decode so many tokens one by one; nanoseconds as :meth:`prompt` returns them."""
        clock, batch, elapsed = time.perf_counter_ns, self._batch, 0
        ids = self._tokens(count)
        batch.n_tokens = 1
        batch.logits[0] = 1
        entered = clock()
        for token in ids:
            batch.token[0] = token
            batch.pos[0] = self._position
            elapsed += self._decode()
            self._position += 1
        whole = clock() - entered
        batch.logits[0] = 0
        return elapsed, whole

    def _tokens(self, count: int) -> list[int]:
        ids: list[int] = self._random.integers(0, self._vocabulary.n_tokens, count).tolist()
        if self._position == 0 and self._vocabulary.adds_bos:
            ids[0] = self._vocabulary.bos
        return ids

    def _decode(self) -> int:
        began = time.perf_counter_ns()
        code = low.llama_decode(self._context, self._batch)
        low.llama_synchronize(self._context)
        elapsed = time.perf_counter_ns() - began
        if code != 0:
            raise EngineRefusal(f"llama_decode returned {code} at token {self._position}")
        return elapsed


@dataclass(frozen=True, kw_only=True)
class Timed:
    """One test's runs in nanoseconds; ``loop_ns`` with what Python did besides."""

    warmup_ns: tuple[int, ...]
    is_warm: bool
    runs_ns: tuple[int, ...]
    loop_ns: tuple[int, ...]


def measure_speed(
    request: MeasureSpeed, log: LogTap, send: Callable[[Message], None]
) -> SpeedMeasured:
    """Load a model once and time prefill, then decoding, each in a context of its own."""
    began = time.perf_counter()
    model = Model(request, log=log, send=send)
    sizes = {"n_batch": request.n_batch, "n_ubatch": request.n_ubatch}
    model.open(request, n_ctx=request.n_depth + request.n_prompt, **sizes)
    load_s = time.perf_counter() - began
    shorter = min(request.n_decode, _WARM_UP_TOKENS)
    prefill = _time(
        model,
        request,
        send,
        "prefill",
        lambda sequence: sequence.prompt(request.n_prompt),
        lambda sequence: sequence.prompt(request.n_prompt),
    )
    model.open(request, n_ctx=request.n_depth + request.n_decode, **sizes)
    decode = _time(
        model,
        request,
        send,
        "decode",
        lambda sequence: sequence.generate(shorter),
        lambda sequence: sequence.generate(request.n_decode),
    )
    model.close()
    description, driver = describe_device(request.device)
    return SpeedMeasured(
        process_id=os.getpid(),
        load_s=load_s,
        prefill_ns=prefill.runs_ns,
        decode_ns=decode.runs_ns,
        prefill_warmup_ns=prefill.warmup_ns,
        decode_warmup_ns=decode.warmup_ns,
        prefill_is_warm=prefill.is_warm,
        decode_is_warm=decode.is_warm,
        decode_loop_ns=decode.loop_ns,
        cpu_s=time.process_time(),
        device_description=description,
        driver=driver,
    )


def _time(
    model: Model,
    request: MeasureSpeed,
    send: Callable[[Message], None],
    what: str,
    warm: Callable[[Sequence], tuple[int, int]],
    run: Callable[[Sequence], tuple[int, int]],
) -> Timed:
    """Time one test in the model's present context."""
    threads = Threads(model.context, request.n_threads)
    sequence = Sequence(model, request.n_batch)
    done = 0

    def once(timed: Callable[[Sequence], tuple[int, int]]) -> tuple[int, int]:
        nonlocal done
        sequence.restart(request.n_depth)
        times = timed(sequence)
        done += 1
        send(Progress(what=what, done=done, total=MAX_WARM_UPS + request.repetitions))
        return times

    try:
        warmup_ns, is_warm = warm_up(lambda: once(warm)[0])
        runs = [once(run) for _ in range(request.repetitions)]
    finally:
        sequence.close()
        threads.close()
    return Timed(
        warmup_ns=warmup_ns,
        is_warm=is_warm,
        runs_ns=tuple(pure for pure, _ in runs),
        loop_ns=tuple(whole for _, whole in runs),
    )
