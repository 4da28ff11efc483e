"""A change of the runtime alone: the divergence from the reference decides with perplexity."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from pytest_quantgate.config.limit import MIN_KLD_INCREASE_NATS
from pytest_quantgate.config.limits import default_limits
from pytest_quantgate.gate.acceptance import make_baseline
from pytest_quantgate.gate.judge import conclude
from pytest_quantgate.gate.judges.divergence import judge_divergence
from pytest_quantgate.gate.judges.perplexity import judge_perplexity
from pytest_quantgate.gate.judges.runtime import runtime_kld_limit_nats
from pytest_quantgate.gate.observation import Observation
from pytest_quantgate.results.baseline import Baseline
from pytest_quantgate.results.measurements.perplexity import PerplexityMeasurement
from pytest_quantgate.results.verdicts import Verdict, VerdictKind
from tests.gate.judged import FORMAT, LAST, TENSORS, measurement, observe

KLD_NATS = 0.02
NOISE = np.random.default_rng(4).standard_normal(16)


def scored(nll_nats: float, kld_nats: float) -> PerplexityMeasurement:
    """Return chunks moved by this much a token, and by a scatter of 0.008 and 0.0003 nats."""
    plain = measurement([float(nll_nats + 0.008 * noise) for noise in NOISE - NOISE.mean()])
    kld = np.repeat(KLD_NATS + kld_nats + 0.0003 * NOISE[::-1], 100).reshape(16, 100)
    return replace(
        plain,
        kld_nats=kld.astype(np.float32),
        chunks=plain.chunks.replace(kld_sum_nats=[float(row.sum()) for row in kld]),
    )


def observed(nll_nats: float, kld_nats: float, reference_nats: float = 0.0) -> Observation:
    """Return an observation of a quantized cell beside its reference."""
    reference = measurement(reference_nats)
    return replace(
        observe(scored(nll_nats, kld_nats), reference), reference_baseline=REFERENCE_BASELINE
    )


REFERENCE_BASELINE = make_baseline(observe(measurement(), format="F16").cell, reason="first")


def baseline() -> Baseline:
    """Return what was stored before, which has no scatter of its own."""
    seen = observe(
        replace(
            scored(0.0, 0.0),
            chunks=measurement().chunks.replace(kld_sum_nats=[100 * KLD_NATS] * 16),
        ),
        measurement(),
    )
    return make_baseline(seen.cell, reason="first")


def judge(seen: Observation) -> Verdict:
    limits = default_limits(FORMAT)
    judgements = [
        *judge_perplexity(seen, limits, baseline(), LAST),
        *judge_divergence(seen, limits, baseline(), LAST),
    ]
    return conclude(judgements, seen, baseline())


def test_a_harmless_change_passes_where_perplexity_alone_cannot_tell() -> None:
    verdict = judge(observed(0.001, 0.0))
    assert verdict.kind is VerdictKind.PASS
    (judgement,) = [item for item in verdict.judgements if item.metric == "perplexity"]
    assert judgement.high is not None
    assert judgement.high > 0.0025
    assert "only the runtime changed" in str(judgement.reason)
    assert "the rise of PPL is below +" in str(judgement.reason)


@pytest.mark.parametrize(
    "changes",
    [
        {"tensors": TENSORS[:-1]},
        {"metadata": {"llama.rope.freq_base": "10000.0"}},
    ],
)
def test_another_file_is_no_change_of_the_runtime_alone(changes: dict[str, object]) -> None:
    seen = observe(scored(0.001, 0.0), measurement(), **changes)  # type: ignore[arg-type]
    seen = replace(seen, reference_baseline=REFERENCE_BASELINE)
    assert judge(seen).kind is VerdictKind.INCONCLUSIVE


@pytest.mark.parametrize("reference_nats", [0.05, -0.05], ids=["worse", "better"])
def test_a_reference_that_moved_vouches_for_nothing(reference_nats: float) -> None:
    moved = observed(0.001, 0.0, reference_nats=reference_nats)
    assert judge(moved).kind is VerdictKind.INCONCLUSIVE


@pytest.mark.parametrize("reference_nats", [0.001, -0.001], ids=["worse", "better"])
def test_a_reference_that_moved_within_its_limit_stands(reference_nats: float) -> None:
    assert judge(observed(0.001, 0.0, reference_nats=reference_nats)).kind is VerdictKind.PASS


def test_a_reference_that_is_not_stored_vouches_for_nothing() -> None:
    unknown = replace(observed(0.001, 0.0), reference_baseline=None)
    assert judge(unknown).kind is VerdictKind.INCONCLUSIVE


def test_damage_that_the_divergence_shows_is_red() -> None:
    verdict = judge(observed(0.003, 0.003))
    assert verdict.kind is VerdictKind.REGRESSED
    assert "mean KLD rose by 0.003" in verdict.reason
    assert "nats, 15" in verdict.reason


def test_damage_that_the_divergence_does_not_see_is_held_to_four_limits() -> None:
    assert judge(observed(0.008, 0.0)).kind is not VerdictKind.PASS
    assert judge(observed(0.030, 0.0)).kind is VerdictKind.REGRESSED


def test_a_limit_that_the_project_set_is_not_raised_to_what_is_harmless_by_default() -> None:
    """The default share of 3 % would be raised to 0.00075 nats; a share that was set holds."""
    moved = observed(0.0, 0.0008)
    stored = baseline()
    assert stored.divergence is not None
    before_nats = stored.divergence.mean_kld_nats
    for share, kind in ((0.01, VerdictKind.REGRESSED), (0.06, VerdictKind.PASS)):
        limits = default_limits(FORMAT).model_copy(update={"kld_vs_baseline": share})
        (judgement,) = [
            item
            for item in judge_divergence(moved, limits, stored, LAST)
            if item.against == "baseline"
        ]
        assert judgement.verdict is kind
        assert judgement.limit == pytest.approx(share * before_nats)
    small = default_limits(FORMAT).model_copy(update={"kld_vs_baseline": 0.001})
    assert runtime_kld_limit_nats(small, stored, 0.0025) == MIN_KLD_INCREASE_NATS
    assert runtime_kld_limit_nats(default_limits(FORMAT), stored, 0.0025) == pytest.approx(0.00075)
