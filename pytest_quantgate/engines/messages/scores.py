"""A text in chunks, and the scores of its tokens."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from pytest_quantgate.engines.messages.base import (
    BatchedRequest,
    Folder,
    Interim,
    Message,
    ReadFile,
    Request,
    WrittenFile,
)


@dataclass(frozen=True, kw_only=True)
class Tokenized(Message):
    """How a text falls into chunks.

    ``scored_bytes`` has, a chunk, where the bytes of its scored tokens begin and end in the
    text; ``token_ids_sha256`` a chunk's SHA-256 over its int32 ids as they are decoded: where
    the vocabulary adds a BOS token, ``bos``, it overwrites the first of each chunk.
    """

    n_tokens: int
    bos: int | None
    token_ids_sha256: tuple[str, ...]
    scored_bytes: tuple[tuple[int, int], ...]


@dataclass(frozen=True, kw_only=True)
class Tokenize(Request[Tokenized]):
    """Tokenize a text once with a model's vocabulary and cut it into chunks.

    The int32 ids are written to the file ``token_ids`` as numpy writes an array; "" is none.
    """

    reply: ClassVar[type[Message]] = Tokenized

    model: ReadFile
    text: ReadFile
    n_ctx: int
    token_ids: WrittenFile = ""


@dataclass(frozen=True, kw_only=True)
class MatrixPlace(Message):
    """Where a matrix of shape (n_vocab, n_embd) is in a file; ``tensor_type`` is ggml's number."""

    path: ReadFile
    offset_bytes: int
    tensor_type: int
    n_vocab: int
    n_embd: int


@dataclass(frozen=True, kw_only=True)
class Scored(Message):
    """All chunks that were asked for have been sent.

    ``load_s`` is what it took to load the model, ``scoring_s`` what decoding waited for the scores.
    """

    load_s: float
    scoring_s: float = 0.0


@dataclass(frozen=True, kw_only=True)
class Score(BatchedRequest[Scored]):
    """Decode chunks of a text and score the second half of each, as llama-perplexity does.

    ``reference`` is the folder of the reference's distribution: written if ``captures``, else
    compared with; ``output_matrix`` is where the reference's output matrix is. At the
    chunks of ``route_chunks`` the chosen experts are recorded. ``token_ids`` is a file that
    :class:`Tokenize` wrote for this text with an equal vocabulary; with "" the text is tokenized.
    ``next_model``, "" for none, will be asked for next and is loaded meanwhile where the device
    has room for its ``next_model_bytes`` too.
    """

    reply: ClassVar[type[Message]] = Scored

    text: ReadFile
    chunks: tuple[int, ...]
    n_ctx: int
    reference: Folder = ""
    captures: bool = False
    output_matrix: MatrixPlace | None = None
    route_chunks: tuple[int, ...] = ()
    token_ids: ReadFile = ""
    next_model: ReadFile = ""
    next_model_bytes: int = 0


@dataclass(frozen=True, kw_only=True)
class ScoredChunk(Interim):
    """One chunk's result, sent as soon as it is there.

    ``nll_nats`` is float32, one a scored token; ``nll_sum_nats`` their float64 sum before
    rounding; ``top_tokens`` int32, the most probable token at each, ties to the lowest id;
    ``top_probabilities`` float32, that token's probability. ``kld_nats`` is float32, the
    divergence from the reference at each, empty where there was none to compare with, and
    ``kld_sum_nats`` their float64 sum. Where routes were recorded, ``route_layers`` are the
    layers with experts, ``experts`` int16 and ``expert_weights`` float32, both of shape
    (layers, scored tokens, experts used), best first, a token's weights of sum 1.
    """

    index: int
    nll_sum_nats: float
    nll_nats: bytes
    top_tokens: bytes
    token_ids_sha256: str
    seconds_s: float
    top_probabilities: bytes = b""
    kld_nats: bytes = b""
    kld_sum_nats: float = 0.0
    route_layers: tuple[int, ...] = ()
    experts: bytes = b""
    expert_weights: bytes = b""


@dataclass(frozen=True, kw_only=True)
class SummedChunk(Interim):
    """One chunk's result from an engine that tells sums and no values of single tokens.

    The sums are over ``tokens`` scored tokens and as exact as what was printed; ``kld_sum_nats``
    and ``same_top``, the number of tokens with the reference's top token, are None where there
    was no reference to compare with.
    """

    index: int
    tokens: int
    nll_sum_nats: float
    token_ids_sha256: str
    seconds_s: float
    kld_sum_nats: float | None = None
    same_top: int | None = None


@dataclass(frozen=True, kw_only=True)
class DivergenceSummary(Interim):
    """What llama-perplexity says in the end of all chunks from a text's first one on.

    Percentiles are ``(name, value)``, as ``("99.9", 0.25)``; Δp is a fraction.
    """

    max_kld_nats: float
    min_kld_nats: float
    kld_percentiles_nats: tuple[tuple[str, float], ...]
    mean_delta_p: float
    rms_delta_p: float
    delta_p_percentiles: tuple[tuple[str, float], ...]
