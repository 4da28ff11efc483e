"""The table of chunks: rows that are taken, joined and compared."""

from __future__ import annotations

import math
from dataclasses import asdict

import pytest

from pytest_quantgate import stats
from pytest_quantgate.results.chunk_table import ChunkTable, combined_shift

TABLE = ChunkTable(
    index=(7, 2, 5),
    tokens=(10, 10, 20),
    nll_sum_nats=(20.0, 10.0, 30.0),
    token_ids=("a", "b", "c"),
    document=(0, 0, 1),
    domain=("prose", "code", "prose"),
    kld_sum_nats=(1.0, 2.0, 3.0),
)


def test_a_column_that_is_left_out_is_none_in_every_row() -> None:
    assert TABLE.same_top == (None, None, None)
    assert (TABLE.same_tops, TABLE.kld_sums) == (None, (1.0, 2.0, 3.0))
    assert not TABLE.is_exact
    with pytest.raises(ValueError, match="unequal length"):
        TABLE.replace(tokens=(1,))


def test_a_table_grows_row_by_row() -> None:
    table = ChunkTable()
    for row in range(len(TABLE)):
        table = table.append(**{name: column[row] for name, column in asdict(TABLE).items()})
    assert table == TABLE


def test_the_mean_is_of_tokens() -> None:
    assert TABLE.nll_per_token_nats == 1.5
    assert TABLE.perplexity == math.exp(1.5)
    assert TABLE.replace(nll_sum_nats=(1e6, 0.0, 0.0)).perplexity == math.inf
    assert math.isnan(TABLE.replace(nll_sum_nats=(math.nan, 0.0, 0.0)).perplexity)


def test_domains_keep_their_rows() -> None:
    by_domain = TABLE.by_domain()
    assert {name: rows.index for name, rows in by_domain.items()} == {"prose": (7, 5), "code": (2,)}


def test_only_common_chunks_are_compared_in_the_order_of_the_later_table() -> None:
    before = TABLE.take([2, 0]).replace(nll_sum_nats=(28.0, 20.0))
    pair = TABLE.paired(before)
    assert (pair.after.index, pair.before.index) == ((7, 5), (7, 5))
    shift = pair.shift()
    assert shift is not None
    assert shift.change == stats.ppl_change(2.0 / 30)
    assert (shift.chunks, shift.chunks_changed, shift.tokens) == (2, 1, 30)
    assert TABLE.paired(ChunkTable()).shift() is None


def test_chunks_of_other_tokens_are_counted_and_left_out() -> None:
    before = TABLE.replace(token_ids=("a", "x", "c"))
    pair = TABLE.paired(before)
    assert pair.retokenized == 1
    assert pair.of_equal_tokens().after.index == (7, 5)


def test_a_shift_of_several_tables_takes_the_chunks_of_all() -> None:
    second = TABLE.replace(nll_sum_nats=(21.0, 11.0, 31.0))
    third = second.take([0, 2]).replace(nll_sum_nats=(22.0, 34.0))
    shift = combined_shift((TABLE, second, third), lambda a, b, c: (a + b, 2 * c))
    assert shift is not None
    assert shift.chunks == 2
    assert shift.change == stats.ppl_change((44 - 41 + 68 - 61) / 30)
    assert combined_shift((TABLE, ChunkTable()), lambda a, b: (a, b)) is None
