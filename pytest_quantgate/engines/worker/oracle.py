"""An oracle: what another implementation computed for the same tokens, compared with this engine.

Runs in the worker alone: standard library, numpy and llama_cpp.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from pytest_quantgate.engines.messages import CompareOracle, Message, OracleCompared, Progress
from pytest_quantgate.engines.worker.llama import LogTap, Model
from pytest_quantgate.engines.worker.rows import divergence, score_rows


def compare_oracle(
    request: CompareOracle, log: LogTap, send: Callable[[Message], None]
) -> OracleCompared:
    """Decode the oracle's chunks, each from an empty memory."""
    with np.load(request.oracle, allow_pickle=False) as stored:
        tokens, rows, expected = stored["tokens"], stored["rows"], stored["logits"]
    n_chunks, n_ctx = tokens.shape
    nll = np.empty((n_chunks, n_ctx - 1), dtype=np.float32)
    kld = np.empty((n_chunks, len(rows)), dtype=np.float64)
    with Model(request, log=log, send=send) as model:
        n_batch, n_ubatch = min(request.n_batch, n_ctx), min(request.n_ubatch, n_ctx)
        model.open(request, n_ctx=n_ctx, n_batch=n_batch, n_ubatch=n_ubatch)
        for number, chunk in enumerate(tokens):
            logits = model.decode(chunk, 0)
            nll[number] = score_rows(logits[:-1], chunk[1:]).nll
            kld[number] = divergence(expected[number], logits[rows])
            send(Progress(what="oracle", done=number + 1, total=n_chunks))
    return OracleCompared(nll_nats=nll.tobytes(), kld_nats=kld.tobytes())
