"""Divergence, drift and a common cause, judged."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from pytest_quantgate.config.limits import default_limits
from pytest_quantgate.config.schema import Limits
from pytest_quantgate.gate.judge import conclude
from pytest_quantgate.gate.judges.batches import judge_batches
from pytest_quantgate.gate.judges.divergence import judge_divergence
from pytest_quantgate.gate.judges.perplexity import judge_perplexity
from pytest_quantgate.gate.observation import Observation
from pytest_quantgate.results.baseline import Baseline, Divergence
from pytest_quantgate.results.measurements.batches import BatchMeasurement, Geometry
from pytest_quantgate.results.measurements.perplexity import PerplexityMeasurement
from pytest_quantgate.results.verdicts import VerdictKind
from pytest_quantgate.stats import plan_looks
from tests.gate.judged import BASELINE, FORMAT, change_cell, measurement, observe, wobble

LAST = plan_looks((16,), 16, 16)[0]


def diverging(kld: float, amplitude: float = 0.1) -> PerplexityMeasurement:
    """Return chunks of 100 tokens with this mean divergence, give or take a part of it."""
    plain = measurement()
    values = kld * (1 + amplitude * np.sin(np.arange(1600).reshape(16, 100)))
    return replace(
        plain,
        kld_nats=values.astype(np.float32),
        chunks=plain.chunks.replace(kld_sum_nats=[float(row.sum()) for row in values]),
    )


def observe_divergence(kld: float, amplitude: float = 0.1) -> Observation:
    """Return an observation with a reference and this divergence from it."""
    return observe(diverging(kld, amplitude), measurement())


def with_divergence(kld: float) -> Baseline:
    """Return a baseline of this divergence."""
    chunks = diverging(kld).chunks.replace(same_top=(100,) * 16)
    return BASELINE.model_copy(
        update={
            "perplexity": BASELINE.scored.model_copy(update={"chunks": chunks}),
            "divergence": Divergence(
                mean_kld_nats=kld, same_top=1.0, reference_per_token_sha256=""
            ),
        }
    )


def kinds(seen: Observation, limits: Limits, baseline: Baseline | None = None) -> set[VerdictKind]:
    """Return the verdicts on the divergence."""
    return {item.verdict for item in judge_divergence(seen, limits, baseline, LAST)}


def test_a_mean_is_judged_by_its_bounds() -> None:
    assert kinds(observe_divergence(0.05), Limits(kld_mean_max=0.06)) == {VerdictKind.PASS}
    assert kinds(observe_divergence(0.05), Limits(kld_mean_max=0.04)) == {VerdictKind.REGRESSED}
    wide = observe_divergence(0.05, amplitude=40)
    assert kinds(wide, Limits(kld_mean_max=0.0501)) == {VerdictKind.INCONCLUSIVE}


def test_garbage_is_red_by_default_and_anything_else_is_not() -> None:
    limits = default_limits(FORMAT)
    assert kinds(observe_divergence(0.9), limits) == {VerdictKind.PASS}
    assert kinds(observe_divergence(1.1), limits) == {VerdictKind.REGRESSED}


def test_percentile_and_top_tokens_have_limits() -> None:
    seen = observe_divergence(0.05)
    assert kinds(seen, Limits(kld_p99_max=0.06)) == {VerdictKind.PASS}
    assert kinds(seen, Limits(kld_p99_max=0.05)) == {VerdictKind.REGRESSED}
    assert kinds(seen, Limits(same_top_min=0.9)) == {VerdictKind.PASS}
    others = np.zeros((16, 100), dtype=np.int32)
    others[:, ::4] = 7
    seen = observe(replace(diverging(0.05), top_tokens=others), measurement())
    assert kinds(seen, Limits(same_top_min=0.9)) == {VerdictKind.REGRESSED}


EARLY = plan_looks((16,), 64, 64)[0]


def test_a_few_tokens_without_another_top_token_prove_nothing() -> None:
    """Unless they are the reference's own, bit by bit, or nobody could ask for more."""

    def with_tokens(tokens: int, shift: float = 0.01, n_chunks: int = 16) -> Observation:
        seen = measurement(shift, n_chunks)
        chunks = seen.chunks.replace(
            tokens=[tokens] * n_chunks,
            kld_sum_nats=[0.1] * n_chunks,
            same_top=[tokens] * n_chunks,
        )
        return observe(
            replace(seen, chunks=chunks, top_tokens=None), measurement(n_chunks=n_chunks)
        )

    limits = Limits(same_top_min=0.99)
    assert kinds(with_tokens(5, n_chunks=8), limits) == {VerdictKind.INCONCLUSIVE}
    assert kinds(with_tokens(100), limits) == {VerdictKind.PASS}
    assert kinds(with_tokens(100, n_chunks=4), limits) == {VerdictKind.INCONCLUSIVE}
    assert kinds(with_tokens(5, 0.0, 8), limits) == {VerdictKind.PASS}, "the reference itself"
    exact = Limits(same_top_min=1.0)
    assert kinds(with_tokens(100), exact) == {VerdictKind.PASS}
    assert kinds(with_tokens(100, n_chunks=4), exact) == {VerdictKind.INCONCLUSIVE}
    (early,) = judge_divergence(with_tokens(100), exact, None, EARLY)
    assert early.verdict is VerdictKind.INCONCLUSIVE


