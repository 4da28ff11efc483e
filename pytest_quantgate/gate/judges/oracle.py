"""The oracle: a model's reference must compute what another implementation computes."""

from __future__ import annotations

from dataclasses import replace

from pytest_quantgate.config.schema import Limits
from pytest_quantgate.gate.judges.bounds import at_most
from pytest_quantgate.gate.observation import Observation
from pytest_quantgate.results.baseline import Baseline
from pytest_quantgate.results.measurements.oracle import OracleMeasurement
from pytest_quantgate.results.verdicts import Against, Judgement
from pytest_quantgate.stats import Look


def judge_oracle(
    seen: Observation, limits: Limits, _baseline: Baseline | None, _look: Look
) -> list[Judgement]:
    """Judge the typical divergence, of the stored distributions and of all scored tokens."""
    measured = seen.find(OracleMeasurement)
    if measured is None or limits.oracle_kld_max is None:
        return []
    judgements = []
    for name, value in (
        (f"mean KLD from the oracle at {measured.rows} stored tokens", measured.typical_kld_nats),
        (
            f"mean KLD from the oracle at {measured.tokens:,} scored tokens, by their likelihoods,",
            measured.typical_nll_kld_nats,
        ),
    ):
        judgement = at_most("oracle", name, value, limits.oracle_kld_max, " nats")
        judgements.append(replace(judgement, against=Against.ORACLE))
    return judgements
