"""The ``quantgate`` command."""

from __future__ import annotations

import sys


def main() -> int:
    """Run the command."""
    print("usage: quantgate", file=sys.stderr)
    return 2