@pytest.mark.parametrize(
    ("limits", "at_the_end", "early"),
    [
        (Limits(kld_p99_max=0.06), VerdictKind.PASS, VerdictKind.INCONCLUSIVE),
        (Limits(kld_p99_max=0.05), VerdictKind.REGRESSED, VerdictKind.INCONCLUSIVE),
        (Limits(kld_p999_max=0.06), VerdictKind.PASS, VerdictKind.INCONCLUSIVE),
        (Limits(kld_p999_max=0.05), VerdictKind.REGRESSED, VerdictKind.INCONCLUSIVE),
        (Limits(kld_mean_max=1.0), VerdictKind.PASS, VerdictKind.PASS),
    ],
)
def test_what_the_first_chunks_show_is_no_fact_of_the_whole(
    limits: Limits, at_the_end: VerdictKind, early: VerdictKind
) -> None:
    seen = observe_divergence(0.05)
    assert kinds(seen, limits) == {at_the_end}
    assert {item.verdict for item in judge_divergence(seen, limits, None, EARLY)} == {early}


def test_the_default_maximum_waits_for_the_whole_where_the_bounds_do_not_tell() -> None:
    limits = Limits(kld_mean_max=1.0)
    wide = observe_divergence(0.98, amplitude=10)
    assert kinds(wide, limits) == {VerdictKind.PASS}
    (early,) = judge_divergence(wide, limits, None, EARLY)
    assert early.verdict is VerdictKind.INCONCLUSIVE
    assert "scored so far: the first 16 chunks" in str(early.reason)


def test_sums_alone_are_judged_as_far_as_they_go() -> None:
    """From an engine that tells no values of single tokens, and here no percentiles either."""
    full = diverging(0.05)
    chunks = full.chunks.replace(top_tokens=(), same_top=[95] * len(full.chunks))
    summed = replace(full, chunks=chunks, nll_nats=None, top_tokens=None, kld_nats=None)
    seen = observe(summed, measurement())
    assert kinds(seen, Limits(kld_mean_max=0.06)) == {VerdictKind.PASS}
    assert kinds(seen, Limits(same_top_min=0.9)) == {VerdictKind.PASS}
    assert kinds(seen, Limits(same_top_min=0.97)) == {VerdictKind.REGRESSED}
    assert kinds(seen, Limits(kld_p99_max=0.06)) == {VerdictKind.UNSUPPORTED}


def test_not_a_number_is_invalid() -> None:
    seen = observe_divergence(0.05)
    sums = [float("nan"), *seen.chunks.kld_sum_nats[1:]]
    seen = change_cell(seen, chunks=seen.chunks.replace(kld_sum_nats=sums))
    assert kinds(seen, default_limits(FORMAT)) == {VerdictKind.INVALID}


