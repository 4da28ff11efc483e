"""Perplexity's raw material: the negative log-likelihood of each scored token.

Follows the function ``perplexity`` of llama.cpp's ``tools/perplexity/perplexity.cpp``:
non-overlapping chunks, the first token overwritten by BOS where the vocabulary adds one, the
second half scored.

Runs in the worker alone: standard library, numpy and llama_cpp.
"""

from __future__ import annotations

import contextlib
import hashlib
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np

from pytest_quantgate.engines.messages import (
    Message,
    Score,
    Scored,
    ScoredChunk,
    Tokenize,
    Tokenized,
)
from pytest_quantgate.engines.messages.placement import read_placement
from pytest_quantgate.engines.worker.devices import device_memory, devices
from pytest_quantgate.engines.worker.errors import EngineRefusal
from pytest_quantgate.engines.worker.graph import Nodes, Watch, watch_names
from pytest_quantgate.engines.worker.llama import LogTap, Model, Vocabulary, load_vocabulary
from pytest_quantgate.engines.worker.reference import (
    HiddenReader,
    ReferenceStore,
    load_array,
    save_array,
)
from pytest_quantgate.engines.worker.routing import RouteReader, Routes
from pytest_quantgate.engines.worker.rows import score_rows
from pytest_quantgate.engines.worker.threads import Threads

Send = Callable[[Message], None]

_COPIED_ROWS = 16  # by one thread at once
_MARGIN_BYTES = 2 << 30  # of a device's memory, for contexts and what kernels need

_WeightsKey = tuple[str, str, bool]


def read_text(path: str) -> bytes:
    """Read a text as ``llama-perplexity -f`` does: bytes, less one trailing newline."""
    data = Path(path).read_bytes()
    return data[:-1] if data.endswith(b"\n") else data


def computes_here(device: str) -> bool:
    """Return whether decoding takes the processor, which scoring needs too."""
    return read_placement(device).is_cpu


def _output_device(device: str) -> str:
    """Return the device that multiplies with the output matrix, "" for the processor."""
    placement = read_placement(device)
    return "" if placement.is_cpu else placement.devices[-1]


def first_scored(n_ctx: int) -> int:
    """Return the first position of a chunk whose logits are used."""
    return n_ctx // 2


@dataclass(frozen=True, kw_only=True)
class _Decoded:
    """A chunk as it was decoded: the ids, shape (n_ctx,), and what is kept of its scored tokens.

    ``logits`` are float32 of shape (n, n_vocab), ``hidden`` float32 of shape (n, n_embd).
    """

    index: int
    tokens: np.ndarray
    logits: np.ndarray
    hidden: np.ndarray | None
    routes: Routes | None


