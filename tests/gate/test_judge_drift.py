"""Slow drift: the sum of accepted changes against the first accepted values."""

from __future__ import annotations

import math
from typing import Any

import pytest

from pytest_quantgate.config.limits import default_limits
from pytest_quantgate.config.schema import Limits
from pytest_quantgate.gate.acceptance import make_baseline
from pytest_quantgate.gate.accepting import describe_change
from pytest_quantgate.gate.judge import conclude
from pytest_quantgate.gate.judges.divergence import judge_divergence
from pytest_quantgate.gate.judges.drift import judge_drift
from pytest_quantgate.gate.judges.perplexity import judge_perplexity
from pytest_quantgate.gate.judges.size import judge_size
from pytest_quantgate.gate.observation import Observation
from pytest_quantgate.results.anchor import Anchor
from pytest_quantgate.results.baseline import Baseline
from pytest_quantgate.results.measurements.divergence import DivergenceMeasurement
from pytest_quantgate.results.verdicts import Against, Cause, CauseKind, VerdictKind
from tests.gate.judged import (
    BASELINE,
    FORMAT,
    KEY,
    LAST,
    baseline_of,
    change_cell,
    measurement,
    observe,
    wobble,
)

DRIFTED = observe(perplexity=measurement(wobble(0.02)))
LAST_ACCEPTED = baseline_of(DRIFTED).model_copy(update={"anchor": BASELINE.anchor})
"""What was accepted last: +2 % away from the anchor."""


def kinds(seen: Observation, limits: Limits, baseline: Baseline) -> dict[str, VerdictKind]:
    """Return what is said of the perplexity, by what it was compared with."""
    judgements = judge_perplexity(seen, limits, baseline, LAST)
    return {item.against: item.verdict for item in judgements}


def test_small_steps_that_were_accepted_add_up() -> None:
    """Each step of +0.2 % is allowed; their sum is not."""
    limits = default_limits(FORMAT)
    assert kinds(DRIFTED, limits, LAST_ACCEPTED) == {
        "baseline": VerdictKind.PASS,
        "anchor": VerdictKind.REGRESSED,
    }


def test_the_cause_of_a_drift_is_what_was_accepted() -> None:
    """Nothing that could be found in the last step has moved it."""
    judgements = judge_perplexity(DRIFTED, default_limits(FORMAT), LAST_ACCEPTED, LAST)
    assert conclude(judgements, DRIFTED, LAST_ACCEPTED).cause == Cause(kind=CauseKind.DRIFTED)
    further = observe(perplexity=measurement(wobble(0.06)))
    judgements = judge_perplexity(further, default_limits(FORMAT), LAST_ACCEPTED, LAST)
    assert "not reproducible" in str(conclude(judgements, further, LAST_ACCEPTED).cause)


def test_an_anchor_that_says_what_the_baseline_says_is_not_judged_twice() -> None:
    first = baseline_of(DRIFTED)
    assert kinds(DRIFTED, default_limits(FORMAT), first) == {"baseline": VerdictKind.PASS}
    tighter = Limits(ppl_vs_baseline=0.1, ppl_vs_anchor=0.01)
    assert kinds(DRIFTED, tighter, BASELINE) == {
        "baseline": VerdictKind.PASS,
        "anchor": VerdictKind.REGRESSED,
    }


@pytest.mark.parametrize("baseline", [BASELINE, LAST_ACCEPTED], ids=["first", "later"])
def test_the_limit_against_the_anchor_stands_on_its_own(baseline: Baseline) -> None:
    """Without a limit against the baseline, and whether a change was accepted before or not."""
    limits = Limits(ppl_vs_anchor=0.01)
    assert kinds(DRIFTED, limits, baseline) == {"anchor": VerdictKind.REGRESSED}
    assert kinds(observe(), limits, baseline) == {"anchor": VerdictKind.PASS}
    judgements = judge_perplexity(DRIFTED, limits, baseline, LAST)
    assert conclude(judgements, DRIFTED, baseline).cause is not None


def test_alone_it_needs_what_the_limit_against_the_baseline_needs() -> None:
    limits = Limits(ppl_vs_anchor=0.01)
    other = observe(perplexity=measurement(ids="other"), text_sha256="u" * 64)
    assert kinds(other, limits, BASELINE) == {
        "baseline": VerdictKind.NOT_COMPARABLE,
        "anchor": VerdictKind.NOT_COMPARABLE,
    }
    ids = observe(perplexity=measurement(ids="other"))
    assert kinds(ids, limits, BASELINE) == {"baseline": VerdictKind.REGRESSED}


