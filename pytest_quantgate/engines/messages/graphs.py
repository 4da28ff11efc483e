"""The nodes of a computation graph on two sides, and how far apart they are."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from pytest_quantgate.engines.messages.base import Folder, Message, ModelRequest, ReadFile


@dataclass(frozen=True, kw_only=True)
class NodesRecorded(Message):
    """How many nodes of the graph have values that can be compared."""

    n_nodes: int


@dataclass(frozen=True, kw_only=True)
class RecordNodes(ModelRequest[NodesRecorded]):
    """Decode the first tokens of a chunk and write each node's values into ``folder``.

    ``n_tokens`` are decoded, ``n_ubatch`` at a time; the nodes of the last ``n_window`` are
    written, with what rounding moves each of them by.
    """

    reply: ClassVar[type[Message]] = NodesRecorded

    text: ReadFile
    chunk: int
    n_ctx: int
    n_ubatch: int
    n_tokens: int
    n_window: int
    folder: Folder


@dataclass(frozen=True, kw_only=True)
class NodeDifference(Message):
    """How far a node is from the other side's, both computed from equal inputs.

    ``type_name`` is the node's own; ``shape`` is in ggml's order, the row length first.
    ``sources``, ``source_types`` and ``source_shapes`` are what it was computed from, and
    ``other_types`` the other side's source types. ``relative_error`` is the RMS difference over
    the RMS value. ``excess`` is how many times what rounding explains the difference is, at the
    worst ``place``: of the ``whole`` node, of one ``row`` or of one ``column`` with the number
    ``index``. ``weights`` names a source whose bytes are others on the other side, "" for none.
    """

    name: str
    operation: str
    type_name: str
    shape: tuple[int, ...]
    sources: tuple[str, ...]
    source_types: tuple[str, ...]
    source_shapes: tuple[tuple[int, ...], ...]
    other_types: tuple[str, ...]
    relative_error: float
    excess: float
    place: str
    index: int
    weights: str = ""


@dataclass(frozen=True, kw_only=True)
class NodesCompared(Message):
    """The nodes of both sides in the order in which they are computed.

    ``n_alone`` have no counterpart of their name, operation and shape. The divergence of the
    final distributions is given twice: as both sides compute by themselves, and with the graph
    computed node by node, which keeps kernels from being fused.
    """

    nodes: tuple[NodeDifference, ...]
    n_alone: int
    mean_kld_nats: float
    mean_kld_by_node_nats: float


@dataclass(frozen=True, kw_only=True)
class CompareNodes(ModelRequest[NodesCompared]):
    """Decode the tokens of a :class:`RecordNodes` and compare each node with what it wrote.

    After each comparison the node takes the recorded values, so that no difference reaches the
    nodes behind it. ``changed_tensors`` are the weights whose bytes are not the recorded side's.
    """

    reply: ClassVar[type[Message]] = NodesCompared

    text: ReadFile
    chunk: int
    n_ctx: int
    n_ubatch: int
    folder: Folder
    changed_tensors: tuple[str, ...] = ()
