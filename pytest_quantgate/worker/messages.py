"""What goes between the test run and a worker process, and nothing else.

Each message is a frozen dataclass whose fields are plain: ``execnet`` carries None, booleans,
integers, floats, strings, bytes, and lists and tuples of these. Arrays travel as bytes with the
dtype in the field's description. This module imports only the standard library: it also runs in
the interpreter of another engine, where this package is not installed.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any, ClassVar, Generic, TypeVar

ReplyT = TypeVar("ReplyT", bound="Message")


@dataclass(frozen=True, kw_only=True)
class Message:
    """Base of all messages."""

    def to_wire(self) -> tuple[str, dict[str, Any]]:
        """Return the message as what ``execnet`` can carry."""
        return type(self).__name__, {item.name: getattr(self, item.name) for item in fields(self)}


@dataclass(frozen=True, kw_only=True)
class Request(Message, Generic[ReplyT]):
    """Base of all questions; ``reply`` is the class of the answer.

    ``alone`` asks for a process that has done nothing before and does nothing afterwards, whose
    threads wait for each other as the engine has it by itself.
    """

    reply: ClassVar[type[Message]]
    alone: ClassVar[bool] = False


@dataclass(frozen=True, kw_only=True)
class Identity(Message):
    """An engine's own account of itself.

    ``quantizer_sha256`` is over the libraries that make files, ``library_sha256`` over all that
    compute; ``system_info`` is llama.cpp's line of instruction sets and build options;
    ``devices`` are the devices that its backends list.
    """

    kind: str
    version: str
    llama_cpp_version: str
    python_version: str
    platform: str
    cpu_name: str
    system_info: str
    library_sha256: str
    quantizer_sha256: str
    devices: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class Identify(Request[Identity]):
    """Ask what the engine is."""

    reply: ClassVar[type[Message]] = Identity


@dataclass(frozen=True, kw_only=True)
class DevicesListed(Message):
    """A row a device: ``(name, description, free bytes, bytes in all)``."""

    rows: tuple[tuple[str, str, int, int], ...]


@dataclass(frozen=True, kw_only=True)
class ListDevices(Request[DevicesListed]):
    """Ask which devices the engine's backends list."""

    reply: ClassVar[type[Message]] = DevicesListed


@dataclass(frozen=True, kw_only=True)
class Quantized(Message):
    """The file stands at the destination."""

    seconds_s: float


@dataclass(frozen=True, kw_only=True)
class Quantize(Request[Quantized]):
    """Make a file of another type; ``overrides`` are (pattern, number of the ggml type).

    ``imatrix`` has a row a weight: ``(name, file, offset of the float32 sums, offset of the
    float32 counts, number of sums, number of counts)``; offsets in bytes.
    """

    reply: ClassVar[type[Message]] = Quantized

    source: str
    destination: str
    file_type: int
    overrides: tuple[tuple[str, int], ...]
    allow_requantize: bool
    n_threads: int
    imatrix: tuple[tuple[str, str, int, int, int, int], ...] = ()


@dataclass(frozen=True, kw_only=True)
class ImatrixCollected(Message):
    """The sums stand at the destination, collected over so many chunks."""

    n_chunks: int


@dataclass(frozen=True, kw_only=True)
class CollectImatrix(Request[ImatrixCollected]):
    """Collect an importance matrix over the chunks of a text, as llama-imatrix does.

    ``destination`` becomes an ``.npz`` of float32 arrays, ``NAME.in_sum2`` of shape (n, columns)
    and ``NAME.counts`` of shape (n,), n the number of experts or 1; ``max_chunks`` 0 takes the
    whole text.
    """

    reply: ClassVar[type[Message]] = ImatrixCollected

    model: str
    device: str
    text: str
    destination: str
    max_chunks: int
    n_ctx: int
    n_threads: int
    flash_attention: bool


@dataclass(frozen=True, kw_only=True)
class QuantizationPlanned(Message):
    """A row a tensor, ``(name, type)``, in the order of the file that quantizing would write.

    ``needs_imatrix`` tells that llama.cpp would refuse without an importance matrix.
    """

    types: tuple[tuple[str, str], ...]
    needs_imatrix: bool


