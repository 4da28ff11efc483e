"""Shards: even, whole groups where that allows it, and the same in every job."""

from __future__ import annotations

from itertools import chain, pairwise
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytest_quantgate.config.settings import Settings, load_settings
from pytest_quantgate.config.shards import Shard, parse_shard
from pytest_quantgate.errors import ConfigError
from pytest_quantgate.matrix.cells import expand
from pytest_quantgate.matrix.sharding import cells_of, cut, models_of

SIZES = st.lists(st.integers(1, 20), min_size=1, max_size=12)
COUNTS = st.integers(1, 30)


@pytest.mark.parametrize(("text", "number", "count"), [("1/1", 1, 1), ("2/4", 2, 4)])
def test_a_shard_is_read(text: str, number: int, count: int) -> None:
    assert parse_shard(text) == Shard(number=number, count=count)
    assert str(parse_shard(text)) == text


@pytest.mark.parametrize("text", ["0/4", "5/4", "x", "", "1", "/4", "1/", "1/0", "-1/4", "1/4/2"])
def test_what_is_no_shard(text: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parse_shard(text)
    assert str(caught.value) == (
        f"--quant-shard {text!r} is no part of a whole; write K/N with K from 1 to N, as 2/4"
    )


@pytest.mark.parametrize(
    ("sizes", "count", "places"),
    [
        ((14, 14), 1, (0, 28)),
        ((14, 14), 2, (0, 14, 28)),  # whole models
        ((14, 14), 4, (0, 7, 14, 21, 28)),  # more shards than models: by formats
        ((14, 14), 3, (0, 9, 18, 28)),  # not 14, 14, 0
        ((14, 14, 14), 2, (0, 21, 42)),  # not 28 and 14
        ((14,) * 20, 3, (0, 98, 182, 280)),  # 7, 6 and 7 models
        ((2, 1), 5, (0, 0, 1, 1, 2, 3)),  # more shards than cells
    ],
)
def test_where_a_matrix_is_cut(sizes: tuple[int, ...], count: int, places: tuple[int, ...]) -> None:
    assert cut(sizes, count) == places


@given(sizes=SIZES, count=COUNTS)
def test_shards_cover_the_matrix_once_and_are_nearly_even(sizes: list[int], count: int) -> None:
    places = cut(sizes, count)
    assert places[0] == 0
    assert places[-1] == sum(sizes)
    lengths = [after - before for before, after in pairwise(places)]
    assert len(lengths) == count
    assert min(lengths) >= 0
    assert max(lengths) <= 1.5 * sum(sizes) / count + 1


@given(sizes=SIZES, count=COUNTS)
def test_a_group_is_cut_only_where_no_border_is_near(sizes: list[int], count: int) -> None:
    borders = {sum(sizes[:n]) for n in range(len(sizes) + 1)}
    for number, place in enumerate(cut(sizes, count)):
        even = sum(sizes) * number / count
        if place not in borders:
            assert min(abs(border - even) for border in borders) > sum(sizes) / count / 4
            assert 0 <= even - place < 1


def settings(tmp_path: Path, profile: str) -> Settings:
    """Return settings of a profile over three models; b has files of its own."""
    (tmp_path / "pyproject.toml").write_text(
        f"""
        [tool.quantgate]
        profile = "p"
        [tool.quantgate.models]
        a = {{ source = "a.gguf" }}
        b = {{ files = {{ Q8_0 = "b8.gguf", Q4_0 = "b4.gguf" }} }}
        c = {{ source = "c.gguf" }}
        [tool.quantgate.texts]
        t = {{ source = "t.txt" }}
        [tool.quantgate.profiles.p]
        {profile}
        """
    )
    return load_settings(tmp_path)


def test_a_shard_is_whole_groups_and_needs_their_models_alone(tmp_path: Path) -> None:
    cells = expand(settings(tmp_path, 'models=["a","b"]\ntexts=["t"]\nformats=["Q8_0","Q4_0"]'))
    first, second = Shard(number=1, count=2), Shard(number=2, count=2)
    assert models_of(cells, first) == {"a"}
    assert models_of(cells, second) == {"b"}
    assert [cell.id for cell in cells_of(cells, cells, first)] == ["a-Q8_0-cpu", "a-Q4_0-cpu"]
    assert [cell.id for cell in cells_of(cells, cells, second)] == ["b-Q8_0-cpu", "b-Q4_0-cpu"]


def test_what_a_model_tells_of_itself_moves_no_cut(tmp_path: Path) -> None:
    """Its own precision takes another's place: one cell fewer than the settings tell."""
    made = settings(tmp_path, 'models=["a","c"]\ntexts=["t"]\nformats=["F16","BF16","Q8_0","Q4_0"]')
    nominal = expand(made)
    known = expand(made, {"a": "BF16"})
    assert len(known) == len(nominal) - 1
    for count in (1, 2, 3, 4, 9):
        shards = [Shard(number=number, count=count) for number in range(1, count + 1)]
        parts = [cells_of(nominal, known, shard) for shard in shards]
        assert tuple(chain.from_iterable(parts)) == known, "each cell once, in the profile's order"
    # The job of the other model does not know of this, and cuts alike.
    second = Shard(number=2, count=2)
    assert cells_of(nominal, known, second) == cells_of(nominal, nominal, second)
