"""What a baseline says: units in the names, the identity of all that made it, no pickles."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Literal

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    PositiveFloat,
    PositiveInt,
    model_validator,
)

from pytest_quantgate.results.anchor import Anchor
from pytest_quantgate.results.chunk_table import ChunkPair, ChunkTable
from pytest_quantgate.results.hardware import Fingerprint

VERSION = 1


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Key(_Part):
    """What two qualities must share to be comparable; it also names the file.

    A shape has no text: ``text`` is "" and ``n_ctx`` is 0.
    """

    model: str
    format: str
    imatrix: str | None
    text: str
    n_ctx: int
    flash_attention: bool
    type_k: str
    type_v: str
    device_kind: str

    def is_of_cell_of(self, other: Key) -> bool:
        """Tell whether both are of one cell, under whatever settings."""
        fields = ("model", "format", "imatrix", "device_kind")
        return all(getattr(self, name) == getattr(other, name) for name in fields)

    def settings_unlike(self, stored: Key) -> tuple[str, ...]:
        """Name the settings that are not a stored key's, each with both values."""
        return tuple(
            f"{name} {_shown(getattr(self, name))} (was {_shown(getattr(stored, name))})"
            for name in KEY_SETTINGS
            if getattr(self, name) != getattr(stored, name)
        )


KEY_SETTINGS = ("text", "n_ctx", "flash_attention", "type_k", "type_v")
"""What in a key is a setting, and not the cell."""


def _shown(value: str | int | bool) -> str:
    """Write a setting as TOML does, an empty one as none."""
    if isinstance(value, bool):
        return str(value).lower()
    return str(value) or "none"


class MadeBy(_Part):
    """What made the measurement: recorded, not part of the key.

    ``imatrix_sha256`` is of the importance matrix's file, None where none was used.
    """

    engine: str
    llama_cpp: str
    library_sha256: str
    quantizer_sha256: str | None
    imatrix_sha256: str | None = None
    system_info: str
    cpu: str
    platform: str
    n_threads: int
    n_batch: int
    n_ubatch: int


def _refuse_unlike(name: str, value: float, from_chunks: float) -> None:
    """Refuse a figure that its own chunks do not give: someone edited one of them."""
    if not math.isclose(value, from_chunks, rel_tol=1e-9, abs_tol=1e-12):
        raise ValueError(f"{name} is {value}, but its chunks give {from_chunks}")


class Perplexity(_Part):
    """Perplexity, and what a paired comparison with it needs.

    ``per_token_sha256`` names the per-token values where the run's cache still has them; null
    where the engine told none.
    """

    ppl: float
    text_sha256: str
    per_token_sha256: str | None
    chunks: ChunkTable

    @model_validator(mode="after")
    def _scored_something(self) -> Perplexity:
        if not len(self.chunks):
            raise ValueError("the chunks' columns are empty")
        is_twice = len(set(self.chunks.index)) < len(self.chunks)
        if is_twice or min(self.chunks.nll_sum_nats) < 0:
            raise ValueError("a chunk is there twice, or has a likelihood above 1")
        _refuse_unlike("ppl", self.ppl, self.chunks.perplexity)
        return self


class Divergence(_Part):
    """Divergence from the reference; its sums are columns of the perplexity's chunks.

    ``reference_per_token_sha256`` names the reference's values that it was measured against,
    null where the engine told none.
    """

    mean_kld_nats: float
    same_top: float
    reference_per_token_sha256: str | None


