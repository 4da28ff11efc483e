"""The importance matrix of a cell: how much of the model its text reached, expert by expert."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from pytest_quantgate.artifacts.imatrix import Imatrix
from pytest_quantgate.matrix import format_imatrices
from pytest_quantgate.metrics.absent import Absent
from pytest_quantgate.models.gguf_file import GgufFile

if TYPE_CHECKING:
    from pytest_quantgate.matrix import Cell
    from pytest_quantgate.run import Run

FEW_TOKENS = 100
"""Below so many tokens an expert is named under the table: its mean squares say little."""

NO_EXPERTS = "the model has no experts that it could miss"

_N_NAMED = 3
_EXPERTS = re.compile(r"^blk\.(\d+)\..*_exps\.weight$")


@dataclass(frozen=True, kw_only=True)
class LayerCoverage:
    """One layer's experts: ``tokens`` that each saw, of the weight that saw fewest.

    ``tokens`` is empty where the file has one count for all experts, as older ones do.
    """

    layer: int
    tokens: tuple[int, ...]


@dataclass(frozen=True, kw_only=True)
class Expert:
    """One expert of one layer, and the tokens that it saw."""

    layer: int
    expert: int
    tokens: int

    @property
    def name(self) -> str:
        """What a person reads."""
        return f"expert {self.expert} of layer {self.layer} ({self.tokens:,} tokens)"


@dataclass(frozen=True, kw_only=True)
class ImatrixMeasurement:
    """What a cell's importance matrix covers.

    ``tokens`` is what went into the weight that saw most; ``layers`` has the layers with experts;
    ``without`` the weights of the blocks that are quantized and of which the matrix has nothing.
    """

    imatrix: str
    sha256: str
    n_weights: int
    tokens: int
    layers: tuple[LayerCoverage, ...]
    without: tuple[str, ...]

    @property
    def experts(self) -> tuple[Expert, ...]:
        """All experts whose tokens are known, those that saw least first."""
        found = (
            Expert(layer=layer.layer, expert=number, tokens=tokens)
            for layer in self.layers
            for number, tokens in enumerate(layer.tokens)
        )
        return tuple(sorted(found, key=lambda item: item.tokens))

    @property
    def uncounted_layers(self) -> tuple[int, ...]:
        """Layers whose experts have one count together."""
        return tuple(layer.layer for layer in self.layers if not layer.tokens)

    @property
    def notes(self) -> tuple[str, ...]:
        """What must be said aloud of it."""
        notes = []
        if not self.layers:
            notes.append(
                f"importance matrix {self.imatrix!r}: {NO_EXPERTS}, so no coverage was judged"
            )
        unseen = [item for item in self.experts if item.tokens == 0]
        few = [item for item in self.experts if item.tokens < FEW_TOKENS]
        if unseen:
            notes.append(
                f"importance matrix {self.imatrix!r}: {len(unseen)} of {len(self.experts)} experts"
                f" saw no token and are quantized as without one: {_named(unseen)}"
            )
        elif few:
            notes.append(
                f"importance matrix {self.imatrix!r}: {len(few)} of {len(self.experts)} experts saw"
                f" fewer than {FEW_TOKENS} tokens: {_named(few)}"
            )
        if self.without:
            names = ", ".join(self.without[:_N_NAMED])
            more = ", …" if len(self.without) > _N_NAMED else ""
            notes.append(
                f"importance matrix {self.imatrix!r} has nothing of {len(self.without)} quantized"
                f" weights: {names}{more}"
            )
        return tuple(notes)


def _named(experts: list[Expert]) -> str:
    more = ", …" if len(experts) > _N_NAMED else ""
    return ", ".join(item.name for item in experts[:_N_NAMED]) + more


def measure_imatrix(run: Run, cell: Cell) -> ImatrixMeasurement | Absent:
    """Tell what a cell's matrix covers, where it has one.

    Raises:
        CellError: the matrix could not be collected or used.

    """
    imatrix = run.imatrix(cell)
    if imatrix is not None:
        return coverage(imatrix, run.cell_file(cell).header)
    if cell.format.is_full_precision:
        reason = f"{cell.format.name} is full precision, made without an importance matrix"
        return Absent(reason=reason, is_natural=True)
    if any(format_imatrices(run.settings, cell.model, cell.format)):
        return Absent(reason="this is the cell without an importance matrix", is_natural=True)
    reason = "the cell has no importance matrix; add one, as --quant-imatrix calibration"
    return Absent(reason=reason, is_noted=False)


def coverage(imatrix: Imatrix, file: GgufFile) -> ImatrixMeasurement:
    """Tell what a matrix covers of a quantized file."""
    by_layer: dict[int, list[tuple[int, ...]]] = {}
    for tensor in file.tensors:
        match = _EXPERTS.match(tensor.name)
        entry = imatrix.entries.get(tensor.name)
        if match is not None and entry is not None and len(tensor.shape) > 2:
            counts = tuple(int(count) for count in entry.counts)
            whole = len(counts) == tensor.shape[2]
            by_layer.setdefault(int(match[1]), []).append(counts if whole else ())
    layers = tuple(
        LayerCoverage(
            layer=layer,
            tokens=tuple(map(min, zip(*counts, strict=True))) if all(counts) else (),
        )
        for layer, counts in sorted(by_layer.items())
    )
    without = tuple(
        tensor.name
        for tensor in file.tensors
        if tensor.name.startswith("blk.")
        and tensor.type.block_elements > 1
        and tensor.name not in imatrix.entries
    )
    return ImatrixMeasurement(
        imatrix=imatrix.name,
        sha256=imatrix.sha256,
        n_weights=len(imatrix.entries),
        tokens=int(max((max(entry.counts) for entry in imatrix.entries.values()), default=0)),
        layers=layers,
        without=without,
    )