def test_another_text_keeps_the_anchor_of_the_chunks_that_are_equal() -> None:
    """One byte changed, and a loss of 2 % accepted with it: the drift is still seen."""
    chunks = DRIFTED.chunks
    ids = [f"{number:016x}" if number < 3 else own for number, own in enumerate(chunks.token_ids)]
    seen = change_cell(DRIFTED, text_sha256="u" * 64, chunks=chunks.replace(token_ids=ids))
    accepted = make_baseline(seen.cell, BASELINE)
    assert accepted.anchor.index == chunks.index[3:]
    assert accepted.anchor.nll_sum_nats == BASELINE.anchor.nll_sum_nats[3:]
    assert "the first values of 13 equal chunks" in describe_change(BASELINE, accepted)
    assert kinds(seen, default_limits(FORMAT), accepted) == {
        "baseline": VerdictKind.PASS,
        "anchor": VerdictKind.REGRESSED,
    }


def test_another_text_does_not_hide_a_loss_on_the_chunks_that_are_equal() -> None:
    """It is judged at once, before anyone accepts the other text."""
    ids = ["f" * 16, *DRIFTED.chunks.token_ids[1:]]
    chunks = DRIFTED.chunks.replace(token_ids=ids)
    seen = change_cell(DRIFTED, text_sha256="u" * 64, chunks=chunks)
    limits = default_limits(FORMAT)
    assert kinds(seen, limits, BASELINE) == {
        "baseline": VerdictKind.NOT_COMPARABLE,
        "anchor": VerdictKind.REGRESSED,
    }
    verdict = conclude(judge_perplexity(seen, limits, BASELINE, LAST), seen, BASELINE)
    assert verdict.kind is VerdictKind.REGRESSED
    assert "against the anchor over 15 chunks" in verdict.reason


def test_chunks_that_moved_within_the_text_are_known_by_their_tokens() -> None:
    """A page put before the text moves every chunk by one place."""
    moved = DRIFTED.chunks.replace(index=[index + 1 for index in DRIFTED.chunks.index])
    seen = change_cell(DRIFTED, text_sha256="u" * 64, chunks=moved)
    [drift] = judge_drift("perplexity", seen, default_limits(FORMAT), BASELINE, LAST)
    assert drift.verdict is VerdictKind.REGRESSED
    assert drift.estimate == pytest.approx(math.expm1(0.02), abs=1e-4)
    assert make_baseline(seen.cell, BASELINE).anchor.index == moved.index


def test_other_settings_do_not_hide_a_loss() -> None:
    """Another KV type is another baseline's file: the first values of equal chunks go with it."""
    key = KEY.model_copy(update={"type_k": "Q8_0"})
    seen = change_cell(DRIFTED, key=key)
    [drift] = judge_drift("perplexity", seen, default_limits(FORMAT), BASELINE, LAST)
    assert drift.verdict is VerdictKind.REGRESSED
    accepted = make_baseline(seen.cell, BASELINE)
    assert accepted.key == key
    assert accepted.anchor == BASELINE.anchor
    assert describe_change(None, accepted, BASELINE).endswith(
        "(new), other settings: drift is judged from the first values of 16 equal chunks"
    )


def test_another_source_is_another_model_and_begins_anew() -> None:
    seen = change_cell(DRIFTED, source_sha256="another")
    assert not judge_drift("perplexity", seen, default_limits(FORMAT), BASELINE, LAST)
    accepted = make_baseline(seen.cell, BASELINE)
    assert accepted.anchor.nll_sum_nats == DRIFTED.chunks.nll_sum_nats
    assert "another source: drift is judged from these values" in describe_change(
        BASELINE, accepted
    )


def divergent(kld_nats: float, **cell: Any) -> Observation:
    """Return an observation whose divergence is about as large on each chunk."""
    seen = observe(**cell)
    sums = [100 * kld_nats * (1 + 0.05 * math.sin(number)) for number in range(16)]
    chunks = seen.chunks.replace(kld_sum_nats=sums, same_top=(90,) * 16)
    divergence = DivergenceMeasurement(
        tokens=chunks.n_tokens,
        mean_kld_nats=math.fsum(sums) / chunks.n_tokens,
        mean_kld_error_nats=0.001,
        max_kld_nats=None,
        min_kld_nats=None,
        kld_percentiles_nats={},
        mean_delta_p=None,
        rms_delta_p=None,
        delta_p_percentiles={},
        same_top=0.9,
        same_top_error=0.01,
        by_confidence=(),
        by_domain=(),
    )
    return change_cell(seen, chunks=chunks, divergence=divergence)


FIRST = baseline_of(divergent(0.05))


