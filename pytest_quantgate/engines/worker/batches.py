"""Batch geometry: the same tokens in batches of other sizes must give the same distributions.

Kernels differ with the number of rows that they work on: perplexity in batches of 512 never
touches the path that generates text token by token (llama.cpp #4927), nor odd remainders.

Runs in the worker alone: standard library, numpy and llama_cpp.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np

from pytest_quantgate.engines.messages import (
    BatchesCompared,
    BatchSizeCompared,
    CompareBatches,
    Message,
    Progress,
)
from pytest_quantgate.engines.worker.llama import LogTap, Model
from pytest_quantgate.engines.worker.rows import divergence
from pytest_quantgate.engines.worker.scoring import chunk_tokens, read_text

TOKEN_BY_TOKEN = 0


def compare_batches(
    request: CompareBatches, log: LogTap, send: Callable[[Message], None]
) -> BatchesCompared:
    """Compare each geometry with all tokens in one batch; the rows keep the request's order."""
    n_tokens, total = request.n_tokens, len(request.n_ubatches) + 1
    one_batch = replace(request, device=request.against or request.device)
    model = Model(one_batch, log=log, send=send)
    try:
        tokens = model.vocabulary.tokenize(read_text(request.text))
        chunk = chunk_tokens(tokens, request.chunk, request.n_ctx, model.vocabulary)[:n_tokens]
        base = _logits(model, request, chunk, n_tokens)
        send(Progress(what="batches", done=1, total=total))
        if one_batch.device != request.device:
            model.close()
            model = Model(request, log=log, send=send)
        rows = []
        for number, size in enumerate(request.n_ubatches):
            logits = _logits(model, request, chunk, size)
            kld = divergence(base, logits)
            other = int(np.count_nonzero(base.argmax(axis=1) != logits.argmax(axis=1)))
            rows.append(
                BatchSizeCompared(
                    n_ubatch=size,
                    mean_kld_nats=float(kld.mean()),
                    max_kld_nats=float(kld.max()),
                    top_tokens_changed=other,
                )
            )
            send(Progress(what="batches", done=number + 2, total=total))
    finally:
        model.close()
    return BatchesCompared(rows=tuple(rows))


def _logits(model: Model, request: CompareBatches, chunk: np.ndarray, size: int) -> np.ndarray:
    """Return float32 logits of all tokens, shape (n_tokens, n_vocab)."""
    by_token = size == TOKEN_BY_TOKEN
    model.open(
        request,
        n_ctx=request.n_ctx,
        n_batch=1 if by_token else request.n_tokens,
        n_ubatch=1 if by_token else size,
    )
    return model.decode(chunk, 0).copy()
