"""The llama-cpp-python of some interpreter, in a worker process that is reused over cells."""

from __future__ import annotations

from collections.abc import Iterable
from functools import cached_property
from pathlib import Path
from typing import TypeVar

from pytest_quantgate.engines import OnReply
from pytest_quantgate.errors import CellCrashed
from pytest_quantgate.worker.messages import (
    BatchesCompared,
    CodecsListed,
    Coded,
    CompareBatches,
    Decode,
    Encode,
    Identify,
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
from pytest_quantgate.worker.pool import ENTRY, Worker

ReplyT = TypeVar("ReplyT", bound=Message)


class LlamaCppPython:
    """An engine of one interpreter.

    Args:
        python: the interpreter; None is this one.
        log: the file for the worker's output.
        stall_s: seconds without a sign of life after which the worker is ended.
        entry: what serves the worker's channel.
        extra_sources: further modules for the worker.

    """

    def __init__(
        self,
        *,
        python: str | None,
        log: Path,
        stall_s: float,
        entry: str = ENTRY,
        extra_sources: Iterable[tuple[str, tuple[bool, str]]] = (),
    ) -> None:
        self._worker = Worker(
            python=python, log=log, stall_s=stall_s, entry=entry, extra_sources=extra_sources
        )

    @cached_property
    def _identity(self) -> Identity:
        return _expect(Identity, self._worker.request(Identify()))

    def identity(self) -> Identity:
        """Describe the engine; asked once."""
        return self._identity

    def tokenize(self, request: Tokenize) -> Tokenized:
        """Cut a text into chunks with a model's vocabulary."""
        return _expect(Tokenized, self._worker.request(request))

    def quantize(self, request: Quantize, on_reply: OnReply) -> Quantized:
        """Make a file of another type."""
        return _expect(Quantized, self._worker.request(request, on_reply))

    def score(self, request: Score, on_reply: OnReply) -> Scored:
        """Score chunks; each is a reply on the way."""
        return _expect(Scored, self._worker.request(request, on_reply))

    def compare_batches(self, request: CompareBatches, on_reply: OnReply) -> BatchesCompared:
        """Decode the same tokens in batches of other sizes."""
        return _expect(BatchesCompared, self._worker.request(request, on_reply))

    def list_codecs(self, request: ListCodecs) -> CodecsListed:
        """Name the quantized types that the engine has."""
        return _expect(CodecsListed, self._worker.request(request))

    def code(self, request: Encode | Decode) -> Coded:
        """Quantize or dequantize rows; ``ValueError`` where the arguments are wrong."""
        return _expect(Coded, self._worker.request(request))

    def close(self) -> None:
        """End the worker."""
        self._worker.close()


def _expect(kind: type[ReplyT], reply: Message) -> ReplyT:
    if not isinstance(reply, kind):
        raise CellCrashed(f"the worker answered with a {type(reply).__name__}, not {kind.__name__}")
    return reply