def accepted_at(kld_nats: float) -> Baseline:
    """Return the baseline after a change to this divergence was accepted."""
    return make_baseline(divergent(kld_nats).cell, FIRST)


def kld_kinds(seen: Observation, limits: Limits, baseline: Baseline) -> dict[str, VerdictKind]:
    judgements = judge_divergence(seen, limits, baseline, LAST)
    return {item.against: item.verdict for item in judgements if item.against != "limit"}


def test_accepted_rises_of_the_divergence_add_up() -> None:
    """+2 % a step is allowed; +14 % in all is not, and +8 % is."""
    limits = default_limits(FORMAT)
    assert kld_kinds(divergent(0.0571), limits, accepted_at(0.057)) == {
        "baseline": VerdictKind.PASS,
        "anchor": VerdictKind.REGRESSED,
    }
    assert kld_kinds(divergent(0.0541), limits, accepted_at(0.054)) == {
        "baseline": VerdictKind.PASS,
        "anchor": VerdictKind.PASS,
    }
    assert kld_kinds(divergent(0.05), limits, FIRST) == {"baseline": VerdictKind.PASS}


def test_a_harmless_rise_is_no_drift_unless_the_project_says_so() -> None:
    """A small divergence may double by rounding; 0.3 of the limit on PPL's drift is harmless."""
    small = baseline_of(divergent(0.001))
    accepted = make_baseline(divergent(0.003).cell, small)
    seen = divergent(0.003)
    assert kld_kinds(seen, default_limits(FORMAT), accepted)["anchor"] is VerdictKind.PASS
    strict = Limits(kld_vs_anchor=0.2)
    assert kld_kinds(seen, strict, accepted) == {"anchor": VerdictKind.REGRESSED}


def test_a_limit_on_a_drift_that_was_never_kept_is_said() -> None:
    limits = Limits(kld_vs_anchor=0.1)
    judgements = judge_divergence(divergent(0.05), limits, BASELINE, LAST)
    assert [item.verdict for item in judgements] == [VerdictKind.NO_BASELINE]
    assert "has no divergence; delete its file" in str(judgements[0].reason)


def test_a_divergence_that_is_accepted_later_is_the_first() -> None:
    """The anchor of the perplexity stays, that of the divergence begins where it was measured."""
    later = make_baseline(divergent(0.05, perplexity=measurement(wobble(0.02))).cell, BASELINE)
    assert later.anchor.nll_sum_nats == BASELINE.anchor.nll_sum_nats
    assert later.anchor.kld_sum_nats == later.scored.chunks.kld_sum_nats
    after = make_baseline(divergent(0.06).cell, later)
    assert after.anchor == later.anchor


def test_accepted_growths_of_the_file_add_up() -> None:
    """Each of +0.4 % is allowed."""
    limits = default_limits(FORMAT)
    size_at = [1_000_000, 1_025_000, 1_026_000]
    accepted = make_baseline(observe(file_bytes=size_at[1]).cell, BASELINE)
    seen = observe(file_bytes=size_at[2])
    judged = {item.against: item for item in judge_size(seen, limits, accepted, LAST)}
    assert judged[Against.BASELINE].verdict is VerdictKind.PASS
    assert judged[Against.ANCHOR].verdict is VerdictKind.REGRESSED
    assert "size +2.60 % against the anchor" in str(judged[Against.ANCHOR].reason)
    verdict = conclude(list(judged.values()), seen, accepted)
    assert verdict.cause == Cause(kind=CauseKind.DRIFTED)
    assert [item.against for item in judge_size(observe(), limits, BASELINE, LAST)] == ["baseline"]


def test_a_text_with_no_equal_chunk_begins_the_drift_anew_and_says_so() -> None:
    other = measurement(wobble(0.02), ids="other")
    seen = observe(perplexity=other, text_sha256="u" * 64, file_bytes=1_000_001)
    accepted = make_baseline(seen.cell, BASELINE)
    assert accepted.anchor.nll_sum_nats == seen.chunks.nll_sum_nats
    assert accepted.anchor.file_bytes == BASELINE.anchor.file_bytes
    assert "what had drifted before is lost" in describe_change(BASELINE, accepted)


def test_an_anchor_of_other_chunks_is_not_comparable() -> None:
    anchor = Anchor(index=(90, 91), nll_sum_nats=(1.0, 2.0), file_bytes=1)
    apart = BASELINE.model_copy(update={"anchor": anchor})
    assert kinds(observe(), Limits(ppl_vs_anchor=0.01), apart) == {
        "anchor": VerdictKind.NOT_COMPARABLE
    }
