"""What is worked out from rows of logits: likelihoods, top tokens, divergence.

A row of a large vocabulary passes through many element-wise steps. They are taken a few rows at
a time, in arrays that are used again: so these stay in a core's own cache, and the operating system
need not clear new memory for every step, which for a vocabulary of 262,144 took three times the
steps themselves. Each thread has a span of the rows.

Runs in the worker alone: standard library and numpy.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from pytest_quantgate.engines.worker.threads import Threads

MIN_LOG_PROBABILITY = -16.0
"""llama-perplexity leaves tokens out of the divergence whose log-probability is not above it."""

_BLOCK_ELEMENTS = 1 << 16  # 256 kB of float32 an array
_SHARED_BLOCK_ELEMENTS = 1 << 18  # where several threads would wait for the interpreter's lock
_ONE_THREAD = Threads(1)


@dataclass(frozen=True, kw_only=True)
class RowScores:
    """What perplexity needs of each row; every array has shape (n,).

    ``nll`` is float64 in nats; ``top`` int32, ties to the lowest id; ``top_p`` float32, that
    token's probability; ``normalizer`` float64, the logarithm of the softmax's sum.
    """

    nll: np.ndarray
    top: np.ndarray
    top_p: np.ndarray
    normalizer: np.ndarray


def score_rows(
    logits: np.ndarray, targets: np.ndarray, threads: Threads = _ONE_THREAD
) -> RowScores:
    """Score each row's target.

    Follows ``log_softmax`` of llama.cpp's ``tools/perplexity/perplexity.cpp``: exponentials in
    float32, sums in float64.

    Args:
        logits: float32, shape (n, n_vocab).
        targets: integer ids, shape (n,).
        threads: do the work.

    """
    count, step = len(targets), _block_rows(logits, threads)
    sums, peaks = np.empty(count), np.empty(count, dtype=np.float32)
    top = np.empty(count, dtype=np.int32)

    def score(span: slice) -> None:
        scratch, index = np.empty((step, logits.shape[1]), dtype=np.float32), np.arange(step)
        for block in _blocks(span, step):
            rows = logits[block]
            best = rows.argmax(axis=1)
            peak = rows[index[: len(rows)], best]
            exponentials = np.subtract(rows, peak[:, None], out=scratch[: len(rows)])
            np.exp(exponentials, out=exponentials)
            exponentials.sum(axis=1, dtype=np.float64, out=sums[block])
            peaks[block], top[block] = peak, best

    threads.spread(score, count)
    log_sums = np.log(sums)
    return RowScores(
        nll=log_sums - (logits[np.arange(count), targets] - peaks).astype(np.float64),
        top=top,
        top_p=(1 / sums).astype(np.float32),
        normalizer=peaks + log_sums,
    )


def divergence(
    reference: np.ndarray,
    logits: np.ndarray,
    normalizer: np.ndarray | None = None,
    threads: Threads = _ONE_THREAD,
) -> np.ndarray:
    """Kullback-Leibler divergence of each row, float64 in nats, shape (n,).

    ``Σ p_b (log p_b − log q)`` over tokens with ``log p_b > −16``, not renormalized, as
    ``log_softmax`` with a base in llama.cpp's ``tools/perplexity/perplexity.cpp``.

    Args:
        reference: float32 logits of the reference, shape (n, n_vocab).
        logits: float32 logits of the other model, same shape.
        normalizer: what :func:`score_rows` returned for ``logits``; None works it out.
        threads: do the work.

    """
    if normalizer is None:
        targets = np.zeros(len(logits), dtype=np.intp)
        normalizer = score_rows(logits, targets, threads).normalizer
    total, step = np.empty(len(logits)), _block_rows(logits, threads)

    def compare(span: slice) -> None:
        shape = step, logits.shape[1]
        scratch, kept = np.empty(shape, dtype=np.float32), np.empty(shape, dtype=np.float32)
        is_counted = np.empty(shape, dtype=bool)
        for block in _blocks(span, step):
            rows = reference[block]
            n_rows, peak = len(rows), rows.max(axis=1)
            shifted = np.subtract(rows, peak[:, None], out=scratch[:n_rows])
            weights = np.exp(shifted, out=kept[:n_rows])
            sums = weights.sum(axis=1, dtype=np.float64)
            log_sums = np.log(sums)
            least = (log_sums + MIN_LOG_PROBABILITY).astype(np.float32)[:, None]
            weights *= np.greater(shifted, least, out=is_counted[:n_rows])
            # The difference of the logits first: what rounds is then as small as the divergence.
            offset = peak + log_sums - normalizer[block]
            difference = np.subtract(rows, logits[block], out=shifted)
            difference -= offset.astype(np.float32)[:, None]
            weights *= difference
            total[block] = weights.sum(axis=1, dtype=np.float64) / sums

    threads.spread(compare, len(logits))
    return total


def _block_rows(logits: np.ndarray, threads: Threads) -> int:
    _, n_vocab = logits.shape
    elements = _BLOCK_ELEMENTS if threads.n_threads <= 2 else _SHARED_BLOCK_ELEMENTS
    return max(1, int(elements // n_vocab))


def _blocks(span: slice, step: int) -> list[slice]:
    stop: int = span.stop
    return [slice(start, min(start + step, stop)) for start in range(span.start, stop, step)]
