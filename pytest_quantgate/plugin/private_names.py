"""What pytest and syrupy keep to themselves and have no public way for, in one place."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pytest


@contextmanager
def configured(config: pytest.Config) -> Iterator[None]:
    """Configure pytest's plugins outside of a session, as ``--help`` and ``--markers`` do.

    Within a session pytest would collect, and print its header around what is printed here.
    """
    config._do_configure()
    try:
        yield
    finally:
        config._ensure_unconfigure()


def syrupy_session(config: pytest.Config) -> Any:
    """Return syrupy's session; only its fixture ``snapshot`` has it otherwise.

    A project may have a fixture of that name that is another thing.
    """
    return config._syrupy  # type: ignore[attr-defined] # set when syrupy's session starts
