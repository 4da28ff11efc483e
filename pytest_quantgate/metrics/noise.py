"""Settings noise: how far a cell's figures move with settings that should not matter.

Threads, batch sizes and repacked weights change the order of sums and how activations are
rounded, not what is computed. What they move is the least that a limit can tell from a change.
Flash attention stays pinned: it is another computation, and part of a baseline's identity.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from pytest_quantgate.engines.conditions import OWN, variations
from pytest_quantgate.errors import CellError, CellUnsupported
from pytest_quantgate.metrics.scoring import measure_perplexity, score_under
from pytest_quantgate.results.events import VaryingConditions
from pytest_quantgate.results.measurements.noise import NoiseMeasurement, SettingScores
from pytest_quantgate.results.measurements.perplexity import PerplexityMeasurement, token_changes

if TYPE_CHECKING:
    from pytest_quantgate.matrix.resolved import ResolvedCell
    from pytest_quantgate.matrix.session import Session


def measure_noise(session: Session, cell: ResolvedCell) -> NoiseMeasurement:
    """Score the cell's whole budget of chunks in every setting.

    A setting that fails becomes a finding, not the cell's error.

    Raises:
        CellError: the profile's own setting could not be measured.

    """
    n_chunks = session.artifacts.looks(cell)[-1]
    own = cell.conditions
    is_cpu = cell.placement.is_cpu
    others = variations(own, is_cpu=is_cpu)
    scores = {OWN: measure_perplexity(session, cell, n_chunks)}
    if scores[OWN].nll_nats is None:
        raise CellUnsupported(
            "settings are compared token by token, and this engine reports only sums; take an"
            " engine of llama-cpp-python"
        )
    problems: dict[str, CellError] = {}
    for number, (name, setting) in enumerate(others.items()):
        session.events.append(
            VaryingConditions(cell=cell.id, name=name, done=number + 1, total=len(others) + 1)
        )
        try:
            scores[name] = score_under(session, cell, setting, n_chunks)
        except CellError as error:
            problems[name] = error
    centre, distances = _centre(scores)
    found = []
    for name, setting in {OWN: own, **others}.items():
        problem = problems.get(name)
        if problem is not None:
            found.append(
                SettingScores(
                    name=name,
                    setting=setting,
                    problem=str(problem),
                    is_fault=not isinstance(problem, CellUnsupported),
                )
            )
            continue
        seen = scores[name]
        changes = token_changes(seen, scores[OWN])
        found.append(
            SettingScores(
                name=name,
                setting=setting,
                ppl=seen.perplexity,
                mean_kld_nats=_mean_kld(seen),
                tokens_changed=None if changes is None else changes.changed,
                top_tokens_changed=None if changes is None else changes.top_tokens_changed,
                largest_nats=None if changes is None else changes.largest_nats,
                rms_nats=distances[name],
            )
        )
    return NoiseMeasurement(
        chunks=n_chunks, tokens=scores[OWN].chunks.n_tokens, centre=centre, settings=tuple(found)
    )


def _mean_kld(seen: PerplexityMeasurement) -> float | None:
    sums = seen.chunks.kld_sums
    return None if sums is None else math.fsum(sums) / seen.chunks.n_tokens


def _centre(scores: dict[str, PerplexityMeasurement]) -> tuple[str, dict[str, float]]:
    """Return the central setting, and each one's distance from it, RMS in nats a token."""
    values: dict[str, npt.NDArray[np.float64]] = {}
    for name, seen in scores.items():
        assert seen.nll_nats is not None
        values[name] = seen.nll_nats.astype(np.float64)
    with np.errstate(invalid="ignore"):
        apart = {
            one: {
                other: float(np.sqrt(np.mean((values[one] - values[other]) ** 2)))
                for other in values
            }
            for one in values
        }
    # A setting that is not finite is as far away as can be, and no centre.
    centre = min(
        apart,
        key=lambda name: float(np.median(np.nan_to_num(list(apart[name].values()), nan=np.inf))),
    )
    return centre, apart[centre]
