"""Divergence statistics against their definitions."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest

from pytest_quantgate.engines.messages import DivergenceSummary
from pytest_quantgate.metrics.divergence import measure_divergence, same_top_tokens
from pytest_quantgate.results.chunk_table import ChunkTable
from pytest_quantgate.results.measurements.perplexity import PerplexityMeasurement

CHUNKS, TOKENS = 6, 50


def scores(seed: int, *, with_divergence: bool) -> PerplexityMeasurement:
    """Return random per-token values; two domains, a document a chunk."""
    random = np.random.default_rng(seed)
    nll = random.uniform(0.1, 4, (CHUNKS, TOKENS)).astype(np.float32)
    kld = random.exponential(0.05, (CHUNKS, TOKENS)).astype(np.float32)
    return PerplexityMeasurement(
        chunks=ChunkTable(
            index=tuple(range(CHUNKS)),
            tokens=(TOKENS,) * CHUNKS,
            nll_sum_nats=tuple(float(row.sum(dtype=np.float64)) for row in nll),
            token_ids=("",) * CHUNKS,
            top_tokens=("",) * CHUNKS,
            document=tuple(range(CHUNKS)),
            domain=tuple("prose" if number < 2 else "code" for number in range(CHUNKS)),
            kld_sum_nats=(
                tuple(float(row.sum(dtype=np.float64)) for row in kld) if with_divergence else ()
            ),
        ),
        nll_nats=nll,
        top_tokens=random.integers(0, 3, (CHUNKS, TOKENS)).astype(np.int32),
        n_chunks_in_text=CHUNKS,
        seconds_s=1.0,
        top_probabilities=random.uniform(0, 1, (CHUNKS, TOKENS)).astype(np.float32),
        kld_nats=kld if with_divergence else None,
    )


def test_the_figures_are_those_of_their_definitions() -> None:
    seen, reference = scores(1, with_divergence=True), scores(2, with_divergence=False)
    found = measure_divergence(seen, reference)
    assert found is not None
    assert seen.kld_nats is not None
    assert seen.nll_nats is not None
    assert reference.nll_nats is not None
    kld = seen.kld_nats.astype(np.float64)
    assert found.mean_kld_nats == pytest.approx(kld.mean(), rel=1e-6)
    assert found.max_kld_nats == kld.max()
    assert found.kld_percentiles_nats["99"] == pytest.approx(np.percentile(kld, 99))
    delta = np.exp(-seen.nll_nats.astype(float)) - np.exp(-reference.nll_nats.astype(float))
    assert found.mean_delta_p == pytest.approx(delta.mean())
    assert found.rms_delta_p == pytest.approx(math.sqrt((delta**2).mean()))
    assert found.delta_p_percentiles["75"] == pytest.approx(np.percentile(delta, 75))
    assert seen.top_tokens is not None
    assert reference.top_tokens is not None
    same = np.equal(seen.top_tokens, reference.top_tokens)
    assert found.same_top == pytest.approx(same.mean())
    assert found.same_top_error > 0


def test_the_parts_make_up_the_whole() -> None:
    found = measure_divergence(scores(1, with_divergence=True), scores(2, with_divergence=False))
    assert found is not None
    for parts in (found.by_domain, found.by_confidence):
        assert sum(part.tokens for part in parts) == found.tokens == CHUNKS * TOKENS
        whole = sum(part.tokens * part.mean_kld_nats for part in parts) / found.tokens
        assert whole == pytest.approx(found.mean_kld_nats, rel=1e-5)
    assert [part.name for part in found.by_domain] == ["prose", "code"]
    names = [part.name for part in found.by_confidence]
    assert names == ["0-0.25", "0.25-0.5", "0.5-0.75", "0.75-0.95", "0.95-1"]


def test_only_common_chunks_count() -> None:
    seen, reference = scores(1, with_divergence=True), scores(2, with_divergence=False)
    half = measure_divergence(seen, reference.first(3))
    assert half is not None
    assert half.tokens == 3 * TOKENS


def test_without_distributions_there_is_none() -> None:
    seen, reference = scores(1, with_divergence=False), scores(2, with_divergence=False)
    assert measure_divergence(seen, reference) is None
    assert measure_divergence(scores(1, with_divergence=True), reference.first(0)) is None


def test_sums_alone_give_what_they_can() -> None:
    """From an engine that tells no values of single tokens."""
    whole, reference = scores(1, with_divergence=True), scores(2, with_divergence=False)
    exact = measure_divergence(whole, reference)
    same = same_top_tokens(whole, reference)
    assert exact is not None
    assert same is not None
    chunks = whole.chunks.replace(top_tokens=(), same_top=same)
    seen = replace(whole, chunks=chunks, nll_nats=None, top_tokens=None, kld_nats=None)
    found = measure_divergence(seen, reference)
    assert found is not None
    for name in ("tokens", "mean_kld_nats", "mean_kld_error_nats", "same_top", "same_top_error"):
        assert getattr(found, name) == getattr(exact, name)
    assert found.by_domain == exact.by_domain
    assert found.by_confidence == ()
    assert found.max_kld_nats is found.rms_delta_p is None
    assert found.kld_percentiles_nats == found.delta_p_percentiles == {}
    told = DivergenceSummary(
        max_kld_nats=0.5,
        min_kld_nats=0.0,
        kld_percentiles_nats=(("99", 0.25),),
        mean_delta_p=-0.01,
        rms_delta_p=0.02,
        delta_p_percentiles=(),
    )
    summed = measure_divergence(replace(seen, summary=told), reference)
    assert summed is not None
    assert summed.kld_percentiles_nats == {"99": 0.25}
    uncounted = chunks.replace(same_top=())
    assert measure_divergence(replace(seen, chunks=uncounted), reference) is None