class Routing(_Part):
    """Numbers of tokens routed as the reference routes them.

    ``same_experts`` and ``same_top_expert`` have a column a layer of ``layers``; ``index`` are
    the chunks, ``chunk_same_experts`` the tokens of each with the same experts, summed over the
    layers.
    """

    tokens: int
    layers: tuple[int, ...]
    same_experts: tuple[int, ...]
    same_top_expert: tuple[int, ...]
    index: tuple[int, ...]
    chunk_same_experts: tuple[int, ...]

    @model_validator(mode="after")
    def _consistent(self) -> Routing:
        columns = (self.same_experts, self.same_top_expert)
        lengths = {len(self.layers), *map(len, columns)}
        if len(lengths) > 1 or len(self.index) != len(self.chunk_same_experts) or not self.index:
            raise ValueError("the routes' columns are of unequal length")
        if not self.layers or self.tokens < len(self.index):
            raise ValueError("routes of no layer, or of a chunk without tokens")
        if any(not 0 <= count <= self.tokens for column in columns for count in column):
            raise ValueError(f"more tokens are routed alike than the {self.tokens} there are")
        if sum(self.same_experts) != sum(self.chunk_same_experts):
            raise ValueError("the routes' sums by layer are not those by chunk")
        return self


class Size(_Part):
    """The file: its size, and each tensor's type and first 8 digits of its bytes' SHA-256.

    ``tensors`` groups the layers of one tensor name, in file order, as ``TYPE:hash`` words.
    """

    file_bytes: PositiveInt
    bits_per_weight: PositiveFloat
    fallback_fraction: float = Field(ge=0, le=1)
    tensors: Mapping[str, str]


SPEED_SETTINGS = ("prefill_tokens", "decode_tokens", "depth", "n_batch", "n_ubatch")
"""What of a speed is a setting."""


class SpeedAnchor(_Part):
    """The first accepted speeds on one kind of hardware, against which slow drift is judged."""

    prefill_rates: tuple[PositiveFloat, ...] = Field(min_length=2)
    decode_rates: tuple[PositiveFloat, ...] = Field(min_length=2)


class SpeedBaseline(_Part):
    """Speeds on one kind of hardware: tokens per second, one a fresh process.

    ``anchor`` is None where these are the first that were accepted with their settings.
    """

    fingerprint: Fingerprint
    engine: str
    llama_cpp: str
    prefill_tokens: int
    decode_tokens: int
    depth: int
    n_batch: int
    n_ubatch: int
    prefill_rates: tuple[PositiveFloat, ...]
    decode_rates: tuple[PositiveFloat, ...]
    anchor: SpeedAnchor | None = None

    @property
    def settings(self) -> tuple[int, ...]:
        """What two speeds must share to be comparable: lengths, depth and batch."""
        return tuple(getattr(self, name) for name in SPEED_SETTINGS)

    @property
    def first(self) -> SpeedAnchor:
        """The first accepted speeds."""
        return self.anchor or SpeedAnchor(
            prefill_rates=self.prefill_rates, decode_rates=self.decode_rates
        )

    @model_validator(mode="after")
    def _enough(self) -> SpeedBaseline:
        if min(len(self.prefill_rates), len(self.decode_rates)) < 2:
            raise ValueError("a speed of fewer than two processes")
        return self


class MemoryBaseline(_Part):
    """The peak memory of a fresh process on one kind of hardware."""

    fingerprint: Fingerprint
    engine: str
    llama_cpp: str
    n_ctx: int
    n_batch: int
    n_ubatch: int
    peak_resident_bytes: PositiveInt


