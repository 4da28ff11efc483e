"""``--quant-plan``: what a run would take, without running anything."""

from __future__ import annotations

import sys

import pytest

from pytest_quantgate.matrix.planning import plan_lines
from pytest_quantgate.plugin.state import STATE


def print_plan(config: pytest.Config) -> int:
    """Print the plan in place of a test session, as ``--help`` does."""
    config._do_configure()
    try:
        state = config.stash[STATE]
        for line in plan_lines(state.open_session(), calibrates=state.options.calibrate):
            sys.stdout.write(line + "\n")
    finally:
        config._ensure_unconfigure()
    return 0
