"""Engines: builds of llama.cpp that make and measure quantized files."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from pytest_quantgate.worker.messages import (
    BatchesCompared,
    CodecsListed,
    Coded,
    CompareBatches,
    Decode,
    Encode,
    Identity,
    ListCodecs,
    Message,
    Quantize,
    Quantized,
    Score,
    Scored,
    Tokenize,
    Tokenized,
)

OnReply = Callable[[Message], None]


class Engine(Protocol):
    """What every engine can be asked.

    Each method raises the :class:`~pytest_quantgate.errors.CellError` that tells what went
    wrong; after any of them the engine can be asked again. Replies on the way are
    :class:`~pytest_quantgate.worker.messages.Progress` and
    :class:`~pytest_quantgate.worker.messages.ScoredChunk`.
    """

    def identity(self) -> Identity:
        """Describe the engine; asked once."""

    def tokenize(self, request: Tokenize) -> Tokenized:
        """Cut a text into chunks with a model's vocabulary."""

    def quantize(self, request: Quantize, on_reply: OnReply) -> Quantized:
        """Make a file of another type."""

    def score(self, request: Score, on_reply: OnReply) -> Scored:
        """Score chunks; each is a reply on the way."""

    def compare_batches(self, request: CompareBatches, on_reply: OnReply) -> BatchesCompared:
        """Decode the same tokens in batches of other sizes."""

    def list_codecs(self, request: ListCodecs) -> CodecsListed:
        """Name the quantized types that the engine has."""

    def code(self, request: Encode | Decode) -> Coded:
        """Quantize or dequantize rows; ``ValueError`` where the arguments are wrong."""

    def close(self) -> None:
        """End the engine's processes."""
