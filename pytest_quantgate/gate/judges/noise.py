"""Settings noise: an outlier is the engine's fault, a limit below the noise is worth a warning."""

from __future__ import annotations

import math
import statistics as stdlib_statistics
from dataclasses import dataclass

from pytest_quantgate.config.limit import MIN_KLD_INCREASE_NATS
from pytest_quantgate.config.metrics import LIMITS
from pytest_quantgate.config.schema import Limits
from pytest_quantgate.gate.judges.bounds import only
from pytest_quantgate.gate.observation import Observation
from pytest_quantgate.gate.reasons.conditions import (
    BelowNoise,
    NoiseSize,
    NothingMeasured,
    Outlier,
)
from pytest_quantgate.results.baseline import Baseline
from pytest_quantgate.results.measurements.noise import NoiseMeasurement, SettingScores
from pytest_quantgate.results.verdicts import Against, Fact, Judgement, Reason, VerdictKind
from pytest_quantgate.stats import Look

METRIC = "noise"

MARGIN = 3.0
"""A limit is to be at least so many times the largest shift."""

MAX_SCORE = 3.5
"""The modified z-score above which a value is an outlier (Iglewicz and Hoaglin, 1993)."""

LEAST_SCALE_NATS = 0.07
"""The smallest scale that a distance is measured by, RMS in nats a token.

Most settings are bit-identical, so the spread alone would make an outlier of every other
rounding. Honest kernels round activations to 8 bits in different ways; ½ · 0.07² is 0.0025
nats, the divergence that rounding the weights to 8 bits costs (Q8_0).
"""

MOST_NATS = 0.5
"""A distance above this is a fault, however far the other settings are apart, RMS in nats a token.

Five times the largest one between sound settings (0.096, SmolLM2 in Q4_K_M): where half of the
settings use a broken kernel, the spread alone would excuse it.
"""

MOST_PPL_SHIFT = 0.02
"""A shift of perplexity above this is a fault where chance does not explain it: ten times the
largest one between sound settings (0.17 %). Rounding moves tokens both ways, a fault one way."""

_SURE = 5.0
"""Standard errors beyond which a shift is no chance, tokens taken as independent."""


@dataclass(frozen=True, kw_only=True)
class Assessment:
    """What the settings of a cell say.

    ``threshold_nats`` is the distance from the centre above which a setting is an outlier.
    ``ppl_shift`` is the largest difference of perplexity between two settings that are none,
    relative to the profile's own; ``kld_shift_nats`` that of the mean divergence, None without one.
    """

    outliers: tuple[SettingScores, ...]
    threshold_nats: float
    ppl_shift: float
    kld_shift_nats: float | None


def assess(measured: NoiseMeasurement) -> Assessment:
    """Separate outliers from noise, and return the size of the noise.

    A setting is an outlier where it failed, where its figures are not finite, where its
    modified z-score ``(x − median) / max(1.4826 · MAD, LEAST_SCALE_NATS)`` is not within
    ``MAX_SCORE``, x being its distance from the central setting, where x is above ``MOST_NATS``,
    or where its perplexity is off by more than ``MOST_PPL_SHIFT`` and chance. The lower median
    of an even number is taken, so that two halves do not excuse each other.
    """
    finite = [item for item in measured.settings if item.is_finite and item.rms_nats is not None]
    distances = [item.rms_nats for item in finite if item.rms_nats is not None]
    threshold = math.nan
    if distances:
        median = stdlib_statistics.median_low(distances)
        mad = stdlib_statistics.median_low(abs(value - median) for value in distances)
        threshold = min(median + MAX_SCORE * max(1.4826 * mad, LEAST_SCALE_NATS), MOST_NATS)
    sound = [item for item in finite if _is_sound(item, measured, threshold)]
    outliers = [
        item
        for item in measured.settings
        if item not in sound and (item.is_fault or item.problem is None)
    ]
    ppls = [item.ppl for item in sound if item.ppl is not None]
    klds = [item.mean_kld_nats for item in sound if item.mean_kld_nats is not None]
    if measured.own in sound and measured.own.mean_kld_nats is None and klds:
        klds.append(0.0)  # the reference itself, from which the others' divergence is
    scale = measured.own.ppl if measured.own.is_finite else None
    return Assessment(
        outliers=tuple(outliers),
        threshold_nats=threshold,
        ppl_shift=(max(ppls) - min(ppls)) / scale if ppls and scale else 0.0,
        kld_shift_nats=max(klds) - min(klds) if klds else None,
    )


