"""What is worked out from rows of logits: likelihoods, top tokens, divergence.

A row of a large vocabulary passes through many element-wise steps. They are taken a few rows at
a time, so that the steps' arrays stay in a processor's own cache: over all rows at once each
step would wait for memory. Threads share these blocks.

Runs in the worker alone: standard library and numpy.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from pytest_quantgate.engines.worker.threads import Threads

MIN_LOG_PROBABILITY = -16.0
"""llama-perplexity leaves tokens out of the divergence whose log-probability is not above it."""

_BLOCK_ELEMENTS = 1 << 16  # 256 kB of float32 an array
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
    count = len(targets)
    nll, normalizer = np.empty(count), np.empty(count)
    top, top_p = np.empty(count, dtype=np.int32), np.empty(count, dtype=np.float32)

    def score(block: slice) -> None:
        rows = logits[block]
        index = np.arange(len(rows))
        best = rows.argmax(axis=1)
        peak = rows[index, best]
        sums = _shifted_exp(rows, peak)[1].sum(axis=1, dtype=np.float64)
        log_sums = np.log(sums)
        nll[block] = log_sums - (rows[index, targets[block]] - peak).astype(np.float64)
        normalizer[block] = peak + log_sums
        top[block] = best
        top_p[block] = 1 / sums

    threads.each(score, _blocks(logits))
    return RowScores(nll=nll, top=top, top_p=top_p, normalizer=normalizer)


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
    total = np.empty(len(logits))

    def compare(block: slice) -> None:
        rows = reference[block]
        peak = rows.max(axis=1)
        shifted, weights = _shifted_exp(rows, peak)
        sums = weights.sum(axis=1, dtype=np.float64)
        log_sums = np.log(sums)
        weights *= shifted > (log_sums + MIN_LOG_PROBABILITY).astype(np.float32)[:, None]
        # The difference of the logits first: what rounds is then as small as the divergence.
        offset = peak + log_sums - normalizer[block]
        difference = np.subtract(rows, logits[block], out=shifted)
        difference -= offset.astype(np.float32)[:, None]
        weights *= difference
        total[block] = weights.sum(axis=1, dtype=np.float64) / sums

    threads.each(compare, _blocks(logits))
    return total


def _blocks(logits: np.ndarray) -> list[slice]:
    count, n_vocab = logits.shape
    step = max(1, _BLOCK_ELEMENTS // n_vocab)
    return [slice(start, min(start + step, count)) for start in range(0, count, step)]


def _shifted_exp(rows: np.ndarray, peak: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    shifted = rows - peak[:, None]
    return shifted, np.exp(shifted)
