"""What can be wrong with an engine, as the worker says it."""

from __future__ import annotations


class EngineRefusal(Exception):
    """llama.cpp answered that it cannot do what it was asked; the text says what."""


class EngineUnusable(ImportError):
    """The interpreter's llama-cpp-python cannot be used; one line says why, and what to do.

    An ImportError, so that the first lines of a worker, which know none of its modules, can tell it
    from a fault in these.
    """