def _is_sound(item: SettingScores, measured: NoiseMeasurement, threshold_nats: float) -> bool:
    """Return whether rounding explains a setting's distance from the central one."""
    distance, centre = item.rms_nats, measured.central
    if distance is None or not distance <= threshold_nats:
        return False
    if item.ppl is None or not centre.ppl:
        return True
    shift = abs(math.log(item.ppl / centre.ppl))
    return shift <= max(MOST_PPL_SHIFT, _SURE * distance / math.sqrt(measured.tokens))


def judge_noise(
    seen: Observation, limits: Limits, _baseline: Baseline | None, _look: Look
) -> list[Judgement]:
    """Judge the settings: outliers are REGRESSED; limits below the floor pass and say so.

    Without another setting than the profile's own there is no noise to speak of: UNSUPPORTED.
    """
    measured = seen.find(NoiseMeasurement)
    if measured is None:
        return []
    assessment = assess(measured)
    judged = [
        _judgement(item.rms_nats, assessment, VerdictKind.REGRESSED, fact)
        for item, fact in zip(assessment.outliers, outlier_facts(measured, assessment), strict=True)
    ]
    others = measured.settings[1:]
    if not judged and all(item.problem is not None for item in others):
        problem = next((item.problem for item in others if item.problem), "")
        nothing = NothingMeasured(
            what="no setting but the profile's own could be measured", problem=problem
        )
        return [only(METRIC, Against.SETTINGS, VerdictKind.UNSUPPORTED, nothing)]
    if not judged:
        largest = max((item.rms_nats or 0.0 for item in measured.settings), default=0.0)
        size = NoiseSize(ppl_shift=assessment.ppl_shift, kld_shift_nats=assessment.kld_shift_nats)
        judged.append(_judgement(largest, assessment, VerdictKind.PASS, size))
    return judged + limits_below_floor(measured, assessment, limits)


def _judgement(
    estimate: float | None, assessment: Assessment, kind: VerdictKind, fact: Fact
) -> Judgement:
    return Judgement(
        metric=METRIC,
        against=Against.SETTINGS,
        verdict=kind,
        reason=Reason((fact,)),
        estimate=estimate,
        limit=assessment.threshold_nats,
    )


def outlier_facts(measured: NoiseMeasurement, assessment: Assessment) -> list[Outlier]:
    """Return each outlier with what it is held against."""
    return [
        Outlier(
            setting=item,
            centre=measured.central,
            threshold_nats=assessment.threshold_nats,
            max_ppl_shift=MOST_PPL_SHIFT,
        )
        for item in assessment.outliers
    ]


def limits_below_floor(
    measured: NoiseMeasurement, assessment: Assessment, limits: Limits
) -> list[Judgement]:
    """Return a judgement for each limit that is below ``MARGIN`` times the largest shift."""
    floors = dict.fromkeys(
        ("ppl_vs_baseline", "ppl_vs_anchor", "ppl_vs_reference"), MARGIN * assessment.ppl_shift
    )
    own = measured.own.mean_kld_nats
    if assessment.kld_shift_nats is not None and own:
        floor = MARGIN * assessment.kld_shift_nats
        floors["kld_mean_max"] = floor
        # An increase below this is none, whatever the limit.
        if floor > MIN_KLD_INCREASE_NATS:
            floors |= dict.fromkeys(("kld_vs_baseline", "kld_vs_anchor"), floor / own)
    return [
        below_noise(METRIC, name, limit, floor)
        for name, floor in floors.items()
        if (limit := getattr(limits, name)) is not None and not limit >= floor
    ]


def below_noise(metric: str, name: str, limit: float, floor: float) -> Judgement:
    """Return the judgement of a limit that is below the floor: it passes, and says so."""
    fact = BelowNoise(limit=LIMITS[name], value=limit, floor=floor, margin=MARGIN)
    return Judgement(
        metric=metric,
        against=Against.NOISE,
        verdict=VerdictKind.PASS,
        reason=Reason((fact,)),
        estimate=floor,
        limit=limit,
    )