@dataclass(frozen=True, kw_only=True)
class PlanQuantization(Request[QuantizationPlanned]):
    """Ask which type each tensor of a file would get; of ``source`` only the header is read.

    The fields are those of :class:`Quantize`.
    """

    reply: ClassVar[type[Message]] = QuantizationPlanned

    source: str
    file_type: int
    overrides: tuple[tuple[str, int], ...]
    allow_requantize: bool


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
    """Tokenize a text once with a model's vocabulary and cut it into chunks."""

    reply: ClassVar[type[Message]] = Tokenized

    model: str
    text: str
    n_ctx: int


@dataclass(frozen=True, kw_only=True)
class Scored(Message):
    """All chunks that were asked for have been sent."""

    load_s: float


@dataclass(frozen=True, kw_only=True)
class Score(Request[Scored]):
    """Decode chunks of a text and score the second half of each, as llama-perplexity does.

    ``device`` is ``cpu``, which hides every other device, or a name that ggml lists;
    ``type_k`` and ``type_v`` are numbers of ggml types; ``repack`` allows the CPU's repacked
    weights. ``reference`` is the folder of the
    reference's distribution: written if ``captures``, else compared with; ``output_matrix`` is
    ``(path, offset, ggml type, n_vocab, n_embd)`` of the reference's output matrix. At the
    chunks of ``route_chunks`` the chosen experts are recorded.
    """

    reply: ClassVar[type[Message]] = Scored

    model: str
    device: str
    text: str
    chunks: tuple[int, ...]
    n_ctx: int
    n_batch: int
    n_ubatch: int
    n_threads: int
    flash_attention: bool
    type_k: int
    type_v: int
    repack: bool = True
    reference: str = ""
    captures: bool = False
    output_matrix: tuple[str, int, int, int, int] | None = None
    route_chunks: tuple[int, ...] = ()


@dataclass(frozen=True, kw_only=True)
class ScoredChunk(Message):
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
class SummedChunk(Message):
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
class DivergenceSummary(Message):
    """What llama-perplexity says in the end of all chunks from a text's first one on.

    Percentiles are ``(name, value)``, as ``("99.9", 0.25)``; Δp is a fraction.
    """

    max_kld_nats: float
    min_kld_nats: float
    kld_percentiles_nats: tuple[tuple[str, float], ...]
    mean_delta_p: float
    rms_delta_p: float
    delta_p_percentiles: tuple[tuple[str, float], ...]


@dataclass(frozen=True, kw_only=True)
class OracleCompared(Message):
    """What the engine computes for the oracle's chunks.

    ``nll_nats`` is float32 of shape (chunks, n_ctx − 1), one for each next token; ``kld_nats``
    float64 of shape (chunks, stored rows), the divergence from each stored distribution.
    """

    nll_nats: bytes
    kld_nats: bytes


@dataclass(frozen=True, kw_only=True)
class CompareOracle(Request[OracleCompared]):
    """Decode an oracle's chunks, and compare with what another implementation computed.

    ``oracle`` is the path of its ``.npz``; the settings are those of :class:`Score`.
    """

    reply: ClassVar[type[Message]] = OracleCompared

    model: str
    oracle: str
    device: str
    n_batch: int
    n_ubatch: int
    n_threads: int
    flash_attention: bool
    type_k: int
    type_v: int


@dataclass(frozen=True, kw_only=True)
class BatchesCompared(Message):
    """A row a size: ``(n_ubatch, mean KLD, largest KLD, other top tokens)``, in nats."""

    rows: tuple[tuple[int, float, float, int], ...]


@dataclass(frozen=True, kw_only=True)
class CompareBatches(Request[BatchesCompared]):
    """Decode the first tokens of a chunk in batches of other sizes, and compare with one batch.

    The one batch is decoded on the placement ``against``, "" for the same ``device``.

    ``n_ubatches`` are the physical batch sizes to compare with ``n_tokens`` at once; 0 stands
    for token by token, as in generating text. ``repack`` tells whether the CPU's repacked
    weights are allowed.
    """

    reply: ClassVar[type[Message]] = BatchesCompared

    model: str
    device: str
    text: str
    chunk: int
    n_ctx: int
    n_tokens: int
    against: str = ""
    n_ubatches: tuple[int, ...]
    n_threads: int
    flash_attention: bool
    type_k: int
    type_v: int
    repack: bool