class Scorer:
    """Scores chunks; keeps the last model and the last text's tokens between requests.

    On a GPU a chunk is scored while the next one is decoded; on the processor, which both would
    share, one after the other.
    """

    def __init__(self, send: Send, log: LogTap) -> None:
        self._send = send
        self._log = log
        self._threads = Threads()
        self._model: Model | None = None
        self._weights_key: _WeightsKey | None = None
        self._coming = _Coming(log)
        self._context_key: Message | None = None
        self._tokens: np.ndarray | None = None
        self._text: str | None = None
        self._hidden: HiddenReader | None = None
        self._routes: RouteReader | None = None
        self._watch: Watch | None = None
        self._store: ReferenceStore | None = None

    def tokenize(self, request: Tokenize) -> Tokenized:
        """Answer how the text falls into chunks."""
        vocabulary, free = load_vocabulary(request.model, self._log)
        try:
            tokens = vocabulary.tokenize(read_text(request.text))
            if request.token_ids:
                save_array(Path(request.token_ids), tokens)
            ends = np.concatenate([[0], np.cumsum(_piece_lengths(tokens, vocabulary))])
            n_ctx, hashes, spans = request.n_ctx, [], []
            for index in range(len(tokens) // n_ctx):
                chunk = chunk_tokens(tokens, index, n_ctx, vocabulary)
                hashes.append(hashlib.sha256(chunk.tobytes()).hexdigest())
                start = index * n_ctx
                scored = start + first_scored(n_ctx) + 1
                spans.append((int(ends[scored]), int(ends[start + n_ctx])))
            return Tokenized(
                n_tokens=len(tokens),
                bos=vocabulary.bos if vocabulary.adds_bos else None,
                token_ids_sha256=tuple(hashes),
                scored_bytes=tuple(spans),
            )
        finally:
            free()

    def score(self, request: Score) -> Scored:
        """Decode the chunks in the order asked for and send each one's result."""
        clock = time.perf_counter
        started = clock()
        model = self._open(request)
        load_s = clock() - started
        self._coming.begin(request)
        tokens = self._tokenize(request, model.vocabulary)
        n_chunks = len(tokens) // request.n_ctx
        for index in request.chunks:
            if not 0 <= index < n_chunks:
                raise EngineRefusal(f"the text has {n_chunks} chunks, not a chunk {index}")
        store = self._open_store(request)
        last_s, scoring_s = clock(), 0.0

        def send(scored: ScoredChunk) -> None:
            nonlocal last_s
            now_s = clock()
            self._send(replace(scored, seconds_s=now_s - last_s))
            last_s = now_s

        keeper = None if computes_here(request.device) else _Keeper(self._threads)

        def score(done: Callable[[], ScoredChunk]) -> None:
            nonlocal scoring_s
            began = clock()
            chunk = done()
            scoring_s += clock() - began
            send(chunk)

        with ThreadPoolExecutor(1) as behind:
            before: Future[ScoredChunk] | None = None
            for index in request.chunks:
                chunk = chunk_tokens(tokens, index, request.n_ctx, model.vocabulary)
                decoded = self._decode(model, request, index, chunk)
                if keeper is None:
                    score(partial(self._score_chunk, request, store, decoded))
                    continue
                kept = replace(decoded, logits=keeper.keep(decoded.logits))
                if before is not None:
                    score(before.result)
                before = behind.submit(self._score_chunk, request, store, kept)
            if before is not None:
                score(before.result)
        self._coming.wait()
        return Scored(load_s=load_s, scoring_s=scoring_s)

    def _decode(self, model: Model, request: Score, index: int, chunk: np.ndarray) -> _Decoded:
        first = first_scored(request.n_ctx)
        count = request.n_ctx - 1 - first
        if self._routes is not None:
            self._routes.listening = index in request.route_chunks
        logits = model.decode(chunk, first)[:count]
        if self._watch is not None:
            self._watch.check()
        hidden = self._hidden.take() if self._hidden is not None else None
        return _Decoded(
            index=index,
            tokens=chunk,
            logits=logits,
            hidden=None if hidden is None else hidden[:count],
            routes=self._routes.take(request.n_ctx, first, count) if self._routes else None,
        )

    def _score_chunk(
        self, request: Score, store: ReferenceStore | None, decoded: _Decoded
    ) -> ScoredChunk:
        """Score a chunk's rows, and keep the reference's or compare with them."""
        targets = decoded.tokens[first_scored(request.n_ctx) + 1 :]
        rows = score_rows(decoded.logits, targets, self._threads)
        kld = np.empty(0)
        if store is not None and request.captures:
            store.write(decoded.index, decoded.hidden, decoded.logits)
        elif store is not None:
            kld = store.divergence(decoded.index, decoded.logits, rows.normalizer)
        routes = decoded.routes
        return ScoredChunk(
            index=decoded.index,
            nll_sum_nats=float(rows.nll.sum()),
            nll_nats=rows.nll.astype(np.float32).tobytes(),
            top_tokens=rows.top.tobytes(),
            token_ids_sha256=hashlib.sha256(decoded.tokens.tobytes()).hexdigest(),
            seconds_s=0.0,
            top_probabilities=rows.top_p.tobytes(),
            kld_nats=kld.astype(np.float32).tobytes(),
            kld_sum_nats=float(kld.sum()),
            route_layers=() if routes is None else routes.layers,
            experts=b"" if routes is None else routes.experts.tobytes(),
            expert_weights=b"" if routes is None else routes.weights.tobytes(),
        )

    def close(self) -> None:
        """Free the model and all that is kept; a quantizer that runs next needs the memory."""
        if self._model is not None:
            self._model.close()
        self._coming.drop()
        if self._store is not None:
            self._store.close()
        self._model = self._weights_key = self._context_key = None
        self._tokens = self._text = self._store = None

    def _open(self, request: Score) -> Model:
        """Return the model in a context as it is asked for; what is there already is kept."""
        weights_key = _weights_key(request)
        if self._model is None or self._weights_key != weights_key:
            # The reference's distribution stays: the next model is compared with it too.
            store, self._store = self._store, None
            model = self._coming.take(weights_key)
            self.close()
            self._store = store
            self._model = model or Model(request, log=self._log, send=self._send)
            self._weights_key = weights_key
        records_routes = bool(request.route_chunks)
        context_key = replace(
            request,
            text="",
            chunks=(),
            reference="",
            output_matrix=None,
            token_ids="",
            next_model="",
            next_model_bytes=0,
            route_chunks=(0,) if records_routes else (),
        )
        if self._context_key != context_key:
            self._context_key = None
            nodes = Nodes()
            self._hidden = HiddenReader(nodes) if request.captures else None
            self._routes = RouteReader(nodes) if records_routes else None
            readers = [item for item in (self._hidden, self._routes) if item is not None]
            self._watch = watch_names(nodes, readers) if readers else None
            self._model.open(
                request,
                n_ctx=request.n_ctx,
                n_batch=request.n_batch,
                n_ubatch=request.n_ubatch,
                graph_callback=self._watch.callback if self._watch is not None else None,
            )
            self._context_key = context_key
        return self._model

    def _open_store(self, request: Score) -> ReferenceStore | None:
        """Return the reference's distribution; its matrix is kept from cell to cell."""
        if not request.reference or request.output_matrix is None:
            return None
        store, place = self._store, (request.reference, request.output_matrix)
        device = _output_device(request.device)
        if store is None or not store.is_of(*place, device):
            if store is not None:
                store.close()
            store = ReferenceStore(*place, self._threads, device)
        self._store = store
        return store

    def _tokenize(self, request: Score, vocabulary: Vocabulary) -> np.ndarray:
        if self._tokens is None or self._text != request.text:
            if request.token_ids:
                self._tokens = load_array(Path(request.token_ids))
            else:
                self._tokens = vocabulary.tokenize(read_text(request.text))
            self._text = request.text
        return self._tokens


def _weights_key(request: Score) -> _WeightsKey:
    return request.model, request.device, request.repack


class _Coming:
    """The model that will be asked for next, loaded while another one computes on the device.

    Args:
        log: is told what llama.cpp says.

    """

    def __init__(self, log: LogTap) -> None:
        self._log = log
        self._pool = ThreadPoolExecutor(1)
        self._key: _WeightsKey | None = None
        self._model: Future[Model] | None = None

    def begin(self, request: Score) -> None:
        """Begin to load what a request says will be next, if the device has room for it."""
        if not request.next_model or not _has_room(request):
            return
        following = replace(request, model=request.next_model)
        if self._key == _weights_key(following):
            return
        self.drop()
        self._key = _weights_key(following)
        self._model = self._pool.submit(Model, following, log=self._log)

    def take(self, key: _WeightsKey) -> Model | None:
        """Return the model if it is this one; where it could not be loaded that is tried again."""
        if key != self._key or self._model is None:
            return None
        coming, self._model, self._key = self._model, None, None
        with contextlib.suppress(EngineRefusal):
            return coming.result()
        return None

    def wait(self) -> None:
        """Wait until it is loaded: once a request is answered, others may use the device."""
        if self._model is not None:
            wait([self._model])

    def drop(self) -> None:
        """Free the model, if there is one."""
        model = None if self._key is None else self.take(self._key)
        if model is not None:
            model.close()


def _has_room(request: Score) -> bool:
    """Return whether one device holds the next model beside this one, with a margin."""
    names = read_placement(request.device).devices
    if len(names) != 1:
        return False
    free_bytes, _ = device_memory(devices()[names[0]])
    return free_bytes > 1.1 * request.next_model_bytes + _MARGIN_BYTES


class _Keeper:
    """Copies logits out of llama.cpp's memory, into one of two buffers by turns."""

    def __init__(self, threads: Threads) -> None:
        self._threads = threads
        self._buffers: list[np.ndarray] = []

    def keep(self, logits: np.ndarray) -> np.ndarray:
        """Return a copy, valid until the call after the next one."""
        if len(self._buffers) < 2:
            self._buffers.append(np.empty_like(logits))
        self._buffers.reverse()
        kept = self._buffers[0]

        def copy(start: int) -> None:
            kept[start : start + _COPIED_ROWS] = logits[start : start + _COPIED_ROWS]

        self._threads.each(copy, range(0, len(logits), _COPIED_ROWS))
        return kept


def chunk_tokens(tokens: np.ndarray, index: int, n_ctx: int, vocabulary: Vocabulary) -> np.ndarray:
    """Return a chunk's ids as they are decoded: the first one is BOS where one is added."""
    chunk = tokens[index * n_ctx : (index + 1) * n_ctx].copy()
    if vocabulary.adds_bos:
        chunk[0] = vocabulary.bos
    return chunk


def _piece_lengths(tokens: np.ndarray, vocabulary: Vocabulary) -> np.ndarray:
    unique, inverse = np.unique(tokens, return_inverse=True)
    lengths = np.array([vocabulary.piece_bytes(int(token)) for token in unique])
    return lengths[inverse]
