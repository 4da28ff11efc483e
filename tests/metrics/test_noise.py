"""Settings noise: which settings are compared, and which of them is an outlier."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest

from pytest_quantgate.config.schema import Limits
from pytest_quantgate.engines.conditions import OWN, Conditions, variations
from pytest_quantgate.gate.judges.noise import (
    LEAST_SCALE_NATS,
    MAX_SCORE,
    assess,
    judge_noise,
    limits_below_floor,
    outlier_facts,
)
from pytest_quantgate.results.measurements.noise import NoiseMeasurement, SettingScores
from pytest_quantgate.results.verdicts import Against, VerdictKind
from tests.gate.judged import LAST, observe

USUAL = Conditions(n_threads=2, n_batch=512, n_ubatch=512)


def scores(
    name: str, rms: float = 0.0, ppl: float = 10.0, kld: float | None = 0.05
) -> SettingScores:
    """Return one setting's figures."""
    return SettingScores(
        name=name,
        setting=USUAL,
        ppl=ppl,
        mean_kld_nats=kld,
        tokens_changed=0 if rms == 0 else 100,
        top_tokens_changed=0,
        largest_nats=3 * rms,
        rms_nats=rms,
    )


def measured(*others: SettingScores, own: SettingScores | None = None) -> NoiseMeasurement:
    """Return a cell's settings, the profile's own first."""
    settings = (own or scores(OWN), *others)
    return NoiseMeasurement(chunks=4, tokens=100, centre=OWN, settings=settings)


def outliers(found: NoiseMeasurement) -> list[str]:
    """Return the outliers' names."""
    return [item.name for item in assess(found).outliers]


def test_each_variation_differs_from_the_own_setting_in_one_thing() -> None:
    found = variations(USUAL, is_cpu=True)
    assert list(found) == ["1 thread", "n_ubatch 256", "n_ubatch 64", "n_batch 256", "not repacked"]
    assert found["1 thread"].n_threads == 1
    assert (found["n_batch 256"].n_batch, found["n_batch 256"].n_ubatch) == (256, 256)
    assert [name for name, item in found.items() if not item.repack] == ["not repacked"]
    assert "not repacked" not in variations(USUAL, is_cpu=False), "it is a CPU's matter"
    least = Conditions(n_threads=1, n_batch=1, n_ubatch=1)
    assert list(variations(least, is_cpu=False)) == ["2 threads"]


def test_what_rounding_explains_is_no_outlier_though_all_else_is_identical() -> None:
    assert outliers(measured(*(scores(f"s{i}") for i in range(4)))) == []
    honest = measured(scores("a"), scores("b"), scores("c"), scores("not repacked", 0.06))
    assert outliers(honest) == []
    assert assess(honest).threshold_nats == pytest.approx(MAX_SCORE * LEAST_SCALE_NATS)


def test_what_rounding_does_not_explain_is_one() -> None:
    found = measured(scores("a"), scores("b"), scores("c"), scores("not repacked", 0.3))
    assert outliers(found) == ["not repacked"]


@pytest.mark.parametrize("n_broken", [1, 2, 3, 4, 5])
@pytest.mark.parametrize("distance", [0.3, 10.0])
def test_a_broken_kernel_is_found_however_many_settings_use_it(
    n_broken: int, distance: float
) -> None:
    """Six settings that are split 3 to 3 have a median between both halves."""
    sound = [scores(f"s{i}", 0.01) for i in range(5 - n_broken)]
    broken = [scores(f"b{i}", distance, 475_506.0, 9.0) for i in range(n_broken)]
    said = {
        item.verdict
        for item in judge_noise(
            observe(measured={"noise": measured(*sound, *broken)}), Limits(), None, LAST
        )
    }
    assert said == {VerdictKind.REGRESSED}


def test_a_perplexity_that_only_rises_is_no_rounding() -> None:
    """A small distance of every token, one way, is a loss that limits would not allow."""
    worse = replace(measured(scores("n_ubatch 64", 0.2, 10.6)), tokens=8_000)
    assert outliers(worse) == ["n_ubatch 64"]
    (text,) = map(str, outlier_facts(worse, assess(worse)))
    assert "PPL 10.6000 against 10.0000, where rounding explains 2 %" in text
    assert outliers(replace(worse, tokens=100)) == [], "chance, on so few tokens"


def test_the_scale_grows_where_all_settings_scatter() -> None:
    """On a device that is not deterministic no single setting is to blame."""
    scattered = measured(*(scores(f"s{i}", 0.2 + 0.1 * i) for i in range(4)))
    assert outliers(scattered) == []
    far = measured(*(scores(f"s{i}", 0.2 + 0.1 * i) for i in range(4)), scores("far", 3.0))
    assert outliers(far) == ["far"]


