"""The ``--quant-*`` options, read once.

Nothing heavy is imported here: this module is loaded in every pytest run.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from pytest_quantgate.plugin.suites import CALIBRATION_NODE, CODECS_NODE, MATRIX_NODE, NODES

if TYPE_CHECKING:
    import pytest

    from pytest_quantgate.config.settings import Overrides


@dataclass(frozen=True, kw_only=True)
class Options:
    """What the command line says; the lists are still comma-separated text."""

    matrix: bool
    calibrate: bool
    codecs: bool
    codec_profile: str
    plan: bool
    profile: str | None
    models: str | None
    formats: str | None
    parts: str | None
    devices: str | None
    texts: str | None
    imatrices: str | None
    engine: str | None
    against: str | None
    shard: str | None
    reports: tuple[str, ...]
    cache: str | None
    reason: str | None
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

    def overrides(self) -> Overrides:
        """Return what the command line says instead of the configuration."""
        from pytest_quantgate.config.settings import Overrides

        return Overrides(
            profile=self.profile,
            models=_split(self.models),
            formats=_split(self.formats),
            parts=_split(self.parts),
            devices=_split(self.devices),
            texts=_split(self.texts),
            imatrices=_split(self.imatrices),
            engine=self.engine,
            against=self.against,
            shard=self.shard,
            reports=self.reports or None,
            cache_dir=self.cache,
        )


def _split(text: str | None) -> tuple[str, ...] | None:
    return None if text is None else tuple(part.strip() for part in text.split(",") if part.strip())


def add_options(parser: pytest.Parser) -> None:
    """Declare the options; a list is comma-separated, so that it eats no path."""
    group = parser.getgroup("quantgate", "quality gates for quantized GGUF models")
    add = group.addoption
    add(
        "--quant-matrix",
        dest="quant_matrix",
        action="store_true",
        help="add the built-in suite for the active profile; without paths, run only it",
    )
    add(
        "--quant-plan",
        dest="quant_plan",
        action="store_true",
        help="print the cells, disk, memory and minutes that a run would take; run nothing",
    )
    add(
        "--quant-calibrate",
        dest="quant_calibrate",
        action="store_true",
        help="instead of the gate, measure how far settings that should not matter (threads,"
        " batch sizes, repacked weights) move each cell, and warn about limits below that",
    )
    add(
        "--quant-codecs",
        dest="quant_codecs",
        action="store_true",
        help="add the property tests of the engine's codecs; without paths, run only them",
    )
    add(
        "--quant-codec-profile",
        dest="quant_codec_profile",
        choices=("quick", "deep"),
        default="quick",
        help="how many examples a codec's property gets",
    )
    add("--quant-profile", dest="quant_profile", metavar="NAME", help="the profile to run")
    add(
        "--quant-model",
        dest="quant_models",
        metavar="LIST",
        help="models instead of the profile's: names, paths of GGUF files, package:NAME/FILE,"
        " shape:NAME",
    )
    add(
        "--quant-formats",
        dest="quant_formats",
        metavar="LIST",
        help="formats instead of the profile's, as Q8_0,Q4_K_M",
    )
    add(
        "--quant-parts",
        dest="quant_parts",
        metavar="LIST",
        help="formats to measure part by part too: of each, the experts alone, and so on",
    )
    add("--quant-devices", dest="quant_devices", metavar="LIST", help="devices, as cpu,gpu")
    add(
        "--quant-engine",
        dest="quant_engine",
        metavar="ENGINE",
        help="the engine to measure: a name, python=INTERPRETER or tools=FOLDER",
    )
    add(
        "--quant-against",
        dest="quant_against",
        metavar="ENGINE",
        help="the old engine: measure both in this run and hold the new one against it, not"
        " against stored baselines",
    )
    add(
        "--quant-text",
        dest="quant_texts",
        metavar="LIST",
        help="texts instead of the profile's: names, or paths of .txt, .raw or .md files",
    )
    add(
        "--quant-imatrix",
        dest="quant_imatrices",
        metavar="LIST",
        help="importance matrices instead of the profile's: none, names, or .gguf files",
    )
    add(
        "--quant-report",
        dest="quant_report",
        metavar="PATH",
        action="append",
        default=[],
        help="write the run record: .json, or a report of it: .md; may be repeated",
    )
    add(
        "--quant-shard",
        dest="quant_shard",
        metavar="K/N",
        help="measure this job's part of the matrix, as 2/4; quantgate merge joins the records",
    )
    add("--quant-cache", dest="quant_cache", metavar="DIR", help="the cache's folder")
    add(
        "--quant-reason",
        dest="quant_reason",
        metavar="TEXT",
        help="why new baselines are accepted; stored with --snapshot-update",
    )


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
    return Options(
        matrix=(get("quant_matrix") and not calibrate)
        or MATRIX_NODE in selected
        or get("quant_plan"),
        calibrate=calibrate,
        codecs=get("quant_codecs") or CODECS_NODE in selected,
        codec_profile=get("quant_codec_profile"),
        plan=get("quant_plan"),
        profile=get("quant_profile"),
        models=get("quant_models"),
        formats=get("quant_formats"),
        parts=get("quant_parts"),
        devices=get("quant_devices"),
        texts=get("quant_texts"),
        imatrices=get("quant_imatrices"),
        engine=get("quant_engine"),
        against=get("quant_against"),
        shard=get("quant_shard"),
        reports=tuple(get("quant_report")),
        cache=get("quant_cache"),
        reason=get("quant_reason"),
        update_baselines=bool(get("update_snapshots", False)),
        selected=selected,
    )
