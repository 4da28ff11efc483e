"""Engines: builds of llama.cpp that make and measure quantized files."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from pytest_quantgate.engines.messages import Identity, Message, ReplyT, Request

OnReply = Callable[[Message], None]


class Engine(Protocol):
    """What every engine can be asked."""

    def identity(self) -> Identity:
        """Describe the engine; asked once."""

    def ask(self, request: Request[ReplyT], on_reply: OnReply | None = None) -> ReplyT:
        """Answer a request of :mod:`pytest_quantgate.engines.messages`.

        Replies on the way, such as :class:`~pytest_quantgate.engines.messages.Progress` and
        :class:`~pytest_quantgate.engines.messages.ScoredChunk`, go to ``on_reply``. After an
        error the engine can be asked again.

        Raises:
            CellError: what went wrong, as the verdict of the cell; ``CellUnsupported`` where
                this engine cannot do what is asked.
            ValueError: the request's values are wrong.

        """

    def close(self) -> None:
        """End the engine's processes."""
