"""How often a shift that many cells have in common is found, and how often one that is not there.

    python benchmarks/common_shift_simulation.py runtime_changes.npz [--simulations N]

The changes of runtime_changes.py between two releases' products are recentred, so that no cell has
a true shift. Whole documents are drawn with replacement, the same ones for all cells of a text, and
a true shift is added to every cell. It prints how often the pooled mean is called a loss or a gain
at the share of error that REGRESSED has, how often its interval of 95 % covers the true shift,
and how often any cell alone would be as certain of a loss.
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from pytest_quantgate.stats import (
    ALPHA_REGRESSED,
    CellShift,
    estimate_mean,
    interval,
    lower_bound,
    pooled_shift,
    ppl_change,
    upper_bound,
)

if TYPE_CHECKING:
    import numpy.typing as npt

    FloatArray = npt.NDArray[np.float64]

COLUMNS = {"perplexity": 2, "divergence": 3}
SHIFTS_NATS = {
    "perplexity": (0.0, 0.0002, 0.0005, 0.001),
    "divergence": (0.0, 0.00005, 0.0001, 0.0002),
}
TEXTS = ("evaluation", "WikiText")


@dataclass(frozen=True, kw_only=True)
class Cell:
    """One cell's recentred differences, with the places of each document's chunks."""

    tokens: FloatArray
    sums: FloatArray
    members: dict[int, npt.NDArray[np.int64]]


def load(path: Path, text: str, column: int) -> list[Cell]:
    """Read the cells of a text that moved beyond rounding."""
    cells = []
    with np.load(path) as kept:
        for key in kept.files:
            if not (key.startswith("harmless/") and key.endswith(f", {text}")):
                continue
            found = kept[key]
            tokens, documents, sums = found[0], found[1].astype(np.int64), found[column]
            centred = sums - sums.sum() / tokens.sum() * tokens
            members = {int(d): np.flatnonzero(documents == d) for d in np.unique(documents)}
            cells.append(Cell(tokens=tokens, sums=centred, members=members))
    return cells


def simulate(cells: list[Cell], n_documents: int, shift: float, count: int) -> str:
    """Return a table's cells: loss, gain, coverage and any cell alone, in percent."""
    rng = np.random.default_rng(11)
    names = sorted({document for cell in cells for document in cell.members})
    loss = gain = covered = alone = 0
    for _ in range(count):
        drawn = rng.choice(names, size=n_documents)
        shifts, by_itself = [], []
        for cell in cells:
            places = [(n, cell.members[d]) for n, d in enumerate(drawn) if d in cell.members]
            picked = np.concatenate([chunks for _, chunks in places])
            labels = [n for n, chunks in places for _ in chunks]
            tokens = cell.tokens[picked].astype(np.int64)
            sums = cell.sums[picked] + shift * tokens
            shifts.append(CellShift(differences=sums, tokens=tokens, clusters=labels))
            by_itself.append(estimate_mean(sums, tokens, labels))
        estimate = pooled_shift(shifts)
        low, high = interval(estimate)
        loss += lower_bound(estimate, ALPHA_REGRESSED) > 0
        gain += upper_bound(estimate, ALPHA_REGRESSED) < 0
        covered += low <= shift <= high
        alone += any(lower_bound(cell, ALPHA_REGRESSED) > 0 for cell in by_itself)
    return " | ".join(f"{100 * share / count:.2f}" for share in (loss, gain, covered, alone))


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("file", type=Path)
    parser.add_argument("--simulations", type=int, default=2000, help="for each row")
    arguments = parser.parse_args()
    print(
        "| text, metric | cells | documents | true shift | loss % | gain % | covered % | a cell |"
    )
    print("|---|--:|--:|--:|--:|--:|--:|--:|")
    for text in TEXTS:
        for metric, column in COLUMNS.items():
            cells = load(arguments.file, text, column)
            for n_documents in (16, 49):
                for shift in SHIFTS_NATS[metric]:
                    found = simulate(cells, n_documents, shift, arguments.simulations)
                    written = (
                        f"{100 * ppl_change(shift):+.2f} %"
                        if metric == "perplexity"
                        else f"{shift:+g} nats"
                    )
                    row = f"| {text}, {metric} | {len(cells)} | {n_documents} | {written}"
                    print(f"{row} | {found} |", flush=True)


if __name__ == "__main__":
    main()
