"""What goes between the test run and a worker process, and nothing else.

Each message is a frozen dataclass whose fields are plain: ``execnet`` carries None, booleans,
integers, floats, strings, bytes, and lists and tuples of these. Arrays travel as bytes with the
dtype in the field's description. This package imports only the standard library: it also runs in
the interpreter of another engine, where it is not installed. Its modules are the topics; the
messages themselves are imported from here.
"""

from __future__ import annotations

from pytest_quantgate.engines.messages.base import (
    BatchedRequest,
    Failed,
    Message,
    ModelRequest,
    Progress,
    ReplyT,
    Request,
)
from pytest_quantgate.engines.messages.codecs import (
    CodecsListed,
    Coded,
    Decode,
    Dotted,
    Encode,
    ListCodecs,
    MatMul,
    Multiplied,
    VecDot,
)
from pytest_quantgate.engines.messages.comparisons import (
    BatchesCompared,
    CompareBatches,
    CompareExperts,
    CompareOracle,
    ExpertsCompared,
    OracleCompared,
)
from pytest_quantgate.engines.messages.costs import (
    MeasureMemory,
    MeasureSpeed,
    MemoryMeasured,
    SpeedMeasured,
)
from pytest_quantgate.engines.messages.engine import (
    UNKNOWN,
    DevicesListed,
    Identify,
    Identity,
    ListDevices,
)
from pytest_quantgate.engines.messages.files import (
    CollectImatrix,
    ImatrixCollected,
    PlanQuantization,
    QuantizationPlanned,
    Quantize,
    Quantized,
)
from pytest_quantgate.engines.messages.scores import (
    DivergenceSummary,
    Score,
    Scored,
    ScoredChunk,
    SummedChunk,
    Tokenize,
    Tokenized,
)

__all__ = [
    "UNKNOWN",
    "BatchedRequest",
    "BatchesCompared",
    "CodecsListed",
    "Coded",
    "CollectImatrix",
    "CompareBatches",
    "CompareExperts",
    "CompareOracle",
    "Decode",
    "DevicesListed",
    "DivergenceSummary",
    "Dotted",
    "Encode",
    "ExpertsCompared",
    "Failed",
    "Identify",
    "Identity",
    "ImatrixCollected",
    "ListCodecs",
    "ListDevices",
    "MatMul",
    "MeasureMemory",
    "MeasureSpeed",
    "MemoryMeasured",
    "Message",
    "ModelRequest",
    "Multiplied",
    "OracleCompared",
    "PlanQuantization",
    "Progress",
    "QuantizationPlanned",
    "Quantize",
    "Quantized",
    "ReplyT",
    "Request",
    "Score",
    "Scored",
    "ScoredChunk",
    "SpeedMeasured",
    "SummedChunk",
    "Tokenize",
    "Tokenized",
    "VecDot",
    "from_wire",
]

_KINDS: dict[str, type[Message]] = {
    kind.__name__: kind
    for kind in (
        Progress,
        Failed,
        Identity,
        Identify,
        DevicesListed,
        ListDevices,
        Quantized,
        Quantize,
        ImatrixCollected,
        CollectImatrix,
        QuantizationPlanned,
        PlanQuantization,
        Tokenized,
        Tokenize,
        Scored,
        Score,
        ScoredChunk,
        SummedChunk,
        DivergenceSummary,
        OracleCompared,
        CompareOracle,
        BatchesCompared,
        CompareBatches,
        ExpertsCompared,
        CompareExperts,
        SpeedMeasured,
        MeasureSpeed,
        MemoryMeasured,
        MeasureMemory,
        CodecsListed,
        ListCodecs,
        Coded,
        Encode,
        Decode,
        Dotted,
        VecDot,
        Multiplied,
        MatMul,
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
