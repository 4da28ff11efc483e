"""Count false alarms and hits of the change points of ``quantgate history``.

    python benchmarks/history_changes.py            # 2,000 seeds a row

Each row simulates series of some length, without a change and with one planted after a random
record (three from either end at least, or as near as the length allows), and prints the share of
series with a false alarm and the share in which exactly the planted change was found, at its place
and within one record of it. The scatter is normal, heavy-tailed (Student's t with 3 degrees of
freedom), normal with one tenth of the records disturbed by five times as much, or rounding; the
change is in standard deviations of the normal part.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable

import numpy as np
import numpy.typing as npt

from pytest_quantgate.stats.change_points import change_points

Values = npt.NDArray[np.float64]
FLOOR = 1e-3


def normal(random: np.random.Generator, n: int) -> Values:
    """Return normal scatter."""
    return random.standard_normal(n)


def heavy(random: np.random.Generator, n: int) -> Values:
    """Return scatter with heavy tails, of standard deviation 1."""
    return np.asarray(random.standard_t(3, n) / np.sqrt(3))


def disturbed(random: np.random.Generator, n: int) -> Values:
    """Return normal scatter in which a busy machine disturbed some records."""
    return random.standard_normal(n) * np.where(random.random(n) < 0.1, 5, 1)


def rounding(random: np.random.Generator, n: int) -> Values:
    """Return scatter far below the floor, mostly none: a metric that is deterministic."""
    return np.where(random.random(n) < 0.2, 0.1 * FLOOR * random.standard_normal(n), 0.0)


SCATTERS: dict[str, Callable[[np.random.Generator, int], Values]] = {
    "normal": normal,
    "heavy tails": heavy,
    "disturbed": disturbed,
    "rounding": rounding,
}


def rates(
    scatter: Callable[[np.random.Generator, int], Values],
    n: int,
    step: float,
    persistence: int,
    seeds: int,
) -> tuple[float, float, float]:
    """Return the shares of false alarms, of exact hits, and of hits within one record."""
    alarms = exact = near = 0
    for seed in range(seeds):
        random = np.random.default_rng([seed, n])
        values = 100 + scatter(random, n)
        alarms += bool(change_points(values.tolist(), floor=FLOOR, persistence=persistence))
        edge = min(3, n // 2)
        place = int(random.integers(edge, n - edge + 1))
        values[place:] += step
        points = change_points(values.tolist(), floor=FLOOR, persistence=persistence)
        exact += points == (place,)
        near += len(points) == 1 and abs(points[0] - place) <= 1
    return alarms / seeds, exact / seeds, near / seeds


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=2000)
    seeds = parser.parse_args().seeds
    print("| scatter | records | lasts | change | false alarms | at its place | within one |")
    print("|---|--:|--:|--:|--:|--:|--:|")
    for name, n, step, persistence in (
        *(("normal", n, step, 1) for n in (5, 10, 30, 100) for step in (3.0, 5.0, 10.0)),
        *(("normal", n, step, 2) for n in (10, 30, 100) for step in (3.0, 5.0)),
        *(("heavy tails", 30, step, 2) for step in (3.0, 5.0)),
        *(("disturbed", 30, step, 2) for step in (3.0, 5.0)),
        *(("rounding", n, 10 * FLOOR, 1) for n in (5, 30)),
    ):
        figures = rates(SCATTERS[name], n, step, persistence, seeds)
        shares = " | ".join(f"{100 * figure:.1f} %" for figure in figures)
        change = f"{step:g} σ" if name != "rounding" else "10 floors"
        print(f"| {name} | {n} | {persistence} | {change} | {shares} |", flush=True)


if __name__ == "__main__":
    main()
