"""Where the level of a series changes: one planted change is found, and no other."""

from __future__ import annotations

import numpy as np
import pytest

from pytest_quantgate.stats.change_points import change_points

SEEDS = 200


def noise(seed: int, n: int = 30) -> list[float]:
    values: list[float] = (100 + np.random.default_rng(seed).standard_normal(n)).tolist()
    return values


def test_noise_alone_has_no_change() -> None:
    """The level is one in a thousand series: two of 200 have a chance of 1.8 %, three of 0.1 %."""
    alarms = sum(bool(change_points(noise(seed), floor=1e-3)) for seed in range(SEEDS))
    assert alarms <= 2


def test_a_planted_change_is_found_and_no_other() -> None:
    exact = near = 0
    for seed in range(SEEDS):
        place = 5 + seed % 21
        values = [value + (5.0 if n >= place else 0.0) for n, value in enumerate(noise(seed))]
        points = change_points(values, floor=1e-3, persistence=2)
        assert len(points) <= 2, seed
        exact += points == (place,)
        near += len(points) == 1 and abs(points[0] - place) <= 1
    assert exact >= 0.95 * SEEDS
    assert near >= 0.98 * SEEDS


@pytest.mark.parametrize("place", [1, 2, 3, 4])
def test_of_five_equal_values_one_change_is_enough(place: int) -> None:
    values = [20.0] * place + [20.2] * (5 - place)
    assert change_points(values, floor=2e-3) == (place,)


def test_rounding_is_no_change() -> None:
    values = [20.0, 20.0, 20.00004, 20.00004, 19.99996, 20.0, 20.0]
    assert change_points(values, floor=2e-3) == ()


def test_a_disturbed_value_alone_is_no_change_of_a_speed() -> None:
    values = noise(1)
    values[12] -= 30
    assert change_points(values, floor=1e-3, persistence=2) == ()


def test_two_changes_and_a_return_to_the_old_level() -> None:
    values = noise(3)
    values[10:20] = [value + 12 for value in values[10:20]]
    assert change_points(values, floor=1e-3, persistence=2) == (10, 20)


@pytest.mark.parametrize("values", [[], [1.0], [1.0, 2.0], [1.0, 1.0, 2.0]])
def test_too_few_values_say_nothing(values: list[float]) -> None:
    assert change_points(values, floor=1e-3) == ()
