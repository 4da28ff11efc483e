"""A cell with everything that its names stand for."""

from __future__ import annotations

from dataclasses import dataclass

from pytest_quantgate.artifacts.models import Model
from pytest_quantgate.artifacts.texts import Text
from pytest_quantgate.config.schema import Limits, ProfileSettings
from pytest_quantgate.engines.conditions import Conditions
from pytest_quantgate.engines.engine import Engine
from pytest_quantgate.engines.messages.placement import Placement
from pytest_quantgate.errors import CellUnsupported
from pytest_quantgate.gguf.formats import Format
from pytest_quantgate.matrix.cells import Cell
from pytest_quantgate.results.baseline import Key


@dataclass(frozen=True, kw_only=True, eq=False)
class ResolvedCell:
    """A cell of a run, resolved once.

    Attributes:
        cell: its names.
        model: the model, with the headers of its files.
        text: the text that is scored, None for a shape.
        profile: the profile with what the cell's device sets of its own.
        conditions: how the text is computed.
        placement: where the model is loaded.
        placement_key: the same as measurements are kept by: all members of a pool have one.
        engine: what measures.
        quantizer: what makes the file.
        limits: the profile's limits for the format.
        key: what its baseline is found by.
        reference: the cell that it is compared with; itself if it is the reference.

    """

    cell: Cell
    model: Model
    text: Text | None
    profile: ProfileSettings
    conditions: Conditions
    placement: Placement
    placement_key: str
    engine: Engine
    quantizer: Engine
    limits: Limits
    key: Key
    reference: Cell

    @property
    def id(self) -> str:
        """The cell's id."""
        return self.cell.id

    @property
    def n_ctx(self) -> int:
        """Tokens in a chunk."""
        return self.cell.n_ctx

    @property
    def format(self) -> Format:
        """The format of the cell's file."""
        return self.cell.format

    @property
    def is_reference(self) -> bool:
        """Whether other formats are compared with this one."""
        return self.reference == self.cell

    @property
    def is_shape(self) -> bool:
        """Whether the model has no weights that mean anything."""
        return self.model.shape is not None

    @property
    def scored_text(self) -> Text:
        """The text, for measurements that need one.

        Raises:
            CellUnsupported: the model is a shape.

        """
        if self.is_shape or self.text is None:
            raise CellUnsupported(
                f"model {self.cell.model!r} is a shape: its weights are pseudo-random, so it has"
                " size and speed and no quality"
            )
        return self.text
