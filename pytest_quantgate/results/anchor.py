"""The first accepted values of a cell, against which slow drift is judged."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, PositiveInt, model_validator

from pytest_quantgate.results.chunk_table import ChunkPair, ChunkTable


class Anchor(BaseModel):
    """The first accepted values; an update keeps those of chunks that are still scored.

    ``kld_sum_nats`` is empty, or has None, where no divergence was ever accepted.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    index: tuple[int, ...]
    nll_sum_nats: tuple[float, ...]
    kld_sum_nats: tuple[float | None, ...] = ()
    file_bytes: PositiveInt

    @model_validator(mode="after")
    def _of_equal_length(self) -> Anchor:
        columns = {len(self.index), len(self.nll_sum_nats), len(self.kld_sums)}
        if len(columns) > 1 or len(set(self.index)) < len(self.index):
            raise ValueError(
                "the anchor's columns are of unequal length, or a chunk is there twice"
            )
        return self

    @property
    def kld_sums(self) -> tuple[float | None, ...]:
        """The divergence's sums of all chunks."""
        return self.kld_sum_nats or (None,) * len(self.index)

    def before(self, chunks: ChunkTable, accepted: ChunkTable, *, by_place: bool) -> ChunkPair:
        """Return the chunks of a table that have first accepted values, and these.

        Args:
            chunks: what was scored now.
            accepted: what was accepted last; it names the tokens of the anchor's chunks.
            by_place: both are of one text, cut alike, so that a chunk is known by its place in
                it; else only by its tokens.

        """
        rows = {index: row for row, index in enumerate(self.index)}
        tokens = dict(zip(accepted.index, accepted.token_ids, strict=True))
        of_tokens = {ids: rows[index] for index, ids in tokens.items() if ids and index in rows}

        def row_of(index: int, ids: str) -> int | None:
            if not by_place:
                return of_tokens.get(ids)
            return rows.get(index) if tokens.get(index, ids) == ids else None

        names = enumerate(zip(chunks.index, chunks.token_ids, strict=True))
        common = [
            (row, place) for row, (index, ids) in names if (place := row_of(index, ids)) is not None
        ]
        after = chunks.take(row for row, _ in common)
        first = [row for _, row in common]
        before = after.replace(
            nll_sum_nats=[self.nll_sum_nats[row] for row in first],
            kld_sum_nats=[self.kld_sums[row] for row in first],
        )
        return ChunkPair(before=before, after=after)