class Baseline(_Part):
    """One cell's accepted measurement."""

    version: Literal[1] = 1
    """The file's version."""
    key: Key
    """Model, format, importance matrix, text, `n_ctx`, flash attention, KV types, device kind."""
    source_sha256: str | None
    """Identity of the file that it was quantized from (`gguf-…`, made of the hashes of its tensors
    and of everything else in it), or its plain SHA-256; null for existing files."""
    made_by: MadeBy
    """Engine and its version, hashes of its libraries, processor and instruction sets, platform,
    threads, batch."""
    perplexity: Perplexity | None = None
    """Perplexity, the text's SHA-256, the hash of the per-token values, and `chunks`: columns in
    visiting order with index in the text, scored tokens, sums of negative log-likelihood and
    divergence in nats, hashes of token ids and top tokens, document. Null for a shape."""
    divergence: Divergence | None = None
    """Mean divergence from the reference, and the share of tokens with the same top token; null for
    the reference."""
    routing: Routing | None = None
    """How many tokens went to the experts that the reference chose, by layer and by chunk; null for
    a dense model."""
    size: Size
    """Bytes on disk, bits per weight, share of fallbacks, and each tensor's type with 8 digits of
    its hash, grouped by layer."""
    scored_tensors: Mapping[str, str] | None = None
    """The tensors that the perplexity is of, where the size was accepted of another file."""
    metadata: Mapping[str, str] | None = None
    """The file's scalar fields of the architecture and the tokenizer: a change of one is named as
    the cause."""
    speed: Mapping[str, SpeedBaseline] = Field(default_factory=dict)
    """By hardware fingerprint: each process's tokens per second in both phases, the lengths and the
    batch, engine and version; `anchor` has the first accepted speeds, null where these are them."""
    memory: Mapping[str, MemoryBaseline] = Field(default_factory=dict)
    """By hardware fingerprint: the peak memory of a fresh process, `n_ctx` and the batch."""
    anchor: Anchor
    """The first accepted sums of each chunk (negative log-likelihood, divergence) and bytes."""
    reason: str
    """Why it was last accepted."""

    @model_validator(mode="after")
    def _quality_of_a_text(self) -> Baseline:
        if (self.perplexity is None) != (self.key.text == ""):
            raise ValueError("a perplexity and a text are there together or not at all")
        return self

    @model_validator(mode="after")
    def _divergence_of_its_chunks(self) -> Baseline:
        if self.divergence is None:
            return self
        if self.perplexity is None or self.perplexity.chunks.kld_sums is None:
            raise ValueError("the divergence has no kld_sum_nats for each of the chunks")
        chunks = self.perplexity.chunks
        same = zip(chunks.same_tops or (), chunks.tokens, strict=False)
        if any(not 0 <= count <= tokens for count, tokens in same):
            raise ValueError("a chunk has more equal top tokens than tokens")
        mean = math.fsum(chunks.kld_sums or ()) / chunks.n_tokens
        _refuse_unlike("mean_kld_nats", self.divergence.mean_kld_nats, mean)
        if chunks.same_tops is not None:
            share = sum(chunks.same_tops) / chunks.n_tokens
            _refuse_unlike("same_top", self.divergence.same_top, share)
        return self

    @model_validator(mode="after")
    def _routes_of_its_chunks(self) -> Baseline:
        if self.routing is None or self.perplexity is None:
            return self
        chunks = self.perplexity.chunks.of_chunks(self.routing.index)
        n_tokens = chunks.n_tokens
        if len(chunks) == len(self.routing.index) and n_tokens != self.routing.tokens:
            raise ValueError(
                f"{self.routing.tokens} tokens are routed, but the chunks have {n_tokens}"
            )
        return self

    @model_validator(mode="after")
    def _of_its_hardware(self) -> Baseline:
        parts: tuple[Mapping[str, SpeedBaseline | MemoryBaseline], ...] = self.speed, self.memory
        for digest, figure in (item for part in parts for item in part.items()):
            if figure.fingerprint.digest != digest:
                raise ValueError(f"the figure of hardware {digest} is of another hardware")
        return self

    @property
    def scored(self) -> Perplexity:
        """The perplexity, for judges that are only asked where the cell has a text."""
        assert self.perplexity is not None
        return self.perplexity

    def first_accepted(self, chunks: ChunkTable, *, by_place: bool) -> ChunkPair:
        """Return the chunks that have first accepted values, and these (`Anchor.before`)."""
        accepted = ChunkTable() if self.perplexity is None else self.perplexity.chunks
        return self.anchor.before(chunks, accepted, by_place=by_place)

    @property
    def tensors_scored(self) -> Mapping[str, str]:
        """The tensors of the file that the perplexity is of."""
        return self.size.tensors if self.scored_tensors is None else self.scored_tensors