def test_failures_and_what_is_not_finite_are_outliers_and_refusals_are_not() -> None:
    found = measured(
        scores("a"),
        scores("nan", math.nan, math.nan, math.nan),
        SettingScores(name="crashed", setting=USUAL, problem="SIGABRT\nlog", is_fault=True),
        SettingScores(name="refused", setting=USUAL, problem="no such option"),
    )
    assert outliers(found) == ["nan", "crashed"]
    said = list(map(str, outlier_facts(found, assess(found))))
    assert said[0].endswith("'nan' is an outlier among the settings: PPL nan is not finite")
    assert said[1].endswith("'crashed' is an outlier among the settings: SIGABRT")


def test_an_own_setting_that_is_not_finite_is_an_outlier_too() -> None:
    broken = measured(
        scores("a", math.nan, math.nan, math.nan), own=scores(OWN, math.nan, math.nan, math.nan)
    )
    assert outliers(broken) == [OWN, "a"]
    assert assess(broken).ppl_shift == 0.0


@pytest.mark.parametrize(("kld", "wrong"), [(0.02, "the others are"), (0.9, "it is")])
def test_the_side_further_from_the_reference_is_named(kld: float, wrong: str) -> None:
    found = measured(scores("a"), scores("b"), scores("not repacked", 0.5, 12.0, kld))
    (said,) = map(str, outlier_facts(found, assess(found)))
    assert said.endswith(f"nats: {wrong} probably wrong")


def test_the_noise_leaves_outliers_out_and_is_between_any_two_settings() -> None:
    found = measured(
        scores("up", 0.05, 10.01, 0.052),
        scores("down", 0.05, 9.99, 0.049),
        scores("far", 5.0, 20.0, 0.9),
    )
    seen = assess(found)
    assert seen.ppl_shift == pytest.approx(0.002)
    assert seen.kld_shift_nats == pytest.approx(0.003)


def test_the_references_noise_counts_from_itself() -> None:
    found = measured(scores("up", 0.01, 10.0, 0.0004), own=scores(OWN, kld=None))
    assert assess(found).kld_shift_nats == pytest.approx(0.0004)
    assert limits_below_floor(found, assess(found), Limits(kld_vs_baseline=0.001)) == []


def test_limits_below_three_times_the_largest_shift_are_warned_about() -> None:
    found = measured(scores("not repacked", 0.05, 10.01, 0.051))
    seen = assess(found)
    low = Limits(ppl_vs_baseline=0.0025, ppl_vs_anchor=0.01, kld_vs_baseline=0.03, kld_mean_max=1)
    of_ppl, of_kld = limits_below_floor(found, seen, low)
    assert of_ppl.against is of_kld.against is Against.NOISE
    assert of_ppl.estimate == pytest.approx(0.003)
    assert of_kld.estimate == pytest.approx(0.06)
    assert "ppl_vs_baseline of +0.25 % is below +0.30 %" in str(of_ppl.reason)
    assert "the limit kld_vs_baseline of +3.00 % is below" in str(of_kld.reason)
    high = Limits(ppl_vs_baseline=0.0031, kld_vs_baseline=0.061)
    assert limits_below_floor(found, seen, high) == []
    tiny = measured(scores("not repacked", 0.001, 10.0, 0.05003))
    narrow = Limits(kld_vs_baseline=0.0001)
    assert limits_below_floor(tiny, assess(tiny), narrow) == [], "no increase below 1e-4 counts"


def refused(name: str, *, is_fault: bool = False) -> SettingScores:
    """Return a setting that could not be measured."""
    problem = "no such kernel\nmore"
    return SettingScores(name=name, setting=USUAL, problem=problem, is_fault=is_fault)


def kinds(found: NoiseMeasurement) -> list[VerdictKind]:
    """Return the verdicts on a cell's settings."""
    seen = observe(measured={"noise": found})
    return [item.verdict for item in judge_noise(seen, Limits(), None, LAST)]


def test_settings_that_were_all_refused_say_nothing_of_the_noise() -> None:
    found = measured(refused("a"), refused("b"))
    assert kinds(found) == [VerdictKind.UNSUPPORTED]
    (judgement,) = judge_noise(observe(measured={"noise": found}), Limits(), None, LAST)
    assert str(judgement.reason) == (
        "no setting but the profile's own could be measured: no such kernel"
    )
    assert kinds(measured(refused("a"), scores("b"))) == [VerdictKind.PASS]
    assert kinds(measured(refused("a", is_fault=True))) == [VerdictKind.REGRESSED]
