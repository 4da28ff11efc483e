"""A loss in one kind of text that the mean over all of them hides."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from pytest_quantgate.config.limits import merge_limits
from pytest_quantgate.config.schema import Limits
from pytest_quantgate.gate.judges.perplexity import judge_perplexity
from pytest_quantgate.gate.observation import Observation
from pytest_quantgate.results.verdicts import Judgement, VerdictKind
from pytest_quantgate.stats import plan_looks
from tests.gate.judged import baseline_of, change_cell, measurement, observe

DOMAINS = ("code", "dialogue", "encyclopedia", "mathematics")
LAST = plan_looks((64,), 64, 64)[0]
EACH = Limits(ppl_vs_baseline=0.01, size_vs_baseline=0.01, domains=0.01)
BY_NAME = Limits(domains=0.01)


def scored(losses: dict[str, float], noise: float = 0.0, seed: int = 1) -> Observation:
    """Return 64 chunks of four domains in turn, each domain worse by so many nats a token."""
    domains = [DOMAINS[number % 4] for number in range(64)]
    random = np.random.default_rng(seed)
    shifts = [losses.get(name, 0.0) + float(random.normal(0, noise)) for name in domains]
    seen = observe(perplexity=measurement(shifts, n_chunks=64))
    return change_cell(seen, chunks=seen.cell.chunks.replace(domain=domains))


BASELINE = baseline_of(scored({}))


def judge(seen: Observation, limits: Limits = EACH) -> list[Judgement]:
    """Judge against a baseline without a loss."""
    return judge_perplexity(seen, limits, BASELINE, LAST)


def of_domains(seen: Observation, limits: Limits = EACH) -> list[Judgement]:
    """Return what is said of domains."""
    return [item for item in judge(seen, limits) if "domain" in str(item.reason)]


def test_a_loss_in_one_of_four_passes_is_found_where_the_whole_text_is_within_its_limit() -> None:
    seen = scored({"code": 0.0305, "dialogue": -0.01, "encyclopedia": -0.01}, noise=0.005)
    whole, code = judge(seen)
    assert whole.verdict.is_green
    assert code.verdict is VerdictKind.REGRESSED
    assert str(code.reason).startswith("PPL of the domain 'code' rose by ")
    assert "the limit for a domain is +1.00 %" in str(code.reason)
    assert code.estimate == pytest.approx(np.expm1(0.0305), abs=0.004)


def test_a_loss_that_may_be_within_the_limit_asks_for_more_text() -> None:
    (code,) = of_domains(scored({"code": 0.0145}, noise=0.01))
    assert code.verdict is VerdictKind.INCONCLUSIVE
    assert "cannot tell whether it is above the limit" in str(code.reason)


def test_what_moves_by_chance_or_within_the_limit_fails_nothing() -> None:
    assert not of_domains(scored(dict.fromkeys(DOMAINS, 0.002), noise=0.01))
    assert not of_domains(scored({"code": 0.0305}), Limits(ppl_vs_baseline=0.01))
    red = [bool(of_domains(scored({}, noise=0.03, seed=seed))) for seed in range(200)]
    assert sum(red) <= 6, "at most 1 % of harmless changes, and chance"


def named(losses: dict[str, float], limit: dict[str, float], **more: float) -> list[Judgement]:
    """Return what is said of domains where some have limits of their own."""
    seen = replace(scored(losses, noise=0.002), domains=DOMAINS)
    return of_domains(seen, Limits(domains=limit, **more))


OF_A_PROFILE = {"ppl_vs_baseline": 0.01, "size_vs_baseline": 0.01}


def test_a_domain_has_a_limit_of_its_own() -> None:
    """The others keep theirs, or have none."""
    losses = {"code": 0.02, "dialogue": 0.02}
    (dialogue,) = named(losses, {"*": 0.01, "code": 0.03}, **OF_A_PROFILE)
    assert dialogue.verdict is VerdictKind.REGRESSED
    assert "'dialogue'" in str(dialogue.reason)
    (code,) = named(losses, {"code": 0.01}, **OF_A_PROFILE)
    assert "'code'" in str(code.reason)
    assert code.limit == 0.01


@pytest.mark.parametrize("more", [{}, OF_A_PROFILE], ids=["marker", "profile"])
def test_a_named_domain_without_documents_enough_is_never_green(more: dict[str, float]) -> None:
    """In a look that is not the last, more chunks may have them."""
    seen = replace(scored({}, noise=0.002), domains=DOMAINS)
    few = [
        name if name != "code" or row < 12 else "dialogue" for row, name in enumerate(DOMAINS * 16)
    ]
    seen = change_cell(seen, chunks=seen.chunks.replace(domain=few))
    limits = Limits(domains={"code": 0.01}, **more)
    (last,) = of_domains(seen, limits)
    assert last.verdict is VerdictKind.UNSUPPORTED
    judgements = judge_perplexity(seen, limits, BASELINE, plan_looks((32,), 64, 64)[0])
    assert VerdictKind.INCONCLUSIVE in {item.verdict for item in judgements}


def test_a_profile_may_name_a_domain_that_another_of_its_texts_has() -> None:
    limits = Limits(domains={"poetry": 0.01}, **OF_A_PROFILE)
    assert not of_domains(replace(scored({}, noise=0.002), domains=DOMAINS), limits)
    (asked,) = of_domains(scored({}, noise=0.002), Limits(domains={"poetry": 0.01}))
    assert asked.verdict is VerdictKind.UNSUPPORTED


def test_a_format_adds_domains_to_those_of_all_formats() -> None:
    every = Limits(domains={"code": 0.01, "*": 0.05})
    merged = merge_limits(Limits(domains=0.02), every, Limits(domains={"code": 0.03}))
    assert merged.domains == {"*": 0.05, "code": 0.03}
    assert merge_limits(every, Limits(domains=0.02)).domains == 0.02
    assert merge_limits(Limits(domains=0.02), Limits(domains={"code": 0.0})).domains == {
        "*": 0.02,
        "code": 0.0,
    }


def test_one_domain_is_the_whole_text_and_few_documents_say_nothing() -> None:
    one = scored({"code": 0.05})
    one = change_cell(one, chunks=one.cell.chunks.replace(domain=["code"] * 64))
    assert not of_domains(one)
    few = scored({"code": 0.05})
    few = change_cell(few, chunks=few.cell.chunks.first(12))  # three documents of each
    assert not of_domains(few)


def test_a_limit_that_a_test_asks_for_by_name_is_judged_aloud() -> None:
    """A marker that judges nothing must not look like one that was kept."""
    (kept,) = of_domains(scored({}, noise=0.002), BY_NAME)
    assert kept.verdict is VerdictKind.PASS
    assert all(name in str(kept.reason) for name in DOMAINS)
    (equal,) = of_domains(scored({}), BY_NAME)
    assert equal.verdict is VerdictKind.PASS
    without = scored({})
    without = change_cell(without, chunks=without.cell.chunks.replace(domain=[None] * 64))
    (nothing,) = of_domains(without, BY_NAME)
    assert nothing.verdict is VerdictKind.UNSUPPORTED
    assert "at least 4 documents each" in str(nothing.reason)
