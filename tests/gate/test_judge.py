"""Pure decisions: measurement × limit × baseline → verdict and evidence."""

from __future__ import annotations

import math
import re
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytest_quantgate.config.limits import default_limits, merge_limits
from pytest_quantgate.config.schema import Limits
from pytest_quantgate.gate.cause import find_cause
from pytest_quantgate.gate.reasons.words import percent
from pytest_quantgate.gguf.formats import FILE_TYPES, find_format
from pytest_quantgate.results.measurements.perplexity import token_changes
from pytest_quantgate.results.verdicts import VerdictKind, worst
from pytest_quantgate.stats import plan_looks
from tests.gate.judged import (
    BASELINE,
    baseline_of,
    judge,
    measurement,
    observe,
    wobble,
)


def test_equal_values_pass_as_identical() -> None:
    verdict = judge(observe())
    assert verdict.kind is VerdictKind.PASS
    assert "PPL identical to the baseline's on 1,600 tokens" in verdict.reason
    assert verdict.cause is None


def test_a_clear_loss_is_regressed_with_its_evidence() -> None:
    seen = observe(perplexity=measurement(wobble(0.05)))
    verdict = judge(seen)
    assert verdict.kind is VerdictKind.REGRESSED
    (judgement,) = [item for item in verdict.judgements if item.metric == "perplexity"]
    assert judgement.estimate == pytest.approx(math.expm1(0.05), abs=0.001)
    assert judgement.low is not None
    assert judgement.estimate is not None
    assert 0.0025 < judgement.low < judgement.estimate
    assert judgement.limit == 0.0025
    assert str(judgement.reason) == (
        "PPL rose by 5.13 % (95 %: +5.11 % to +5.15 %) against the baseline over 16 chunks; the"
        " limit is +0.25 %; even at 99.9 % confidence it is above +5.08 %"
    )


def test_a_clear_gain_is_improved_and_green() -> None:
    verdict = judge(observe(perplexity=measurement(wobble(-0.005))))
    assert verdict.kind is VerdictKind.IMPROVED
    assert verdict.kind.is_green


def test_a_gain_beyond_four_limits_on_an_equal_file_is_suspicious() -> None:
    verdict = judge(observe(perplexity=measurement(wobble(-0.9))))
    assert verdict.kind is VerdictKind.SUSPICIOUS
    assert not verdict.kind.is_green
    assert "an equal file cannot become better by more than 4 limits" in verdict.reason
    assert verdict.cause is not None
    metadata = observe(perplexity=measurement(wobble(-0.9)), metadata={"other": "1"})
    assert judge(metadata).kind is VerdictKind.IMPROVED, "another file may be better"
    wide = Limits(ppl_vs_baseline=0.5)
    assert judge(observe(perplexity=measurement(wobble(-0.9))), wide).kind is VerdictKind.IMPROVED


def test_a_gain_of_perplexity_does_not_hide_a_larger_file() -> None:
    seen = observe(perplexity=measurement(wobble(-0.05)), file_bytes=1_100_000)
    assert judge(seen).kind is VerdictKind.REGRESSED


def test_a_small_loss_within_the_limit_passes() -> None:
    assert judge(observe(perplexity=measurement(wobble(0.001, 0.0002)))).kind is VerdictKind.PASS


def test_a_limit_between_the_bounds_is_inconclusive_and_says_how_many_more_chunks() -> None:
    verdict = judge(observe(perplexity=measurement(wobble(0.004, 0.05))))
    assert verdict.kind is VerdictKind.INCONCLUSIVE
    assert "cannot tell: 16 chunks fix the change to ±1.92 points" in verdict.reason
    (judgement,) = [item for item in verdict.judgements if item.metric == "perplexity"]
    assert judgement.more_chunks is not None
    assert f"about {judgement.more_chunks:,} more chunks would decide" in verdict.reason
    steps = "raise baseline_chunks and store the baseline anew, and score another text besides"
    assert f"(the text has 84 more: {steps})" in verdict.reason


def test_at_the_end_of_the_text_only_another_text_helps() -> None:
    seen = observe(perplexity=measurement(wobble(0.004, 0.05)))
    short = replace(seen, cell=replace(seen.cell, n_chunks_in_text=16))
    verdict = judge(short)
    assert verdict.kind is VerdictKind.INCONCLUSIVE
    assert "the text ends here: score another text besides, or widen the limit" in verdict.reason
    assert "baseline_chunks" not in verdict.reason


def test_few_clusters_are_inconclusive_unless_bit_equal() -> None:
    short = baseline_of(observe(perplexity=measurement(n_chunks=5)))
    assert judge(observe(perplexity=measurement(n_chunks=5)), baseline=short).kind is (
        VerdictKind.PASS
    )
    other = judge(observe(perplexity=measurement([0.05] * 5, n_chunks=5)), baseline=short)
    assert other.kind is VerdictKind.INCONCLUSIVE
    assert "too few clusters" in other.reason


