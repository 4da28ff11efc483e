"""``--quant-plan``: what a run would take, without running anything."""

from __future__ import annotations

import sys

import pytest

from pytest_quantgate.matrix.planning import plan_lines
from pytest_quantgate.plugin.private_names import configured
from pytest_quantgate.plugin.state import STATE


def print_plan(config: pytest.Config) -> int:
    """Print the plan in place of a test session, as ``--help`` does."""
    with configured(config):
        state = config.stash[STATE]
        for line in plan_lines(state.open_session(), calibrates=state.options.calibrate):
            sys.stdout.write(line + "\n")
    return 0
