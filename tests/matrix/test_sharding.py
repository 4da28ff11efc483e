"""Shards: the longest as short as can be, and the same in every job."""

from __future__ import annotations

from itertools import chain, combinations_with_replacement, pairwise
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytest_quantgate.artifacts.library import Library
from pytest_quantgate.config.settings import Settings, load_settings
from pytest_quantgate.config.shards import Shard, parse_shard
from pytest_quantgate.errors import ConfigError
from pytest_quantgate.matrix.cells import Cell, expand
from pytest_quantgate.matrix.matrix import Matrix
from pytest_quantgate.matrix.sharding import Group, Shards, cut, group_key
from pytest_quantgate.results.baseline_store import Store

COSTS = st.lists(st.integers(1, 50), min_size=1, max_size=5)


@st.composite
def groups(draw: st.DrawFn) -> list[Group]:
    """Draw a few groups; the reference is one of the cells, or none."""
    drawn = []
    for costs in draw(st.lists(COSTS, min_size=1, max_size=3)):
        reference = draw(st.none() | st.integers(0, len(costs) - 1))
        cost = draw(st.integers(0, 40)) if reference is None else costs[reference]
        drawn.append(Group(costs_ms=tuple(costs), reference=reference, reference_ms=cost))
    return drawn


def longest(parts: list[Group], places: tuple[int, ...]) -> int:
    """Return what the longest shard takes, counted plainly."""
    row = [(n, k, c) for n, group in enumerate(parts) for k, c in enumerate(group.costs_ms)]
    sums = []
    for begin, end in pairwise(places):
        cells = row[begin:end]
        total = sum(cost for _, _, cost in cells)
        for number in {n for n, _, _ in cells}:
            if not any(n == number and k == parts[number].reference for n, k, _ in cells):
                total += parts[number].reference_ms
        sums.append(total)
    return max(sums)


@pytest.mark.parametrize(("text", "number", "count"), [("1/1", 1, 1), ("2/4", 2, 4)])
def test_a_shard_is_read(text: str, number: int, count: int) -> None:
    assert parse_shard(text, {}) == Shard(number=number, count=count)
    assert str(parse_shard(text, {})) == text


