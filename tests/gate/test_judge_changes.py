"""Other tensor types are CHANGED where the quality is kept, and REGRESSED where it is not."""

from __future__ import annotations

from dataclasses import replace

import pytest

from pytest_quantgate.config.schema import Limits
from pytest_quantgate.gate.judge import conclude
from pytest_quantgate.gate.judges.perplexity import judge_perplexity
from pytest_quantgate.gate.judges.size import judge_size
from pytest_quantgate.results.verdicts import VerdictKind
from pytest_quantgate.stats import plan_looks
from tests.gate.judged import BASELINE, TENSORS, judge, measurement, observe, wobble

OTHER_TYPE = (TENSORS[0], replace(TENSORS[1], type="Q6_K", sha256="d" * 64), TENSORS[2])
TOLD = "1 of 3 tensors changed type (attn_q Q4_K → Q6_K in blk.0)"


@pytest.mark.parametrize("shift", [-0.9, -0.05, 0.0, 0.001])
def test_better_or_equal_but_changed_is_red_until_accepted(shift: float) -> None:
    verdict = judge(observe(tensors=OTHER_TYPE, perplexity=measurement(wobble(shift))))
    assert verdict.kind is VerdictKind.CHANGED
    assert not verdict.kind.is_green
    assert verdict.reason.startswith(f"{TOLD}; every limit is kept: PPL ")
    assert str(verdict.cause).startswith(f"cause: quantizer (tokenization same; {TOLD}")


@pytest.mark.parametrize(
    "change",
    [
        {"perplexity": measurement(wobble(0.05))},
        {"perplexity": measurement(wobble(0.004, 0.05))},
        {"file_bytes": 1_100_000},
    ],
    ids=["worse", "cannot tell", "larger"],
)
def test_what_is_not_shown_to_be_kept_is_regressed(change: dict[str, object]) -> None:
    verdict = judge(observe(tensors=OTHER_TYPE, **change))  # type: ignore[arg-type]
    assert verdict.kind is VerdictKind.REGRESSED
    assert TOLD in verdict.reason


def test_without_a_judged_quality_another_type_is_regressed() -> None:
    limits = Limits(size_vs_baseline=0.005)
    assert judge(observe(tensors=OTHER_TYPE), limits).kind is VerdictKind.REGRESSED


def test_an_early_look_that_cannot_tell_waits_for_the_next() -> None:
    early = plan_looks((16,), 64, 64)[0]
    limits = Limits(ppl_vs_baseline=0.0025, size_vs_baseline=0.005)
    seen = observe(tensors=OTHER_TYPE)
    judgements = [
        *judge_perplexity(seen, limits, BASELINE, early),
        *judge_size(seen, limits, BASELINE, early),
    ]
    assert conclude(judgements, seen, BASELINE, is_final=False).kind is VerdictKind.INCONCLUSIVE
    assert conclude(judgements, seen, BASELINE).kind is VerdictKind.REGRESSED
