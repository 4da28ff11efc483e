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
    Interim,
    Message,
    ModelRequest,
    Progress,
    ReplyT,
    Request,
    from_wire,
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
    "Interim",
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