@dataclass(frozen=True, kw_only=True)
class ExpertsCompared(Message):
    """A row a matrix: ``(name, relative RMS error, the same by importance, counterpart)``.

    The counterpart is int16, the expert of the reference that each expert is nearest to. The
    errors from it are float64, one an expert, the second empty where no importance was given.
    """

    rows: tuple[tuple[str, bytes, bytes, bytes], ...]


@dataclass(frozen=True, kw_only=True)
class CompareExperts(Request[ExpertsCompared]):
    """Compare the experts of a file with those of the reference, at most ``max_rows`` rows each.

    ``matrices`` are ``(name, where in the reference, where in the file, rows, experts,
    importance)``, where a place is (path, offset, tensor type, bytes of a row); importance is the
    mean square of each input column, float32 of shape (experts, columns), or empty.
    """

    reply: ClassVar[type[Message]] = ExpertsCompared

    matrices: tuple[
        tuple[str, tuple[str, int, str, int], tuple[str, int, str, int], int, int, bytes], ...
    ]
    max_rows: int


@dataclass(frozen=True, kw_only=True)
class SpeedMeasured(Message):
    """How long each run took, in order, in nanoseconds: those that only warmed up apart.

    ``prefill_*`` are whole prompts, ``decode_*`` all tokens of one run; a warm-up that decodes
    takes fewer tokens. ``*_is_warm`` tells that the last two warm-ups took equally long.
    ``load_s`` is None where an engine does not tell. ``decode_loop_ns`` is a run with what the
    worker does between two tokens. ``cpu_s`` is the processor time of the whole process.
    ``device_description`` and ``driver`` are empty on a CPU.
    """

    process_id: int
    load_s: float | None
    prefill_ns: tuple[int, ...]
    decode_ns: tuple[int, ...]
    prefill_warmup_ns: tuple[int, ...]
    decode_warmup_ns: tuple[int, ...]
    prefill_is_warm: bool
    decode_is_warm: bool
    decode_loop_ns: tuple[int, ...]
    cpu_s: float
    device_description: str
    driver: str


@dataclass(frozen=True, kw_only=True)
class MeasureSpeed(Request[SpeedMeasured]):
    """Time prompts and decoding of random tokens, as llama-bench does.

    ``n_depth`` tokens are in the memory beforehand, untimed.
    """

    reply: ClassVar[type[Message]] = SpeedMeasured
    alone: ClassVar[bool] = True

    model: str
    device: str
    n_prompt: int
    n_decode: int
    n_depth: int
    repetitions: int
    n_batch: int
    n_ubatch: int
    n_threads: int
    flash_attention: bool
    type_k: int
    type_v: int


@dataclass(frozen=True, kw_only=True)
class MemoryMeasured(Message):
    """What one process holds after it has decoded a full context.

    ``peak_resident_bytes`` is None where the platform does not tell; ``resident_before_bytes``
    is the same figure before the model was loaded. ``buffers`` are rows
    ``(kind, where, bytes)`` as the engine reports them, kinds such as ``model``, ``KV`` and
    ``compute``; ``device_bytes`` are rows ``(device, used by this process, total)``.
    """

    peak_resident_bytes: int | None
    resident_before_bytes: int | None
    load_s: float
    buffers: tuple[tuple[str, str, int], ...]
    device_bytes: tuple[tuple[str, int, int], ...]
    device_description: str
    driver: str


@dataclass(frozen=True, kw_only=True)
class MeasureMemory(Request[MemoryMeasured]):
    """Load a model, fill its context once, and tell what that took."""

    reply: ClassVar[type[Message]] = MemoryMeasured
    alone: ClassVar[bool] = True

    model: str
    device: str
    n_ctx: int
    n_batch: int
    n_ubatch: int
    n_threads: int
    flash_attention: bool
    type_k: int
    type_v: int


@dataclass(frozen=True, kw_only=True)
class CodecsListed(Message):
    """A row a type: ``(name, number, block elements, block bytes, needs an imatrix)``."""

    rows: tuple[tuple[str, int, int, int, bool], ...]