def test_equal_values_at_an_early_look_wait_for_the_rest_of_the_text() -> None:
    """Unless file, libraries and processor are the baseline's: then they stay equal."""
    early = plan_looks((16,), 64, 64)[0]
    assert judge(observe(), look=early).kind is VerdictKind.INCONCLUSIVE
    assert judge(observe(same_computation=True), look=early).kind is VerdictKind.PASS


def test_a_maximum_is_judged_on_all_chunks_that_are_to_be_scored() -> None:
    """The first ones may be easier than the rest."""
    seen, early = observe(), plan_looks((16,), 64, 64)[0]
    ppl = seen.chunks.perplexity
    assert judge(seen, Limits(ppl_max=1.01 * ppl), None).kind is VerdictKind.PASS
    near = judge(seen, Limits(ppl_max=1.01 * ppl), None, look=early)
    assert near.kind is VerdictKind.INCONCLUSIVE
    assert "scored so far: the first 16 chunks" in near.reason
    assert judge(seen, Limits(ppl_max=2 * ppl), None, look=early).kind is VerdictKind.PASS
    assert judge(seen, Limits(ppl_max=ppl / 2), None, look=early).kind is VerdictKind.REGRESSED


def test_a_maximum_takes_the_rest_from_a_baseline_that_computes_the_same() -> None:
    whole = measurement(wobble(0.0)[:8] + [0.2] * 8)
    baseline, early = baseline_of(observe(whole)), plan_looks((8,), 16, 16)[0]
    seen = observe(whole.first(8), same_computation=True)
    limits = Limits(ppl_max=(seen.chunks.perplexity + whole.perplexity) / 2)
    assert judge(seen, limits, None).kind is VerdictKind.PASS, "the first chunks alone"
    assert judge(seen, limits, baseline, look=early).kind is VerdictKind.REGRESSED


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize(
    "limits",
    [
        Limits(),
        Limits(ppl_max=1e9),
        Limits(ppl_vs_baseline=1e9),
        Limits(ppl_vs_reference=1e9),
        Limits(ppl_max=1e9, size_max_bytes=1e9),
    ],
)
def test_what_is_not_finite_is_invalid_whatever_the_limits(value: float, limits: Limits) -> None:
    shifts = [0.0] * 15 + [value]
    with np.errstate(invalid="ignore"):
        seen = observe(perplexity=measurement(shifts), reference=measurement())
    verdict = judge(seen, limits)
    assert verdict.kind is VerdictKind.INVALID
    assert not verdict.kind.is_green


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_reference_that_is_not_finite_passes_nothing(value: float) -> None:
    reference = measurement([value] + [0.0] * 15)
    verdict = judge(observe(reference=reference), Limits(ppl_vs_reference=0.05))
    assert verdict.kind is VerdictKind.INVALID


@given(
    shifts=st.lists(
        st.floats(-0.5, 0.5) | st.sampled_from([math.nan, math.inf]), min_size=16, max_size=16
    )
)
def test_green_means_that_every_chunk_was_finite_and_the_mean_within_the_limit(
    shifts: list[float],
) -> None:
    verdict = judge(observe(perplexity=measurement(shifts)))
    if verdict.kind.is_green:
        assert all(math.isfinite(shift) for shift in shifts)
        assert sum(shifts) / 16 <= math.log1p(0.0025) + 1e-9


def test_without_limits_a_cell_is_measured() -> None:
    assert judge(observe(), Limits(), None).kind is VerdictKind.MEASURED


def test_a_text_with_other_line_ends_is_not_comparable_and_named() -> None:
    seen = observe(text_sha256="x" * 64, text_sha256_with_lf="t" * 64)
    verdict = judge(seen)
    assert verdict.kind is VerdictKind.NOT_COMPARABLE
    assert "it has CRLF line ends where the baseline's text had LF" in verdict.reason


def test_another_text_is_not_comparable() -> None:
    verdict = judge(observe(text_sha256="x" * 64, text_sha256_with_lf="x" * 64))
    assert verdict.kind is VerdictKind.NOT_COMPARABLE
    assert "CRLF" not in verdict.reason


def test_another_source_is_not_comparable_whatever_its_size() -> None:
    """A size against the baseline of another model would say nothing either."""
    verdict = judge(observe(source_sha256="other", file_bytes=2_000_000))
    assert verdict.kind is VerdictKind.NOT_COMPARABLE
    assert "the model's source is another file than the baseline's" in verdict.reason


