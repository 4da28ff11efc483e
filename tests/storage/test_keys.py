"""Keys name all that makes a figure, the code of this package too."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from pytest_quantgate.metrics import scoring
from pytest_quantgate.storage import keys
from pytest_quantgate.storage.keys import code_sha256


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A package of two rooms."""
    for name in ("metrics/speed.py", "metrics/deep/bits.py", "reports/page.py"):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("x = 1\n", encoding="utf-8")
    monkeypatch.setattr(keys, "_PACKAGE", tmp_path)
    code_sha256.cache_clear()
    yield tmp_path
    code_sha256.cache_clear()


def hash_anew() -> str:
    code_sha256.cache_clear()
    return code_sha256("metrics")


def test_what_measures_is_in_the_key_and_what_shows_is_not(package: Path) -> None:
    before = hash_anew()
    (package / "reports/page.py").write_text("x = 2\n", encoding="utf-8")
    (package / "metrics/notes.txt").write_text("x", encoding="utf-8")
    assert hash_anew() == before
    (package / "metrics/deep/bits.py").write_text("x = 2\n", encoding="utf-8")
    changed = hash_anew()
    assert changed != before
    (package / "metrics/deep/bits.py").rename(package / "metrics/bits.py")
    assert hash_anew() not in {before, changed}


def test_the_rooms_that_measure_are_there() -> None:
    """An empty room would hash to nothing and never change."""
    assert code_sha256("engines") != code_sha256("metrics") != code_sha256()
    for room in scoring._MEASURING:
        assert code_sha256(room) != code_sha256("no such room")
