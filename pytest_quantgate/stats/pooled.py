"""One change in many cells: the mean shift over cells, with its interval."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from pytest_quantgate.stats.estimates import MeanEstimate, skewness_of

if TYPE_CHECKING:
    import numpy.typing as npt


@dataclass(frozen=True, kw_only=True, eq=False)
class CellShift:
    """The differences of one cell's chunks, with what makes them belong together.

    Attributes:
        differences: (chunks,) sums after − before, in the metric's unit.
        tokens: (chunks,) scored tokens.
        clusters: (chunks,) names of the documents (or blocks) they come from; the same name in two
            cells is the same document, whatever the model, so that both are known to move alike.

    """

    differences: npt.NDArray[np.float64]
    tokens: npt.NDArray[np.int64]
    clusters: Sequence[object]


def pooled_shift(cells: Sequence[CellShift]) -> MeanEstimate:
    """Estimate the mean shift over cells, weighted by how exactly each is known.

    A kernel that computes a little worse moves every cell that uses it a little, each within its
    limit. Cells that did not move at all are left out: they don't use what changed. The others'
    means are weighted by 1/s, with s the root mean square of a cell's differences per cluster,
    so that a coarse format doesn't drown the others. Chunks of one document are drawn together in
    all cells, so the document is the cluster of the pooled residuals, summed over cells:
    with R_g = Σ_c w_c·(S_cg − n_cg·x̄_c)/N_c the variance is G/(G − 1)·Σ_g R_g².

    Returns:
        The estimate, per token; `clusters` counts the documents of all cells, `tokens` and
        `chunks` those of all cells. A mean of NaN where a difference is not finite.

    Raises:
        ValueError: no cell that moved.

    """
    moved = [cell for cell in cells if np.any(cell.differences != 0)]
    if not moved:
        msg = f"{len(cells)} cells, none of which moved; there is no shift to estimate"
        raise ValueError(msg)
    names = {name: None for cell in moved for name in cell.clusters}
    numbers = {name: number for number, name in enumerate(names)}
    means, residuals, sizes, weights = [], [], [], []
    for cell in moved:
        labels = np.array([numbers[name] for name in cell.clusters], dtype=np.int64)
        sums = np.bincount(labels, cell.differences, len(numbers))
        tokens = np.bincount(labels, cell.tokens.astype(np.float64), len(numbers))
        total = tokens.sum()
        mean = sums.sum() / total
        means.append(mean)
        residuals.append((sums - tokens * mean) / total)
        sizes.append(tokens / total)
        weights.append(1 / math.sqrt(float(sums @ sums)) * total)
    weight = np.array(weights) / np.sum(weights)
    pooled, size = weight @ np.array(residuals), weight @ np.array(sizes)
    n_clusters = len(numbers)
    effective = float(1 / (size @ size))
    variance = (
        n_clusters / (n_clusters - 1) * float(pooled @ pooled) if n_clusters > 1 else math.inf
    )
    return MeanEstimate(
        mean=float(weight @ np.array(means)),
        standard_error=math.sqrt(variance),
        skewness=skewness_of(pooled),
        skewness_error=math.sqrt(6 / effective),
        clusters=n_clusters,
        effective_clusters=effective,
        tokens=int(sum(cell.tokens.sum() for cell in moved)),
        chunks=sum(len(cell.tokens) for cell in moved),
    )
