"""Keeps pytest's rewriting of assertions away from this package, which has none worth it.

pytest rewrites every module of a plugin's distribution as it is imported. Of some 350 modules that
takes seconds, in every run where Python may not write bytecode and in the first one otherwise.
Importing this module is what it is for.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from importlib.machinery import ModuleSpec, PathFinder
from types import ModuleType

_PACKAGE = __name__.partition(".")[0] + "."
_TESTS = f"{_PACKAGE}plugin.suites."


class PlainFinder:
    """Finds this package's modules as Python does; those that are tests are left to pytest."""

    @staticmethod
    def find_spec(
        name: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """Return the spec of one of the package's own modules, None for all others."""
        if not name.startswith(_PACKAGE) or name.startswith(_TESTS):
            return None
        return PathFinder.find_spec(name, path, target)


if PlainFinder not in sys.meta_path:
    sys.meta_path.insert(0, PlainFinder)