def test_a_baseline_of_other_chunks_is_not_comparable() -> None:
    scored = measurement().first(4)
    few = observe(scored)
    chunks = scored.chunks.replace(index=[index + 50 for index in scored.chunks.index])
    later = replace(scored, chunks=chunks)
    verdict = judge(few, baseline=baseline_of(observe(perplexity=later)))
    assert verdict.kind is VerdictKind.NOT_COMPARABLE
    assert "none of the chunks" in verdict.reason


def test_a_green_verdict_says_how_many_tokens_changed() -> None:
    shifts = [0.0] * 12 + [1e-6] * 4
    scored = measurement(shifts)
    seen = observe(scored, tokens_changed=token_changes(scored, measurement()))
    verdict = judge(seen)
    assert verdict.kind is VerdictKind.PASS
    assert re.search(r"; [1-9]\d* of 1,600 tokens changed, largest \|Δ\| ", verdict.reason)
    assert verdict.cause is None


def test_sums_that_were_printed_are_identical_to_their_digits_only() -> None:
    """And which tokens changed is not known where sums are all there is."""
    plain = measurement()
    chunks = plain.chunks.replace(top_tokens=())
    seen = observe(perplexity=replace(plain, chunks=chunks, nll_nats=None, top_tokens=None))
    reason = judge(seen).reason
    assert "PPL identical to the baseline's on 1,600 tokens, to the digits printed" in reason
    cause = str(find_cause(seen, BASELINE, moved={"perplexity"}))
    assert "which tokens changed is unknown: the engine reports only sums by chunk" in cause


@pytest.mark.parametrize(
    ("limits", "kind"),
    [
        (Limits(ppl_max=8.0), VerdictKind.PASS),
        (Limits(ppl_max=7.0), VerdictKind.REGRESSED),
        (Limits(size_max_bytes=1_000_000), VerdictKind.PASS),
        (Limits(size_max_bytes=999_999), VerdictKind.REGRESSED),
        (Limits(bits_per_weight_max=4.9), VerdictKind.PASS),
        (Limits(bits_per_weight_max=4.89), VerdictKind.REGRESSED),
        (Limits(size_vs_reference=0.0), VerdictKind.PASS),
        (Limits(size_vs_baseline=0.005), VerdictKind.PASS),
    ],
)
def test_limits_without_sampling_error(limits: Limits, kind: VerdictKind) -> None:
    assert judge(observe(reference_file_bytes=1_000_000), limits).kind is kind


@pytest.mark.parametrize(("grown", "kind"), [(5000, "PASS"), (5001, "REGRESSED"), (-9, "PASS")])
def test_a_size_against_the_baseline(grown: int, kind: str) -> None:
    assert judge(observe(file_bytes=1_000_000 + grown)).kind.value == kind


def test_an_absolute_limit_has_no_baselines_cause() -> None:
    assert judge(observe(), Limits(ppl_max=1.0)).cause is None


@pytest.mark.parametrize(
    ("name", "limit"),
    [("Q8_0", 0.0025), ("Q4_0", 0.0025), ("IQ4_XS", 0.0025), ("Q3_K_M", 0.005), ("Q2_K", 0.01)],
)
def test_the_default_limits_follow_the_bits(name: str, limit: float) -> None:
    assert default_limits(find_format(name)).ppl_vs_baseline == limit


def test_every_format_has_default_limits() -> None:
    for name in FILE_TYPES:
        limits = default_limits(find_format(name))
        assert limits.ppl_vs_baseline is not None
        assert limits.size_vs_baseline == 0.005
        assert limits.ppl_vs_reference is None


def test_later_limits_stand_above_earlier_ones() -> None:
    merged = merge_limits(
        Limits(ppl_max=1.0, size_max_bytes=2.0), Limits(ppl_max=3.0), Limits(ppl_vs_baseline=0.1)
    )
    assert merged == Limits(ppl_max=3.0, size_max_bytes=2.0, ppl_vs_baseline=0.1)


def test_the_worst_judgement_decides() -> None:
    assert worst([]) is VerdictKind.MEASURED
    assert worst([VerdictKind.PASS, VerdictKind.IMPROVED]) is VerdictKind.IMPROVED
    for red in VerdictKind:
        if not red.is_green:
            for green in (VerdictKind.PASS, VerdictKind.IMPROVED, VerdictKind.MEASURED):
                assert worst([green, red, green]) is red


def test_only_three_verdicts_are_green() -> None:
    assert {kind.value for kind in VerdictKind if kind.is_green} == {"PASS", "IMPROVED", "MEASURED"}
    assert len(VerdictKind) == 14


@pytest.mark.parametrize(
    ("fraction", "text"),
    [
        (0.05, "+5.00 %"),
        (-0.05, "−5.00 %"),
        (None, "–"),
        (math.nan, "not finite"),
        (0.0, "+0.00 %"),
    ],
)
def test_percent(fraction: float | None, text: str) -> None:
    assert percent(fraction) == text