def test_the_baselines_divergence_may_grow_by_a_little() -> None:
    limits = Limits(kld_vs_baseline=0.03)
    baseline = with_divergence(0.05)
    assert kinds(observe_divergence(0.05), limits, baseline) == {VerdictKind.PASS}
    assert kinds(observe_divergence(0.0513), limits, baseline) == {VerdictKind.PASS}
    assert kinds(observe_divergence(0.06), limits, baseline) == {VerdictKind.REGRESSED}
    tiny = with_divergence(1e-5)
    assert kinds(observe_divergence(5e-5), limits, tiny) == {VerdictKind.PASS}, "below 1e-4 nats"


@pytest.mark.parametrize(
    ("kld", "kind"), [(0.047, VerdictKind.IMPROVED), (0.0, VerdictKind.SUSPICIOUS)]
)
def test_a_divergence_that_is_gone_is_suspicious(kld: float, kind: VerdictKind) -> None:
    """As where an engine computes with the reference's weights."""
    seen, baseline = observe_divergence(kld), with_divergence(0.05)
    judgements = judge_divergence(seen, Limits(kld_vs_baseline=0.03), baseline, LAST)
    assert conclude(judgements, seen, baseline).kind is kind


def test_what_cannot_be_compared_is_red_for_the_divergence_alone() -> None:
    """A test may ask for nothing but the divergence, so no other metric would say it."""
    seen, limits = observe_divergence(0.05), Limits(kld_vs_baseline=0.03)
    baseline = with_divergence(0.05)
    other_text = change_cell(seen, text_sha256="u" * 64)
    assert kinds(other_text, limits, baseline) == {VerdictKind.NOT_COMPARABLE}
    chunks = seen.chunks.replace(token_ids=["f" * 16] * len(seen.chunks))
    other_ids = change_cell(seen, chunks=chunks)
    assert kinds(other_ids, limits, baseline) == {VerdictKind.REGRESSED}
    assert kinds(seen, limits, BASELINE) == {VerdictKind.NO_BASELINE}


def test_an_engine_without_distributions_is_unsupported_where_they_are_asked_for() -> None:
    seen = observe(reference=measurement())
    limits = default_limits(FORMAT)
    assert kinds(seen, limits) == set()
    assert kinds(seen, limits, with_divergence(0.05)) == {VerdictKind.UNSUPPORTED}
    for asked in (
        Limits(same_top_min=0.9),
        Limits(kld_vs_baseline=0.03),
        Limits(kld_mean_max=limits.kld_mean_max),
    ):
        assert kinds(seen, asked, BASELINE) == {VerdictKind.UNSUPPORTED}
    assert kinds(observe(), Limits(same_top_min=0.9)) == set(), "the reference has none"


def test_a_move_of_the_reference_is_a_common_cause() -> None:
    seen = observe(
        perplexity=measurement(wobble(0.05)),
        reference=measurement(wobble(0.05, 0.0004)),
        reference_baseline=BASELINE,
    )
    judgements = judge_perplexity(seen, default_limits(FORMAT), BASELINE, LAST)
    verdict = conclude(judgements, seen, BASELINE)
    assert verdict.kind is VerdictKind.REGRESSED
    assert "common cause: the reference moved +5.1" in str(verdict.cause)
    excess = str(verdict.cause).partition("the excess over it is ")[2]
    assert excess.startswith(("+0.0", "−0.0"))


@pytest.mark.parametrize(
    ("kld", "verdict"),
    [
        (0.001, VerdictKind.PASS),
        (0.5, VerdictKind.REGRESSED),
        (float("nan"), VerdictKind.INVALID),
    ],
)
def test_the_worst_batch_geometry_decides(kld: float, verdict: VerdictKind) -> None:
    geometries = tuple(
        Geometry(
            n_ubatch=n, repack=True, mean_kld_nats=value, max_kld_nats=value, top_tokens_changed=0
        )
        for n, value in ((1, 1e-6), (3, kld), (8, 1e-5))
    )
    seen = observe(measured={"batches": BatchMeasurement(geometries=geometries)})
    (judgement,) = judge_batches(seen, default_limits(FORMAT), None, LAST)
    assert judgement.verdict is verdict
    assert "n_ubatch 3" in str(judgement.reason)
