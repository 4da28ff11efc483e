"""Perplexity's raw material: the negative log-likelihood of each scored token.

Follows the function ``perplexity`` of llama.cpp's ``tools/perplexity/perplexity.cpp``:
non-overlapping chunks, the first token overwritten by BOS where the vocabulary adds one, the
second half scored.

Runs in the worker alone: standard library, numpy and llama_cpp.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np

from pytest_quantgate.engines.messages import (
    Message,
    Progress,
    Score,
    Scored,
    ScoredChunk,
    Tokenize,
    Tokenized,
)
from pytest_quantgate.engines.worker.errors import EngineRefusal
from pytest_quantgate.engines.worker.graph import Nodes, Watch, watch_names
from pytest_quantgate.engines.worker.llama import LogTap, Model, Vocabulary, load_vocabulary
from pytest_quantgate.engines.worker.reference import HiddenReader, ReferenceStore, rows_at_once
from pytest_quantgate.engines.worker.routing import RouteReader
from pytest_quantgate.engines.worker.rows import RowScores, divergence, score_rows

Send = Callable[[Message], None]


def read_text(path: str) -> bytes:
    """Read a text as ``llama-perplexity -f`` does: bytes, less one trailing newline."""
    data = Path(path).read_bytes()
    return data[:-1] if data.endswith(b"\n") else data


def first_scored(n_ctx: int) -> int:
    """Return the first position of a chunk whose logits are used."""
    return n_ctx // 2


class Scorer:
    """Scores chunks; keeps the last model and the last text's tokens between requests."""

    def __init__(self, send: Send, log: LogTap) -> None:
        self._send = send
        self._log = log
        self._model: Model | None = None
        self._model_key: Message | None = None
        self._tokens: np.ndarray | None = None
        self._text: str | None = None
        self._hidden: HiddenReader | None = None
        self._routes: RouteReader | None = None
        self._watch: Watch | None = None

    def tokenize(self, request: Tokenize) -> Tokenized:
        """Answer how the text falls into chunks."""
        vocabulary, free = load_vocabulary(request.model, self._log)
        try:
            tokens = vocabulary.tokenize(read_text(request.text))
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
        started = time.perf_counter()
        model = self._open(request)
        load_s = time.perf_counter() - started
        tokens = self._tokenize(request.text, model.vocabulary)
        n_ctx, first = request.n_ctx, first_scored(request.n_ctx)
        n_chunks = len(tokens) // n_ctx
        store = None
        if request.reference and request.output_matrix is not None:
            store = ReferenceStore(request.reference, request.output_matrix)
        for index in request.chunks:
            if not 0 <= index < n_chunks:
                raise EngineRefusal(f"the text has {n_chunks} chunks, not a chunk {index}")
            begun = time.perf_counter()
            chunk = chunk_tokens(tokens, index, n_ctx, model.vocabulary)
            if self._routes is not None:
                self._routes.listening = index in request.route_chunks
            logits = model.decode(chunk, first)
            if self._watch is not None:
                self._watch.check()
            scored = logits[: n_ctx - 1 - first]
            rows = score_rows(scored, chunk[first + 1 :])
            kld = self._compare(store, request, index, scored, rows)
            routes = self._routes.take(n_ctx, first, len(scored)) if self._routes else None
            self._send(
                ScoredChunk(
                    index=index,
                    nll_sum_nats=float(rows.nll.sum()),
                    nll_nats=rows.nll.astype(np.float32).tobytes(),
                    top_tokens=rows.top.tobytes(),
                    token_ids_sha256=hashlib.sha256(chunk.tobytes()).hexdigest(),
                    seconds_s=time.perf_counter() - begun,
                    top_probabilities=rows.top_p.tobytes(),
                    kld_nats=kld.astype(np.float32).tobytes(),
                    kld_sum_nats=float(kld.sum()),
                    route_layers=() if routes is None else routes.layers,
                    experts=b"" if routes is None else routes.experts.tobytes(),
                    expert_weights=b"" if routes is None else routes.weights.tobytes(),
                )
            )
        return Scored(load_s=load_s)

    def _compare(
        self,
        store: ReferenceStore | None,
        request: Score,
        index: int,
        logits: np.ndarray,
        rows: RowScores,
    ) -> np.ndarray:
        """Keep the reference's rows, or return the divergence from them, float64 of shape (n,)."""
        if store is None:
            return np.empty(0)
        if request.captures:
            hidden = self._hidden.take() if self._hidden is not None else None
            store.write(index, None if hidden is None else hidden[: len(logits)], logits)
            return np.empty(0)
        kld = np.empty(len(logits), dtype=np.float64)
        step = rows_at_once(logits.shape[1])
        for start in range(0, len(logits), step):
            part = slice(start, min(start + step, len(logits)))
            base = store.logits(index, part.start, part.stop)
            kld[part] = divergence(base, logits[part], rows.normalizer[part])
        return kld

    def close(self) -> None:
        """Free the model; a quantizer that runs next needs its memory."""
        if self._model is not None:
            self._model.close()
        self._model = self._model_key = self._tokens = self._text = None

    def _open(self, request: Score) -> Model:
        key = replace(
            request,
            text="",
            chunks=(),
            reference="",
            output_matrix=None,
            route_chunks=request.route_chunks[:1],
        )
        if self._model is None or self._model_key != key:
            self.close()

            def loading(fraction: float) -> None:
                self._send(Progress(what="load", done=int(fraction * 100), total=100))

            nodes = Nodes()
            self._hidden = HiddenReader(nodes) if request.captures else None
            self._routes = RouteReader(nodes) if request.route_chunks else None
            readers = [item for item in (self._hidden, self._routes) if item is not None]
            self._watch = watch_names(nodes, readers) if readers else None
            self._model = Model(
                request,
                n_ctx=request.n_ctx,
                n_batch=request.n_batch,
                n_ubatch=request.n_ubatch,
                log=self._log,
                on_load=loading,
                graph_callback=self._watch.callback if self._watch is not None else None,
            )
            self._model_key = key
        return self._model

    def _tokenize(self, text: str, vocabulary: Vocabulary) -> np.ndarray:
        if self._tokens is None or self._text != text:
            self._tokens = vocabulary.tokenize(read_text(text))
            self._text = text
        return self._tokens


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