@dataclass(frozen=True, kw_only=True)
class ListCodecs(Request[CodecsListed]):
    """Ask which quantized types the engine has."""

    reply: ClassVar[type[Message]] = CodecsListed


@dataclass(frozen=True, kw_only=True)
class Coded(Message):
    """What came out: uint8 of :class:`Encode`, float32 of :class:`Decode`, by rows."""

    data: bytes


@dataclass(frozen=True, kw_only=True)
class Encode(Request[Coded]):
    """Quantize ``rows``, float32 of shape (n_rows, n_columns); ``imatrix`` float32 or empty."""

    reply: ClassVar[type[Message]] = Coded

    type_name: str
    rows: bytes
    n_rows: int
    n_columns: int
    imatrix: bytes


@dataclass(frozen=True, kw_only=True)
class Decode(Request[Coded]):
    """Dequantize ``data``, uint8 of shape (n_rows, row_bytes)."""

    reply: ClassVar[type[Message]] = Coded

    type_name: str
    data: bytes
    n_rows: int
    row_bytes: int


@dataclass(frozen=True, kw_only=True)
class Dotted(Message):
    """Products, float32 of shape (n_rows,), and the activations as the kernel saw them, (k,)."""

    products: bytes
    activations: bytes


@dataclass(frozen=True, kw_only=True)
class VecDot(Request[Dotted]):
    """Multiply quantized rows, uint8 (n_rows, row_bytes), with a float32 vector on the CPU."""

    reply: ClassVar[type[Message]] = Dotted

    type_name: str
    data: bytes
    n_rows: int
    row_bytes: int
    activations: bytes


@dataclass(frozen=True, kw_only=True)
class Multiplied(Message):
    """Products, float32 (n_activations, n_rows); ``taken`` False: the device has no such kernel."""

    taken: bool
    products: bytes


@dataclass(frozen=True, kw_only=True)
class MatMul(Request[Multiplied]):
    """Multiply quantized rows, as in :class:`VecDot`, with float32 rows through a backend.

    ``device`` is a name that ggml lists; ``repack`` asks for the CPU's repacked layout.
    """

    reply: ClassVar[type[Message]] = Multiplied

    type_name: str
    data: bytes
    n_rows: int
    row_bytes: int
    activations: bytes
    n_activations: int
    device: str
    repack: bool


@dataclass(frozen=True, kw_only=True)
class Progress(Message):
    """The worker is alive: ``done`` of ``total`` units; it also renews the deadline."""

    what: str
    done: int
    total: int


@dataclass(frozen=True, kw_only=True)
class Failed(Message):
    """The request cannot be done; the worker lives on.

    ``kind`` is a verdict's name, or ``VALUE`` for arguments that are wrong.
    """

    kind: str
    reason: str


_KINDS: dict[str, type[Message]] = {
    kind.__name__: kind
    for kind in (
        Identify,
        Identity,
        ListDevices,
        DevicesListed,
        Quantize,
        Quantized,
        CollectImatrix,
        ImatrixCollected,
        PlanQuantization,
        QuantizationPlanned,
        Tokenize,
        Tokenized,
        Score,
        ScoredChunk,
        SummedChunk,
        DivergenceSummary,
        Scored,
        CompareOracle,
        OracleCompared,
        CompareBatches,
        BatchesCompared,
        CompareExperts,
        ExpertsCompared,
        MeasureSpeed,
        SpeedMeasured,
        MeasureMemory,
        MemoryMeasured,
        ListCodecs,
        CodecsListed,
        Encode,
        Decode,
        Coded,
        VecDot,
        Dotted,
        MatMul,
        Multiplied,
        Progress,
        Failed,
    )
}


def from_wire(item: object) -> Message:
    """Rebuild a message.

    Raises:
        ValueError: what came over the channel is no message.

    """
    if (
        not isinstance(item, tuple)
        or len(item) != 2
        or not isinstance(item[1], dict)
        or item[0] not in _KINDS
    ):
        raise ValueError(f"not a message: {str(item)[:200]!r}")
    kind = _KINDS[item[0]]
    try:
        return kind(**item[1])
    except TypeError as error:
        raise ValueError(f"not a {item[0]}: {error}") from error
