"""How far perplexity moved between records of one cell, and which half of an engine moved it."""

from __future__ import annotations

import math

from pytest_quantgate.results.chunk_table import Shift, combined_shift
from pytest_quantgate.results.effects import Effects
from pytest_quantgate.results.record import CellRecord


def find_divergences(old: CellRecord, new: CellRecord) -> tuple[float, float] | None:
    """Return both mean divergences in nats on the common chunks; None where one has none."""
    pair = new.chunks.paired(old.chunks)
    before, after = pair.before.kld_sums, pair.after.kld_sums
    if not len(pair) or before is None or after is None:
        return None
    return (
        math.fsum(before) / pair.before.n_tokens,
        math.fsum(after) / pair.after.n_tokens,
    )


def is_same_file(one: CellRecord, other: CellRecord) -> bool:
    """Tell whether two cells computed with the same file, to the byte of every tensor."""
    if one.file_sha256 is not None and one.file_sha256 == other.file_sha256:
        return True
    # The tensors' own hashes: those of whole files may be of two releases, which differ.
    is_hashed = None not in {one.tensor_data_sha256, other.tensor_data_sha256}
    return is_hashed and one.tensors == other.tensors and one.metadata == other.metadata


def find_shift(old: CellRecord, new: CellRecord) -> Shift | None:
    """Compare two records' perplexities on their common chunks, None where there are none.

    Chunks whose token ids differ are left out: they are of other tokens.
    """
    return new.chunks.paired(old.chunks).of_equal_tokens().shift()


def find_effects(
    old: CellRecord,
    new: CellRecord,
    *,
    new_file_on_old: CellRecord | None,
    old_file_on_new: CellRecord | None,
) -> Effects | None:
    """Return the two-by-two, None where a corner that is needed was not measured."""
    together = find_shift(old, new)
    if together is None:
        return None
    if is_same_file(old, new):
        return Effects(
            is_same_file=True,
            quantizer=None,
            runtime=together,
            together=together,
            left_over=None,
        )
    on_old, on_new = new_file_on_old, old_file_on_new
    if on_old is None and on_new is None:
        return None
    left_over = None
    if on_old is not None and on_new is not None:
        left_over = combined_shift(
            (old.chunks, on_old.chunks, on_new.chunks, new.chunks),
            lambda both_old, quantizer, runtime, both: (quantizer + runtime, both + both_old),
        )
    return Effects(
        is_same_file=False,
        quantizer=None if on_old is None else find_shift(old, on_old),
        runtime=None if on_new is None else find_shift(old, on_new),
        together=together,
        left_over=left_over,
    )
