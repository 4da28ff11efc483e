"""What was measured here, as a claim may ask for it: run records, stored sizes, shapes."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from pytest_quantgate.artifacts.shapes import SHAPES
from pytest_quantgate.errors import ConfigError
from pytest_quantgate.results.baseline_file import parse
from pytest_quantgate.results.baseline_store import shipped_folder
from pytest_quantgate.results.measurements.speed import SpeedMeasurement
from pytest_quantgate.results.record import CellRecord, RunRecord

_HELP_S = 30


@dataclass(frozen=True, kw_only=True)
class CellSpeed:
    """A cell's speed in generating text, and on which hardware."""

    cell: CellRecord
    hardware: str
    tokens_per_s: float


def read_help_texts(folder: Path) -> dict[str, str]:
    """Return what each of llama.cpp's programs in a folder prints for ``--help``.

    Raises:
        ConfigError: the folder has none of them.

    """
    texts = {}
    for path in sorted(folder.glob("llama-*")):
        try:
            done = subprocess.run(
                [path, "--help"],
                capture_output=True,
                timeout=_HELP_S,
                check=False,
                stdin=subprocess.DEVNULL,
            )
        except (OSError, subprocess.TimeoutExpired):
            continue  # a library or a folder of that name, or no program of this machine
        texts[path.stem] = (done.stdout + done.stderr).decode(errors="replace")
    if not texts:
        raise ConfigError(f"--programs {str(folder)!r} has none of llama.cpp's programs (llama-*)")
    return texts


@dataclass(frozen=True, kw_only=True)
class Evidence:
    """Run records, programs' help by name, and what ships here without either."""

    records: Sequence[RunRecord] = ()
    help_texts: Mapping[str, str] = field(default_factory=dict)

    def cells(self, model: str | None, format_name: str | None) -> Iterator[CellRecord]:
        """Return the measured cells of a model and a format; None is any."""
        for record in self.records:
            for cell in record.cells:
                if model in {None, cell.model} and format_name in {None, cell.format}:
                    yield cell

    def file_bytes(self, model: str, format_name: str) -> int | None:
        """Return a file's size: of a record, else of the baselines that ship."""
        for cell in self.cells(model, format_name):
            if cell.file_bytes is not None and cell.imatrix is None:
                return cell.file_bytes
        path = shipped_folder() / model / f"{format_name}-cpu.json"
        if not path.is_file():
            return None
        return parse(path.read_text(encoding="utf-8"), str(path)).size.file_bytes

    def experts(self, model: str) -> tuple[int, int] | None:
        """Return how many experts a layer has and a token uses, by the model's shape."""
        shape = SHAPES.get(model)
        return None if shape is None else (shape.experts, shape.experts_used)

    def speeds(self, model: str | None, format_name: str | None) -> Iterator[CellSpeed]:
        """Return the decoding speeds that records have; a miniature's say nothing."""
        for cell in self.cells(model, format_name):
            speed = cell.measured.get("speed")
            if isinstance(speed, SpeedMeasurement) and not cell.is_miniature:
                at = speed.fingerprint
                yield CellSpeed(
                    cell=cell,
                    hardware=at.cpu if at.device == "cpu" else at.device,
                    tokens_per_s=speed.tokens_per_s("decode"),
                )

    def speed_ratios(
        self, model: str | None, format_name: str, other_format: str
    ) -> Iterator[tuple[CellSpeed, float]]:
        """Return, for one model on one hardware, how much faster a format is, in percent."""
        for one in self.speeds(model, format_name):
            for other in self.speeds(one.cell.model, other_format):
                if other.hardware == one.hardware and other.cell.device == one.cell.device:
                    yield one, 100 * (one.tokens_per_s / other.tokens_per_s - 1)

    def with_and_without_imatrix(self, format_name: str) -> Iterator[tuple[CellRecord, CellRecord]]:
        """Return pairs of cells: without an importance matrix, and with one."""
        for plain in self.cells(None, format_name):
            for cell in self.cells(plain.model, format_name):
                same = (plain.device, plain.text_name) == (cell.device, cell.text_name)
                if plain.imatrix is None and cell.imatrix is not None and same:
                    yield plain, cell
