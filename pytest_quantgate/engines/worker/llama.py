"""libllama through llama-cpp-python's low-level interface, as the worker uses it.

Runs in the worker alone: standard library, numpy and llama_cpp.
"""

from __future__ import annotations

import contextlib
import ctypes
import sys
from collections.abc import Callable, Iterator
from typing import Any, Self

import numpy as np

from pytest_quantgate.engines.messages import (
    Message,
    ModelRequest,
    Progress,
)
from pytest_quantgate.engines.messages.placement import SPLIT_MODES, read_placement
from pytest_quantgate.engines.worker.devices import devices
from pytest_quantgate.engines.worker.errors import EngineRefusal, join_reasons
from pytest_quantgate.engines.worker.loading import low
from pytest_quantgate.engines.worker.releases import (
    clear_memory,
    context_parameters,
    model_parameters,
    set_flash_attention,
    set_if_known,
    set_repacking,
)

_ERROR, _CONTINUED = 4, 5  # enum ggml_log_level

CACHE_TYPES = {
    0: "F32",
    1: "F16",
    30: "BF16",
    8: "Q8_0",
    2: "Q4_0",
    3: "Q4_1",
    20: "IQ4_NL",
    6: "Q5_0",
    7: "Q5_1",
}
"""Types of keys and values; with others llama.cpp may die of a signal."""


class LogTap:
    """Writes llama.cpp's log to stderr, shows each line to a listener, and keeps the errors."""

    def __init__(self) -> None:
        self.listener: Callable[[str], None] | None = None
        self._errors: list[str] = []
        self._pending = ""
        self._level = 0

        def write(level: int, text: bytes, _user: object) -> None:
            decoded = text.decode(errors="replace")
            sys.stderr.write(decoded)
            sys.stderr.flush()
            self._level = self._level if level == _CONTINUED else level
            self._pending += decoded
            *lines, self._pending = self._pending.split("\n")
            if self._level == _ERROR:
                self._errors += lines
            if self.listener is not None:
                for line in lines:
                    self.listener(line)

        self._callback = low.llama_log_callback(write)
        low.llama_log_set(self._callback, ctypes.c_void_p(0))

    @contextlib.contextmanager
    def explain(self, what: str) -> Iterator[None]:
        """Add what is logged as an error meanwhile to a refusal; ``what`` could not be done.

        Raises:
            EngineRefusal: for a :class:`Refused` in the block.

        """
        self._errors = []
        try:
            yield
        except Refused:
            reason = join_reasons(self._errors) or "llama.cpp gave no reason"
            raise EngineRefusal(f"llama.cpp cannot {what}: {reason}") from None


class Refused(Exception):
    """llama.cpp returned that it failed; its log says why."""


_UTF16_MARKS = (b"\xff\xfe", b"\xfe\xff")
_UTF16_ZEROS = 0.2  # of its bytes at least, in texts of mostly Latin letters


class Vocabulary:
    """A model's vocabulary."""

    def __init__(self, model: Any) -> None:
        self._vocab = low.llama_model_get_vocab(model)
        self.n_tokens: int = low.llama_vocab_n_tokens(self._vocab)
        self.adds_bos: bool = bool(low.llama_vocab_get_add_bos(self._vocab))
        self.bos: int = low.llama_vocab_bos(self._vocab)

    def tokenize(self, text: bytes) -> np.ndarray:
        """Tokenize bytes with add_special=true, parse_special=false; int32 ids, shape (T,)."""
        if text[:2] in _UTF16_MARKS or text.count(0) > len(text) * _UTF16_ZEROS:
            raise EngineRefusal(
                "the text looks like UTF-16 (every other byte is zero); save it as UTF-8:"
                " iconv -f UTF-16 -t UTF-8 TEXT > TEXT.utf8"
            )
        size = len(text) + 8
        for _ in range(2):
            buffer = np.empty(size, dtype=np.int32)
            ids = buffer.ctypes.data_as(ctypes.POINTER(ctypes.c_int32))
            count = low.llama_tokenize(self._vocab, text, len(text), ids, size, True, False)
            if count >= 0:
                return buffer[:count].copy()
            size = -count  # a negative count is the size that it takes
        raise EngineRefusal(
            f"llama.cpp cannot cut the text of {len(text):,} bytes into tokens: it asks for room"
            f" for {size:,}, and again for more; see that the text is UTF-8"
        )

    def piece_bytes(self, token: int) -> int:
        """Return how many bytes of text a token stands for."""
        buffer = ctypes.create_string_buffer(512)
        return max(0, int(low.llama_token_to_piece(self._vocab, token, buffer, 512, 0, False)))


