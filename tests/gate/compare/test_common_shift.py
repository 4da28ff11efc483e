"""What many cells have in common, where no cell shows it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest

from pytest_quantgate.gate.compare.common_shift import (
    CommonShift,
    Direction,
    shifts_of_comparison,
    shifts_of_run,
)
from pytest_quantgate.gate.compare.comparison import compare_records
from pytest_quantgate.reports.blocks import plain
from pytest_quantgate.reports.common_shift import common_shift_blocks
from pytest_quantgate.reports.write import run_markdown, terminal_blocks
from pytest_quantgate.results.record import CellRecord, RunRecord
from tests.gate.compare.records import CHUNKS, TOKENS, run_of, scored

FORMATS = ("Q8_0", "Q6_K", "Q5_K_M", "Q5_0", "Q4_K_M", "Q4_0", "IQ4_NL", "IQ4_XS", "Q3_K_M", "Q2_K")


def moves(mean: float, scatter: float, seed: int) -> list[float]:
    """Return shifts of the chunks in nats a token, with exactly this mean."""
    drawn = np.random.default_rng(seed).normal(0, scatter, CHUNKS)
    return list(drawn - drawn.mean() + mean)


def cells(mean: float, *, scatter: float = 0.002, engine: str = "new") -> list[CellRecord]:
    return [
        scored(name, engine=engine, shift=moves(mean, scatter, seed))
        for seed, name in enumerate(FORMATS)
    ]


def held_against_stored(now: Sequence[CellRecord]) -> RunRecord:
    """Return a run whose baselines did not move."""
    return run_of(*(replace(cell, baseline_chunks=scored(cell.format).chunks) for cell in now))


def perplexity(shifts: Sequence[CommonShift]) -> CommonShift:
    (shift,) = [shift for shift in shifts if shift.metric == "perplexity"]
    return shift


def test_a_small_loss_that_all_cells_share_is_told_though_no_cell_shows_it() -> None:
    mean = 0.0008
    for cell in cells(mean):
        alone = cell.chunks.paired(scored(cell.format).chunks).nll()
        assert alone.mean - 3.7 * alone.standard_error < 0, "certain in no cell"
    record = held_against_stored(cells(mean))
    shift = perplexity(shifts_of_run(record))
    assert (shift.cells, shift.clusters, shift.direction) == (10, CHUNKS, Direction.LOSS)
    assert shift.mean_nats == pytest.approx(mean)
    assert shift.low_nats < mean < shift.high_nats
    text = run_markdown(record)
    assert "The 10 cells that moved and are not red, taken together over 16 documents: PPL" in text
    assert "**a common loss beyond chance at 99.9 %**" in text


@pytest.mark.parametrize(("mean", "direction"), [(0.0, Direction.NONE), (-0.0008, Direction.GAIN)])
def test_what_is_no_loss_is_not_called_one(mean: float, direction: Direction) -> None:
    assert perplexity(shifts_of_run(held_against_stored(cells(mean)))).direction is direction


def test_a_red_cell_does_not_lend_its_loss_to_the_others() -> None:
    red = replace(scored("Q4_K_S", shift=0.5), verdict="REGRESSED")
    record = held_against_stored([*cells(0.0), red])
    assert perplexity(shifts_of_run(record)).cells == len(FORMATS)
    assert perplexity(shifts_of_run(record)).direction is Direction.NONE


def test_cells_of_one_text_are_no_independent_witnesses() -> None:
    """The same documents moved by the same amounts: more cells say no more."""
    same = [scored(name, shift=moves(0.0008, 0.002, 0)) for name in FORMATS]
    one = scored(FORMATS[0], shift=moves(0.0008, 0.002, 0))
    together = perplexity(shifts_of_run(held_against_stored(same)))
    twice = perplexity(shifts_of_run(held_against_stored([one, replace(one, format="Q6_K")])))
    assert together.high_nats == pytest.approx(twice.high_nats)


@pytest.mark.parametrize("moved", [0, 1])
def test_fewer_than_two_moved_cells_have_nothing_in_common(moved: int) -> None:
    now = [*cells(0.001)[:moved], *(scored(name) for name in FORMATS[moved:])]
    record = held_against_stored(now)
    assert shifts_of_run(record) == ()
    assert common_shift_blocks(()) == []


def test_cells_that_moved_by_rounding_do_not_drown_the_others() -> None:
    record = held_against_stored([*cells(0.002)[:5], *cells(0.0, scatter=1e-6)[5:]])
    shift = perplexity(shifts_of_run(record))
    assert (shift.cells, shift.direction) == (5, Direction.LOSS)
    assert shift.mean_nats == pytest.approx(0.002)


def test_chunks_of_other_tokens_are_left_out() -> None:
    now = [
        replace(cell, baseline_chunks=scored(cell.format, ids="other").chunks)
        for cell in cells(0.1)
    ]
    assert shifts_of_run(run_of(*now)) == ()


def test_two_records_are_compared_the_same_way() -> None:
    before = run_of(*(scored(name, engine="old") for name in FORMATS), engine="old")
    found = shifts_of_comparison(compare_records(before, run_of(*cells(0.0008))))
    assert found == shifts_of_run(held_against_stored(cells(0.0008)))


def test_the_divergence_is_told_in_nats() -> None:
    now = []
    for number, cell in enumerate(cells(0.0)):
        more = np.array(moves(0.001, 0.001, 100 + number)) * TOKENS
        sums = tuple(np.add(cell.chunks.kld_sums or (), more))
        now.append(replace(cell, chunks=cell.chunks.replace(kld_sum_nats=sums)))
    *_, paragraph = terminal_blocks(held_against_stored(now))
    text = plain(getattr(paragraph, "text"))  # noqa: B009 # any block but a table has it
    assert "mean KLD +0.001000 nats (95 %: " in text
    assert text.endswith("a common loss beyond chance at 99.9 %.")
