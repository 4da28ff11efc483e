"""A text's chunks: where each lies in documents and domains, and the order of visits."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from pytest_quantgate import stats
from pytest_quantgate.artifacts.texts import Span, Text
from pytest_quantgate.gguf.reader import GgufFile


@dataclass(frozen=True, kw_only=True)
class ChunkPlan:
    """A text's chunks for a model: the order of visits, and each chunk's document and domain.

    ``documents`` and ``domains`` are indexed by the chunk's place in the text. ``token_ids`` is the
    file of the whole text's ids, None for none, and ``hashes`` has the SHA-256 of each chunk's;
    ``tokenized_by`` what made them: the hashes of the file's tokenizer and of the engine's
    libraries.
    """

    order: tuple[int, ...]
    documents: tuple[int | None, ...]
    domains: tuple[str | None, ...]
    token_ids: Path | None = None
    hashes: tuple[str, ...] = ()
    tokenized_by: tuple[str, str] = ("", "")

    def token_ids_for(self, file: GgufFile, library_sha256: str) -> Path | None:
        """Return the file of the text's ids where this model and engine would give the same."""
        return self.token_ids if self._is_by(file, library_sha256) else None

    def gives(self, file: GgufFile, library_sha256: str, token_ids: Mapping[int, str]) -> bool:
        """Return whether this model and engine are known to give chunks these ids.

        Args:
            file: the model.
            library_sha256: the engine's libraries.
            token_ids: chunk → the first digits of its hash.

        """
        return self._is_by(file, library_sha256) and all(
            index < len(self.hashes) and self.hashes[index].startswith(digits)
            for index, digits in token_ids.items()
        )

    def _is_by(self, file: GgufFile, library_sha256: str) -> bool:
        return self.tokenized_by == (file.tokenizer_sha256, library_sha256)

    @property
    def n_chunks(self) -> int:
        """Chunks in the whole text."""
        return len(self.order)

    @property
    def clusters(self) -> tuple[int, ...]:
        """Each chunk's cluster, in the order of visits."""
        documents = [self.documents[index] for index in self.order]
        return tuple(stats.cluster_labels(documents, self.order).tolist())


def make_plan(text: Text, scored_bytes: Sequence[tuple[int, int]], seed: int | None) -> ChunkPlan:
    """Plan the visits to a text's chunks.

    Args:
        text: the text.
        scored_bytes: where each chunk's scored tokens begin and end in the text's bytes.
        seed: of the stratified order; None is the order of the text.

    """
    documents = tuple(_where(span, text.documents) for span in scored_bytes)
    places = [_where(span, text.domains) for span in scored_bytes]
    domains = tuple(None if i is None else text.domains[i].name for i in places)
    order = tuple(range(len(scored_bytes)))
    if seed is not None:
        order = tuple(stats.chunk_order(domains, documents, seed))
    return ChunkPlan(order=order, documents=documents, domains=domains)


def _where(span: tuple[int, int], places: tuple[Span, ...]) -> int | None:
    """Return the number of the place that covers most of a span of bytes."""
    best, most = None, 0
    for number, place in enumerate(places):
        overlap = min(span[1], place.end) - max(span[0], place.start)
        if overlap > most:
            best, most = number, overlap
    return best
