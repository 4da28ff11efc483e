"""Slow drift: the sum of accepted changes against the first accepted values."""

from __future__ import annotations

import pytest

from pytest_quantgate.config.limits import default_limits
from pytest_quantgate.config.schema import Limits
from pytest_quantgate.gate.acceptance import make_baseline
from pytest_quantgate.gate.accepting import describe_change
from pytest_quantgate.gate.judge import conclude
from pytest_quantgate.gate.judges.perplexity import judge_perplexity
from pytest_quantgate.gate.observation import Observation
from pytest_quantgate.results.baseline import Anchor, Baseline
from pytest_quantgate.results.verdicts import Cause, CauseKind, VerdictKind
from tests.gate.judged import (
    BASELINE,
    FORMAT,
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
    other = observe(text_sha256="u" * 64)
    assert kinds(other, limits, BASELINE) == {"baseline": VerdictKind.NOT_COMPARABLE}
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
