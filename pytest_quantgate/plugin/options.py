"""The ``--quant-*`` options, read once, and the arguments that name built-in suites.

Nothing heavy is imported here: this module is loaded in every pytest run.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from pytest_quantgate.config.options import OPTIONS, Overrides
from pytest_quantgate.plugin.suites import (
    CALIBRATION_NODE,
    CODECS_NODE,
    MATRIX_NODE,
    NODES,
    SWEEP_TEST,
)

if TYPE_CHECKING:
    import pytest


@dataclass(frozen=True, kw_only=True)
class Options:
    """What the command line says."""

    matrix: bool
    calibrate: bool
    codecs: bool
    codec_profile: str
    plan: bool
    overrides: Overrides
    reason: str | None
    durations: int | None
    update_baselines: bool
    selected: Mapping[str, tuple[str, ...]]
    """Names of tests, as arguments gave them, by the suite's node id; ``""`` is all of a suite."""

    @property
    def any_suite(self) -> bool:
        """Whether a built-in suite was asked for."""
        return self.shows_cells or self.codecs

    @property
    def shows_cells(self) -> bool:
        """Whether the profile's cells are measured, for the gate or for its noise."""
        return self.matrix or self.calibrate


def add_options(parser: pytest.Parser) -> None:
    """Declare the options."""
    group = parser.getgroup("quantgate", "quality gates for quantized GGUF models")
    for option in OPTIONS:
        group.addoption(option.flag, **option.parser_arguments())


def suite_node_id(argument: str, config: pytest.Config) -> str | None:
    """Return the node id that an argument gives of a built-in suite or one of its tests.

    pytest prints ids as paths from where it was started; ``../quant-matrix::test_cell`` is one too.
    A file or folder of that name is pytest's own.
    """
    place, colons, name = argument.partition("::")
    path = Path(os.path.normpath(config.invocation_params.dir / place))
    is_suite = path.name in NODES and (place in NODES or path.parent == config.rootpath)
    return path.name + colons + name if is_suite and not path.exists() else None


def _selected(config: pytest.Config) -> dict[str, tuple[str, ...]]:
    selected: dict[str, tuple[str, ...]] = {}
    for argument in config.args:
        node, _, name = (suite_node_id(argument, config) or "").partition("::")
        if node:
            selected[node] = (*selected.get(node, ()), name)
    return selected


def read_options(config: pytest.Config) -> Options:
    """Read the options, syrupy's ``--snapshot-update`` too, and the arguments that name suites."""
    get = config.getoption
    selected = _selected(config)
    calibrate = get("quant_calibrate") or CALIBRATION_NODE in selected
    asks_for_matrix = get("quant_matrix") and not calibrate
    if get("quant_sweep") and not asks_for_matrix:
        selected.setdefault(MATRIX_NODE, (SWEEP_TEST,))
    return Options(
        matrix=asks_for_matrix or MATRIX_NODE in selected or get("quant_plan"),
        calibrate=calibrate,
        codecs=get("quant_codecs") or CODECS_NODE in selected,
        codec_profile=get("quant_codec_profile"),
        plan=get("quant_plan"),
        overrides=Overrides.read(get),
        reason=get("quant_reason"),
        durations=get("quant_durations"),
        update_baselines=bool(get("update_snapshots", False)),
        selected=selected,
    )
