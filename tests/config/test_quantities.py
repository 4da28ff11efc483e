"""Times as they are told."""

from __future__ import annotations

import pytest

from pytest_quantgate.config.values import duration


@pytest.mark.parametrize(
    ("seconds", "told"),
    [
        (0.04, "0.0 s"),
        (9.94, "9.9 s"),
        (9.96, "10 s"),
        (59.4, "59 s"),
        (59.6, "1.0 min"),
        (594, "9.9 min"),
        (1200, "20 min"),
        (3590, "1.0 h"),
        (9000, "2.5 h"),
    ],
)
def test_a_time_is_told_in_its_unit(seconds: float, told: str) -> None:
    assert duration(seconds) == told
