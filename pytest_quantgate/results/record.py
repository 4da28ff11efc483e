"""The run record: everything measured and judged in a run, as one versioned JSON.

It holds no environment variables, tokens, credentials or host names.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields, is_dataclass, replace
from enum import Enum
from typing import Any

from pydantic import BaseModel

from pytest_quantgate.results.baseline import Key, MadeBy
from pytest_quantgate.results.chunk_table import ChunkTable, Shift
from pytest_quantgate.results.durations import sum_durations
from pytest_quantgate.results.effects import Effects
from pytest_quantgate.results.measurements.divergence import DivergenceMeasurement
from pytest_quantgate.results.stored_alone import StoredAlone
from pytest_quantgate.results.verdicts import (
    Cause,
    Judgement,
    Reason,
    VerdictKind,
    worst,
)

VERSION = 2


@dataclass(frozen=True, kw_only=True)
class CellRecord:
    """One cell: what it is, what was measured, what was said.

    ``notes`` are what must be said aloud of it; ``ppl_vs_reference`` is None for the reference
    itself. Figures are None where the cell could not be measured or nothing asked for them;
    ``measured`` has the metrics of :mod:`pytest_quantgate.metrics.registry`, by name.

    What two records of a cell are compared by: ``key`` and the hashes of text and source;
    ``made_by`` what computed, ``quantizer`` the engine that made the file and ``quantizer_cpu``
    its instruction sets ("" and None where the file is the user's or the source itself; a cell
    that could not be measured names the engine that was to make it);
    ``tensors`` as :func:`~pytest_quantgate.gguf.tensor_changes.pack_tensors` gives them,
    ``metadata`` the file's settings; ``chunks`` has no row where no text was scored, and
    ``baseline_chunks`` those rows of a stored baseline that the cell was held against.
    ``limits`` are those that the profile sets the cell, by name. Records of before these fields
    were kept have them empty. ``is_skipped`` says that a format which the
    engine refused fails nothing, since the profile lists it as optional or the old engine could
    not do it either.

    ``per_token_sha256`` and ``reference_per_token_sha256`` name the values of single tokens of the
    cell and of its reference; ``effects`` is the two-by-two of quantizer and runtime, where two
    engines were held against each other. ``n_ctx`` is the length of the text's chunks where the
    profile has several, and cells differ in nothing else.
    """

    id: str
    model: str
    format: str
    imatrix: str | None
    device: str
    engine: str
    text: str
    is_reference: bool
    reference: str
    is_requantized: bool
    is_miniature: bool
    verdict: str
    reason: str
    cause: Cause | None = None
    notes: tuple[str, ...] = ()
    file_bytes: int | None = None
    bits_per_weight: float | None = None
    bytes_by_type: dict[str, int] = field(default_factory=dict)
    bytes_by_part: dict[str, int] = field(default_factory=dict)
    tensors_by_type: dict[str, int] = field(default_factory=dict)
    fallbacks: tuple[str, ...] = ()
    fallback_fraction: float | None = None
    file_sha256: str | None = None
    tensor_data_sha256: str | None = None
    ppl: float | None = None
    chunks: ChunkTable = field(default_factory=ChunkTable)
    baseline_chunks: ChunkTable = field(default_factory=ChunkTable)
    ppl_by_domain: dict[str, float] = field(default_factory=dict)
    ppl_vs_reference: Shift | None = None
    divergence: DivergenceMeasurement | None = None
    n_ctx: int | None = None
    measured: Mapping[str, Any] = field(default_factory=dict)
    judgements: tuple[Judgement, ...] = ()
    accepted: str | None = None
    seconds_s: float = 0.0
    durations_s: dict[str, float] = field(default_factory=dict)
    key: Key | None = None
    text_sha256: str = ""
    source_sha256: str | None = None
    made_by: MadeBy | None = None
    quantizer: str = ""
    quantizer_cpu: str | None = None
    tensors: dict[str, str] = field(default_factory=dict)
    metadata: dict[str, str] = field(default_factory=dict)
    n_chunks_in_text: int | None = None
    limits: dict[str, float | dict[str, float]] = field(default_factory=dict)
    is_skipped: bool = False
    per_token_sha256: str | None = None
    reference_per_token_sha256: str | None = None
    effects: Effects | None = None

    @property
    def kind(self) -> VerdictKind:
        """The verdict, as its enumeration."""
        return VerdictKind(self.verdict)

    @property
    def is_gated(self) -> bool:
        """Whether the cell was held against something, or is accepted as what others are."""
        is_compared = self.kind is not VerdictKind.MEASURED and not self.is_skipped
        return is_compared or self.accepted is not None

    @property
    def not_compared(self) -> tuple[Judgement, ...]:
        """What there was nothing to compare with, in a cell that was compared otherwise."""
        if not self.is_gated or self.accepted is not None:
            return ()
        return tuple(item for item in self.judgements if item.verdict is VerdictKind.MEASURED)

    @property
    def text_name(self) -> str:
        """The text, and the length of its chunks where the profile has several."""
        return self.text if self.n_ctx is None else f"{self.text}, n_ctx {self.n_ctx}"

    @property
    def is_red(self) -> bool:
        """Whether the cell fails the run."""
        return not (self.kind.is_green or self.is_skipped or self.accepted is not None)


def merge_records(one: CellRecord, other: CellRecord) -> CellRecord:
    """Join what two tests found in one cell: all figures, and the worse of their verdicts.

    It counts as accepted only if neither is red without having been accepted.
    """
    scored, rest = (one, other) if one.ppl is not None else (other, one)
    kind = worst([scored.kind, rest.kind])
    deciding = scored if scored.kind is kind else rest
    is_red = one.is_red or other.is_red
    accepted = [item.accepted for item in (scored, rest) if item.accepted is not None]
    return replace(
        scored,
        verdict=deciding.verdict,
        reason=deciding.reason,
        cause=deciding.cause,
        notes=tuple(dict.fromkeys((*scored.notes, *rest.notes))),
        measured={**rest.measured, **scored.measured},
        judgements=(*scored.judgements, *rest.judgements),
        accepted=None if is_red or not accepted else "; ".join(accepted),
        is_skipped=deciding.is_skipped,
        seconds_s=scored.seconds_s + rest.seconds_s,
        durations_s=sum_durations(scored.durations_s, rest.durations_s),
    )


@dataclass(frozen=True, kw_only=True)
class ShardRecord:
    """Which part of the matrix a run was, and the ids of all cells of that part.

    ``matrix_sha256`` is of the whole row of cells that was cut, as the settings tell it.
    """

    number: int
    count: int
    cells: tuple[str, ...]
    matrix_sha256: str = ""


@dataclass(frozen=True, kw_only=True)
class RunRecord:
    """A whole run, or one shard of it; ``shard`` is None for the whole.

    ``command`` is what to type to run the same cells again. ``against`` is the old engine where
    the run compared two, described as ``engine`` is; then ``cells`` are the new engine's, and
    ``others`` those of the old engine and the crossed ones (the file of one quantizer, the
    runtime of the other) that were measured. ``missing`` is what a record that was joined from
    several lacks: shards, and ids of cells that one of them should have judged. ``stored_alone``
    is what baselines have and the run did not compare.
    """

    profile: str
    gated: bool
    settings: dict[str, Any]
    engine: dict[str, Any]
    cells: tuple[CellRecord, ...]
    started: str
    seconds_s: float
    warnings: tuple[str, ...] = ()
    version: int = VERSION
    against: dict[str, Any] | None = None
    others: tuple[CellRecord, ...] = ()
    command: str = ""
    shard: ShardRecord | None = None
    missing: tuple[str, ...] = ()
    stored_alone: tuple[StoredAlone, ...] = ()

    @property
    def is_red(self) -> bool:
        """Whether the cells make the whole run fail; a shard without cells does not."""
        has_none = not self.cells and (self.shard is None or bool(self.shard.cells))
        is_empty = self.gated and has_none
        return is_empty or bool(self.missing) or any(cell.is_red for cell in self.cells)


def to_plain(record: RunRecord | CellRecord) -> dict[str, Any]:
    """Return what JSON can hold; numbers that are not finite become their names."""
    content: dict[str, Any] = plain(record)
    return content


def plain(value: Any) -> Any:
    """Return a value of dataclasses' fields as JSON can hold it."""
    match value:
        case dict():
            return {key: plain(item) for key, item in value.items()}
        case list() | tuple():
            return [plain(item) for item in value]
        case Enum():
            return value.value
        case BaseModel():
            return plain(value.model_dump(mode="json"))
        case Reason():
            return str(value)
        case _ if is_dataclass(value):
            return {item.name: plain(getattr(value, item.name)) for item in fields(value)}
        case float() if value != value or value in {float("inf"), float("-inf")}:
            return str(value)
        case _:
            return value