@pytest.mark.parametrize("text", ["0/4", "5/4", "x", "", "1", "/4", "1/", "1/0", "-1/4", "1/4/2"])
def test_what_is_no_shard(text: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parse_shard(text, {})
    assert str(caught.value) == (
        f"--quant-shard {text!r} is no shard; write K/N with K from 1 to N, as 2/4, or auto"
    )


SLURM = {
    "SLURM_ARRAY_TASK_COUNT": "4",
    "SLURM_ARRAY_TASK_MIN": "0",
    "SLURM_ARRAY_TASK_MAX": "3",
    "SLURM_ARRAY_TASK_STEP": "1",
}
STEPS = {
    "SLURM_ARRAY_TASK_COUNT": "3",
    "SLURM_ARRAY_TASK_MIN": "10",
    "SLURM_ARRAY_TASK_MAX": "20",
    "SLURM_ARRAY_TASK_STEP": "5",
}


@pytest.mark.parametrize(
    ("environment", "shard"),
    [
        ({"SLURM_ARRAY_TASK_ID": "0", **SLURM}, "1/4"),
        ({"SLURM_ARRAY_TASK_ID": "3", **SLURM}, "4/4"),
        ({"SLURM_ARRAY_TASK_ID": "15", **STEPS}, "2/3"),
        ({"JOB_COMPLETION_INDEX": "0", "JOB_COMPLETIONS": "3"}, "1/3"),
        ({"CI_NODE_INDEX": "2", "CI_NODE_TOTAL": "2"}, "2/2"),
        ({"CIRCLE_NODE_INDEX": "1", "CIRCLE_NODE_TOTAL": "2"}, "2/2"),
        ({"BUILDKITE_PARALLEL_JOB": "0", "BUILDKITE_PARALLEL_JOB_COUNT": "5"}, "1/5"),
        ({"SYSTEM_JOBPOSITIONINPHASE": "1", "SYSTEM_TOTALJOBSINPHASE": "2"}, "1/2"),
        ({"BITBUCKET_PARALLEL_STEP": "1", "BITBUCKET_PARALLEL_STEP_COUNT": "2"}, "2/2"),
        ({"SEMAPHORE_JOB_INDEX": "1", "SEMAPHORE_JOB_COUNT": "2"}, "1/2"),
        # A job of GitLab that submits to Slurm: the array is the inner one.
        ({"CI_NODE_INDEX": "2", "CI_NODE_TOTAL": "2", "SLURM_ARRAY_TASK_ID": "1", **SLURM}, "2/4"),
    ],
)
def test_a_job_of_an_array_knows_its_shard(environment: dict[str, str], shard: str) -> None:
    assert str(parse_shard("auto", environment)) == shard


@pytest.mark.parametrize(
    ("environment", "said"),
    [
        ({}, "this is no job of an array; none of SLURM_ARRAY_TASK_ID, JOB_COMPLETION_INDEX,"),
        ({"CI_NODE_INDEX": "2"}, "says a job of GitLab, but CI_NODE_TOTAL is not set; write K/N"),
        ({"CI_NODE_INDEX": "x", "CI_NODE_TOTAL": "2"}, "but CI_NODE_INDEX = 'x' is no number"),
        ({"CI_NODE_INDEX": "0", "CI_NODE_TOTAL": "2"}, "CI_NODE_INDEX = 0 is not 1 to 2, as"),
        ({"JOB_COMPLETION_INDEX": "1"}, "set it in the container's env to the completions"),
        (
            {"SLURM_ARRAY_TASK_ID": "2", **SLURM, "SLURM_ARRAY_TASK_COUNT": "1"},
            "the array has the one task 2; to run a task of an earlier array again, requeue it",
        ),
        (
            {"SLURM_ARRAY_TASK_ID": "1", **SLURM, "SLURM_ARRAY_TASK_COUNT": "3"},
            "the array's 3 tasks from 0 to 3 are not evenly spaced; submit one that is, as"
            " --array=0-2",
        ),
    ],
)
def test_an_environment_that_tells_no_shard(environment: dict[str, str], said: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parse_shard("auto", environment)
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


def even(*sizes: int, reference_ms: int = 0) -> list[Group]:
    """Return groups of cells that take 10 ms each."""
    return [
        Group(
            costs_ms=(10,) * size, reference=0 if reference_ms else None, reference_ms=reference_ms
        )
        for size in sizes
    ]


@pytest.mark.parametrize(
    ("parts", "count", "places"),
    [
        (even(14, 14), 1, (0, 28)),
        (even(14, 14), 2, (0, 14, 28)),
        (even(14, 14), 4, (0, 7, 14, 21, 28)),
        (even(2, 1), 5, (0, 1, 2, 3, 3, 3)),  # more shards than cells
        # A reference again costs what a cell does: models stay whole where that is no longer.
        (even(14, 14, 14, 14, 14, reference_ms=10), 5, (0, 14, 28, 42, 56, 70)),
        # A model of eight times the size: its formats are spread, the small one's stay together.
        (
            [
                Group(costs_ms=(80, 80, 80, 80), reference=None, reference_ms=0),
                Group(costs_ms=(10, 10, 10, 10), reference=None, reference_ms=0),
            ],
            3,
            (0, 2, 4, 8),
        ),
        # One cell of most of the cost: no shard is left without any.
        ([Group(costs_ms=(100, 1, 1, 1), reference=None, reference_ms=0)], 4, (0, 1, 2, 3, 4)),
    ],
)
def test_where_a_matrix_is_cut(parts: list[Group], count: int, places: tuple[int, ...]) -> None:
    assert cut(parts, count) == places


@given(parts=groups(), count=st.integers(1, 20))
def test_shards_cover_the_matrix_once(parts: list[Group], count: int) -> None:
    places = cut(parts, count)
    n_cells = sum(len(group.costs_ms) for group in parts)
    lengths = [after - before for before, after in pairwise(places)]
    assert (places[0], places[-1], len(lengths)) == (0, n_cells, count)
    assert min(lengths) >= (1 if count <= n_cells else 0)


@given(parts=groups(), count=st.integers(1, 3))
def test_no_other_cut_makes_the_longest_shard_shorter(parts: list[Group], count: int) -> None:
    n_cells = sum(len(group.costs_ms) for group in parts)
    best = min(
        longest(parts, (0, *inner, n_cells))
        for inner in combinations_with_replacement(range(n_cells + 1), count - 1)
    )
    found = longest(parts, cut(parts, count))
    # Where a cell must be left for each shard, a reference may have to be measured once more.
    most_reference = max(group.reference_ms for group in parts)
    assert best <= found <= best + (most_reference if n_cells <= 2 * count else 0)


def nominal_shards(cells: tuple[Cell, ...], count: int) -> Shards:
    """Cut cells that all take as long."""
    keys = list(dict.fromkeys(map(group_key, cells)))
    sizes = [sum(group_key(cell) == key for cell in cells) for key in keys]
    return Shards(cells, even(*sizes), count)


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
    shards = nominal_shards(cells, 2)
    assert shards.models(1) == {"a"}
    assert shards.models(2) == {"b"}
    assert [cell.id for cell in shards.cells(1, cells)] == ["a-Q8_0-cpu", "a-Q4_0-cpu"]
    assert [cell.id for cell in shards.cells(2, cells)] == ["b-Q8_0-cpu", "b-Q4_0-cpu"]


def test_what_a_model_tells_of_itself_moves_no_cut(tmp_path: Path) -> None:
    """Its own precision takes another's place: one cell fewer than the settings tell."""
    made = settings(tmp_path, 'models=["a","c"]\ntexts=["t"]\nformats=["F16","BF16","Q8_0","Q4_0"]')
    nominal = expand(made)
    known = expand(made, {"a": "BF16"})
    assert len(known) == len(nominal) - 1
    for count in (1, 2, 3, 4, 9):
        shards = nominal_shards(nominal, count)
        parts = [shards.cells(number, known) for number in range(1, count + 1)]
        assert tuple(chain.from_iterable(parts)) == known, "each cell once, in the profile's order"
    # The job of the other model does not know of this, and cuts alike.
    shards = nominal_shards(nominal, 2)
    assert shards.cells(2, known) == shards.cells(2, nominal)


def matrix_of(tmp_path: Path, profile: str, models: str) -> Matrix:
    """Return the matrix of a profile over some models, for the first of two jobs."""
    (tmp_path / "pyproject.toml").write_text(
        f"""
        [tool.quantgate]
        profile = "p"
        [tool.quantgate.models]
        {models}
        [tool.quantgate.profiles.p]
        {profile}
        """
    )
    made = load_settings(tmp_path)
    return Matrix(made, Library(made), Store(tmp_path, use_shipped=False))


def test_a_larger_model_gets_more_shards(tmp_path: Path) -> None:
    """Eight billion weights against a hundred million: three shards of four are the large one's."""
    matrix = matrix_of(
        tmp_path,
        'models=["small","large"]\nformats=["F16","Q8_0","Q4_0","Q4_K_M"]\nspeed=true',
        'small = { source = "shape:smollm2-135m" }\nlarge = { source = "shape:lfm2-8b-a1b" }',
    )
    cells = matrix.nominal
    costs = [cost for group in matrix.shards._groups for cost in group.costs_ms]
    assert sum(costs[4:]) > 10 * sum(costs[:4])
    shards = Shards(cells, matrix.shards._groups, 4)
    assert [len(shards.cells(number, cells)) for number in range(1, 5)] == [5, 1, 1, 1]


def test_a_model_that_another_job_has_counts_as_an_average(tmp_path: Path) -> None:
    matrix = matrix_of(
        tmp_path,
        'models=["here","elsewhere","hub"]\nformats=["F16","Q8_0"]',
        'here = { source = "embedded:olmoe-mini" }\nelsewhere = { source = "no.gguf" }\n'
        'hub = { source = "hf:org/repository/file.gguf" }',
    )
    here, elsewhere, hub = matrix.shards._groups
    average = sum(here.costs_ms) / 2
    assert all(abs(cost - average) <= 1 for cost in (*elsewhere.costs_ms, *hub.costs_ms))


def test_jobs_that_cut_by_other_costs_are_told_apart(tmp_path: Path) -> None:
    profile, source = 'models=["a","b"]\nformats=["F16","Q8_0"]', 'a = { source = "embedded:%s" }\n'
    rest = 'b = { source = "shape:smollm2-135m" }'
    one = matrix_of(tmp_path, profile, source % "olmoe-mini" + rest).shards.sha256
    again = matrix_of(tmp_path, profile, source % "olmoe-mini" + rest).shards.sha256
    other = matrix_of(tmp_path, profile, source % "lfm2moe-mini" + rest).shards.sha256
    assert one == again != other
