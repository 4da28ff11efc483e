"""Settings noise: how far a cell's figures move with settings that should not matter.

Threads, batch sizes and repacked weights change the order of sums and how activations are
rounded, not what is computed. What they move is the least that a limit can tell from a change.
Flash attention stays pinned: it is another computation, and part of a baseline's identity.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from pytest_quantgate.computing import Setting
from pytest_quantgate.errors import CellError, CellUnsupported
from pytest_quantgate.metrics.perplexity import PerplexityMeasurement, token_changes
from pytest_quantgate.metrics.scoring import measure_perplexity, score_under

if TYPE_CHECKING:
    from pytest_quantgate.matrix import Cell
    from pytest_quantgate.run import Run

OWN = "the profile's own"


@dataclass(frozen=True, kw_only=True)
class SettingScores:
    """What one setting gave; figures are None where it could not be measured.

    ``problem`` says why not; ``is_fault`` that the engine failed, and did not only refuse.
    ``mean_kld_nats`` is against the reference as the profile's own setting gives it, None without
    one. Changed tokens and ``largest_nats`` compare with the profile's own setting.
    ``rms_nats`` is the distance from the central setting: the root of the mean squared
    difference of the tokens' log-likelihoods. Half its square is, for small differences, the KL
    divergence between both.
    """

    name: str
    setting: Setting
    ppl: float | None = None
    mean_kld_nats: float | None = None
    tokens_changed: int | None = None
    top_tokens_changed: int | None = None
    largest_nats: float | None = None
    rms_nats: float | None = None
    problem: str | None = None
    is_fault: bool = False

    @property
    def is_finite(self) -> bool:
        """Whether it was measured, and as a number."""
        return self.ppl is not None and math.isfinite(self.ppl)


@dataclass(frozen=True, kw_only=True)
class NoiseMeasurement:
    """All settings of one cell, the profile's own first.

    ``centre`` is the setting with the smallest median distance from the others.
    """

    chunks: int
    tokens: int
    centre: str
    settings: tuple[SettingScores, ...]

    @property
    def own(self) -> SettingScores:
        """The profile's own setting."""
        return self.settings[0]


def variations(own: Setting, *, is_cpu: bool) -> dict[str, Setting]:
    """Return the settings to compare with the profile's own, by the name of what is other."""
    found = {}
    threads = 1 if own.n_threads > 1 else 2
    found[f"{threads} thread{'s' if threads > 1 else ''}"] = replace(own, n_threads=threads)
    for part in (2, 8):
        size = own.n_ubatch // part
        if size:
            found[f"n_ubatch {size}"] = replace(own, n_ubatch=size)
    half = own.n_batch // 2
    if half:
        found[f"n_batch {half}"] = replace(own, n_batch=half, n_ubatch=min(own.n_ubatch, half))
    if is_cpu:
        found["not repacked"] = replace(own, repack=False)
    return found


def measure_noise(run: Run, cell: Cell) -> NoiseMeasurement:
    """Score the cell's whole budget of chunks in every setting.

    A setting that fails becomes a finding, not the cell's error.

    Raises:
        CellError: the profile's own setting could not be measured.

    """
    n_chunks = run.looks(cell)[-1]
    own = run.setting
    is_cpu = run.placement(cell).is_cpu
    others = variations(own, is_cpu=is_cpu)
    scores = {OWN: measure_perplexity(run, cell, n_chunks)}
    if scores[OWN].nll_nats is None:
        raise CellUnsupported(
            "settings are compared token by token, and this engine tells sums alone; take an"
            " engine of llama-cpp-python"
        )
    problems: dict[str, CellError] = {}
    for number, (name, setting) in enumerate(others.items()):
        run.emit("setting", cell, name=name, done=number + 1, total=len(others) + 1)
        try:
            scores[name] = score_under(run, cell, setting, n_chunks)
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
        chunks=n_chunks, tokens=scores[OWN].n_tokens, centre=centre, settings=tuple(found)
    )


def _mean_kld(seen: PerplexityMeasurement) -> float | None:
    sums = [chunk.kld_sum_nats for chunk in seen.chunks]
    known = [value for value in sums if value is not None]
    return math.fsum(known) / seen.n_tokens if len(known) == len(sums) else None


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