def load_vocabulary(path: str, log: LogTap) -> tuple[Vocabulary, Callable[[], None]]:
    """Load a model's vocabulary without its weights; the second value frees it."""
    low.llama_backend_init()
    parameters = model_parameters()
    parameters.vocab_only = True
    with log.explain("load the vocabulary"):
        model = low.llama_model_load_from_file(path.encode(), parameters)
        if not model:
            raise Refused
    return Vocabulary(model), lambda: low.llama_model_free(model)


class Model:
    """A model's weights, and one context over them at a time; free both with :meth:`close`.

    Args:
        request: which model, and where it computes.
        log: where the reason of a refusal is found.
        send: is told how much is loaded.

    Raises:
        EngineRefusal: a device is not there, or llama.cpp cannot load the model.

    """

    def __init__(
        self,
        request: ModelRequest[Any],
        *,
        log: LogTap,
        send: Callable[[Message], None] = lambda _message: None,
    ) -> None:
        low.llama_backend_init()
        placement = read_placement(request.device)

        def loading(fraction: float, _user: object) -> bool:
            send(Progress(what="load", done=int(fraction * 100), total=100))
            return True

        self._loading = low.llama_progress_callback(loading)
        parameters = model_parameters()
        listed = devices()
        for name in placement.devices:
            if name not in listed:
                raise EngineRefusal(f"no device {name!r}; there are: cpu, {', '.join(listed)}")
        chosen = [listed[name] for name in placement.devices]
        # A list without entries hides every GPU: a CUDA build would offload large batches.
        self._devices = (ctypes.c_void_p * (len(chosen) + 1))(*chosen, None)
        parameters.devices = ctypes.cast(self._devices, ctypes.c_void_p)
        layers = placement.n_gpu_layers
        parameters.n_gpu_layers = (999 if layers is None else layers) if chosen else 0
        parameters.split_mode = SPLIT_MODES[placement.split_mode]
        shares = placement.tensor_split
        # llama.cpp reads as many shares as it knows devices.
        self._shares = (ctypes.c_float * max(int(low.llama_max_devices()), len(shares)))(*shares)
        if shares:
            parameters.tensor_split = self._shares
        parameters.progress_callback = self._loading
        set_repacking(parameters, request.repack and placement.repack)
        self._is_on_device = bool(chosen)
        self._log = log
        self.context: Any = None
        self._batch: Any = None
        with log.explain("load the model"):
            self._model = low.llama_model_load_from_file(request.model.encode(), parameters)
            if not self._model:
                raise Refused
        self.vocabulary = Vocabulary(self._model)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_error: object) -> None:
        self.close()

    def open(
        self,
        request: ModelRequest[Any],
        *,
        n_ctx: int,
        n_batch: int,
        n_ubatch: int,
        graph_callback: Any = None,
    ) -> None:
        """Take an empty context, in the place of one that was there.

        Args:
            request: how it computes: threads, flash attention, types of keys and values.
            n_ctx: tokens of the context.
            n_batch: tokens that are decoded in one call.
            n_ubatch: tokens that are computed at once.
            graph_callback: called at each node of the graph.

        Raises:
            EngineRefusal: llama.cpp cannot make it; there is none then.

        """
        self._close_context()
        for kind in (request.type_k, request.type_v):
            if kind not in CACHE_TYPES:
                valid = ", ".join(f"{name} ({number})" for number, name in CACHE_TYPES.items())
                raise EngineRefusal(
                    f"keys and values cannot be of ggml type {kind}; valid: {valid}"
                )
        options = context_parameters()
        options.n_ctx = n_ctx
        options.n_batch = n_batch
        options.n_ubatch = n_ubatch
        options.n_seq_max = 1
        options.n_threads = request.n_threads
        options.n_threads_batch = request.n_threads
        set_flash_attention(options, request.flash_attention)
        options.type_k = request.type_k
        options.type_v = request.type_v
        options.offload_kqv = self._is_on_device
        set_if_known(options, "op_offload", self._is_on_device)
        options.no_perf = True
        if graph_callback is not None:
            options.cb_eval = graph_callback
        self._graph_callback = graph_callback  # ctypes keeps no reference of its own
        with self._log.explain("make a context"):
            self.context = low.llama_init_from_model(self._model, options)
            if not self.context:
                raise Refused
        self._n_batch = n_batch
        self._batch = low.llama_batch_init(n_batch, 0, 1)
        for i in range(n_batch):
            self._batch.n_seq_id[i] = 1
            self._batch.seq_id[i][0] = 0
        self._ids, self._positions, self._is_output = (
            np.ctypeslib.as_array(field, (n_batch,))
            for field in (self._batch.token, self._batch.pos, self._batch.logits)
        )

    def decode(self, tokens: np.ndarray, first_output: int) -> np.ndarray:
        """Decode one sequence from an empty memory.

        Args:
            tokens: int32 ids, shape (n,).
            first_output: the position from which logits are wanted.

        Returns:
            float32 logits of shape (n − first_output, n_vocab), as ggml wrote them; those of one
            batch stay in llama.cpp's own memory until the next call.

        Raises:
            EngineRefusal: llama_decode returned an error.

        """
        self.forget()
        total = len(tokens)
        rows = []
        for start in range(0, total, self._n_batch):
            view = self.decode_batch(tokens[start : start + self._n_batch], start, first_output)
            if len(view):
                rows.append(view.copy() if total > self._n_batch else view)
        return rows[0] if len(rows) == 1 else np.concatenate(rows)

    def forget(self) -> None:
        """Empty the memory of what was decoded."""
        clear_memory(self.context, data=True)

    def decode_batch(self, ids: np.ndarray, start: int, first_output: int) -> np.ndarray:
        """Decode the next tokens of a sequence, at most the context's ``n_batch``.

        Args:
            ids: int32, shape (n,).
            start: the position of the first one.
            first_output: the position from which logits are wanted.

        Returns:
            float32 logits of the tokens from there on, in llama.cpp's own memory until the next
            call.

        Raises:
            EngineRefusal: llama_decode returned an error.

        """
        count = self._batch.n_tokens = len(ids)
        positions = np.arange(start, start + count)
        self._ids[:count] = ids
        self._positions[:count] = positions
        self._is_output[:count] = positions >= first_output
        code = low.llama_decode(self.context, self._batch)
        if code != 0:
            raise EngineRefusal(f"llama_decode returned {code} at token {start} of the sequence")
        outputs = int(np.count_nonzero(self._is_output[:count]))
        if not outputs:
            return np.empty((0, self.vocabulary.n_tokens), dtype=np.float32)
        pointer = low.llama_get_logits(self.context)
        return np.ctypeslib.as_array(pointer, (outputs, self.vocabulary.n_tokens))

    def _close_context(self) -> None:
        if self._batch is not None:
            low.llama_batch_free(self._batch)
        if self.context:
            low.llama_free(self.context)
        self._batch = self.context = None

    def close(self) -> None:
        """Free the context and the weights."""
        self._close_context()
        if self._model:
            low.llama_model_free(self._model)
        self._model = None
