"""One file under many conditions: batch sizes, attention, types of the cache, lengths, devices.

Every condition decodes the same tokens as a reference condition. Of long texts some tokens of each
stretch are compared, so that memory stays bounded for a large vocabulary.

Runs in the worker alone: standard library, numpy and llama_cpp.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np

from pytest_quantgate.engines.messages import (
    ConditionCompared,
    ConditionsCompared,
    Message,
    Progress,
    SweepConditions,
    SweptCondition,
)
from pytest_quantgate.engines.worker.errors import EngineRefusal
from pytest_quantgate.engines.worker.llama import LogTap, Model
from pytest_quantgate.engines.worker.rows import divergence, score_rows
from pytest_quantgate.engines.worker.scoring import chunk_tokens, read_text

BLOCK = 32
"""Tokens of a block, whose mean stands for its place in the text."""

STRETCH = 256
"""Of so many tokens of a long text, the last block is compared."""

_LENGTH_AT_ONCE = 512
"""Up to so many tokens all are compared."""


def sweep_conditions(
    request: SweepConditions, log: LogTap, send: Callable[[Message], None]
) -> ConditionsCompared:
    """Compare each condition with the reference; one that is refused is a row, not an error."""
    sweep = _Sweep(request, log, send)
    rows = []
    try:
        for number, condition in enumerate(request.conditions):
            try:
                rows.append(sweep.compare(condition))
            except EngineRefusal as error:
                rows.append(ConditionCompared(problem=str(error)))
            send(Progress(what="sweep", done=number + 1, total=len(request.conditions)))
    finally:
        sweep.close()
    return ConditionsCompared(rows=tuple(rows))


def compared_positions(n_tokens: int) -> np.ndarray:
    """Return the positions whose distributions are compared, in whole blocks."""
    starts = (
        range(0, n_tokens - BLOCK + 1, BLOCK)
        if n_tokens <= _LENGTH_AT_ONCE
        else range(STRETCH - BLOCK, n_tokens - BLOCK + 1, STRETCH)
    )
    return np.concatenate([np.arange(start, start + BLOCK) for start in starts])


class _Sweep:
    """Keeps the model that was loaded last, and the reference's distributions by length."""

    def __init__(
        self, request: SweepConditions, log: LogTap, send: Callable[[Message], None]
    ) -> None:
        self._send = send
        self._request = request
        self._log = log
        self._model: Model | None = None
        self._loaded: tuple[str, bool] | None = None
        self._tokens: np.ndarray | None = None
        self._references: dict[int, np.ndarray] = {}

    def close(self) -> None:
        """Free the model."""
        if self._model is not None:
            self._model.close()
        self._model = self._loaded = None

    def compare(self, condition: SweptCondition) -> ConditionCompared:
        """Compare one condition with the reference condition on the same tokens."""
        n_tokens = condition.n_tokens
        positions = compared_positions(n_tokens)
        reference = self._reference(n_tokens)
        logits = self._logits(condition, positions)
        kld = divergence(reference, logits)
        blocks = kld.reshape(-1, BLOCK).mean(axis=1)
        increase, error = self._nll_increase(logits, positions, n_tokens)
        changed = np.count_nonzero(reference.argmax(axis=1) != logits.argmax(axis=1))
        return ConditionCompared(
            mean_kld_nats=float(kld.mean()),
            top_tokens_changed=int(changed),
            block_starts=positions[::BLOCK].astype(np.int32).tobytes(),
            block_kld_nats=blocks.tobytes(),
            nll_increase_nats=increase,
            nll_error_nats=error,
        )

    def _reference(self, n_tokens: int) -> np.ndarray:
        if n_tokens not in self._references:
            if n_tokens != self._request.n_tokens:
                # Longer ones are used once, and large.
                self._references = {
                    length: kept
                    for length, kept in self._references.items()
                    if length == self._request.n_tokens
                }
            own = self._own(n_tokens)
            self._references[n_tokens] = self._logits(own, compared_positions(n_tokens))
        return self._references[n_tokens]

    def _own(self, n_tokens: int) -> SweptCondition:
        request = self._request
        return SweptCondition(
            n_tokens=n_tokens,
            n_ctx=n_tokens,
            n_ubatch=request.n_ubatch,
            n_threads=request.n_threads,
            device=request.device,
            flash_attention=request.flash_attention,
            type_k=request.type_k,
            type_v=request.type_v,
            repack=request.repack,
        )

    def _nll_increase(
        self, logits: np.ndarray, positions: np.ndarray, n_tokens: int
    ) -> tuple[float, float]:
        """Return how much less likely tokens are than with a short text before them."""
        short = self._request.n_tokens
        if n_tokens <= short:
            return 0.0, 0.0
        # With fewer than a stretch before them tokens of the short text would be unlikely too.
        is_last_block = positions % STRETCH >= STRETCH - BLOCK
        far = is_last_block & (positions >= short) & (positions < n_tokens - 1)
        targets = self._ids()[positions[far] + 1]
        long_nll = score_rows(logits[far], targets).nll
        short_nll = []
        for start in np.unique(positions[far] // STRETCH) * STRETCH + STRETCH - short:
            own = positions[far & (positions // STRETCH == (start + short) // STRETCH - 1)]
            tokens = self._ids()[start : start + short]
            rows = self._decode(self._own(short), tokens, own - start)
            short_nll.append(score_rows(rows, self._ids()[own + 1]).nll)
        increase = long_nll - np.concatenate(short_nll)
        # Tokens of one block depend on each other: it counts as one value.
        blocks = increase[: len(increase) // BLOCK * BLOCK].reshape(-1, BLOCK).mean(axis=1)
        spread = increase.std() / np.sqrt(BLOCK) if len(blocks) < 3 else blocks.std(ddof=1)
        error = spread / np.sqrt(max(len(blocks), 1))
        return float(np.mean(increase)), float(error)

    def _logits(self, condition: SweptCondition, positions: np.ndarray) -> np.ndarray:
        self._load(condition)
        return self._decode(condition, self._ids()[: condition.n_tokens], positions)

    def _decode(
        self, condition: SweptCondition, tokens: np.ndarray, positions: np.ndarray
    ) -> np.ndarray:
        """Return the logits at some positions of tokens that are decoded from the beginning."""
        self._load(condition)
        model = self._model
        assert model is not None
        n_ubatch = min(condition.n_ubatch, len(tokens))
        request = replace(
            self._request,
            device=condition.device,
            repack=condition.repack,
            flash_attention=condition.flash_attention,
            type_k=condition.type_k,
            type_v=condition.type_v,
            n_threads=condition.n_threads,
        )
        n_ctx = max(condition.n_ctx, len(tokens))
        model.open(request, n_ctx=n_ctx, n_batch=n_ubatch, n_ubatch=n_ubatch)
        model.forget()
        kept = []
        for start in range(0, len(tokens), n_ubatch):
            rows = model.decode_batch(tokens[start : start + n_ubatch], start, 0)
            inside = positions[(positions >= start) & (positions < start + len(rows))]
            kept.append(rows[inside - start].copy())
            if len(tokens) > _LENGTH_AT_ONCE:
                self._send(Progress(what="decode", done=start, total=len(tokens)))
        return np.concatenate(kept)

    def _load(self, condition: SweptCondition) -> None:
        key = (condition.device, condition.repack)
        if self._loaded != key:
            self.close()
            request = replace(self._request, device=condition.device, repack=condition.repack)
            self._model = Model(request, log=self._log)
            self._loaded = key

    def _ids(self) -> np.ndarray:
        if self._tokens is None:
            assert self._model is not None
            vocabulary = self._model.vocabulary
            tokens = vocabulary.tokenize(read_text(self._request.text))
            self._tokens = chunk_tokens(tokens, 0, len(tokens), vocabulary)
        return self._tokens
