"""Batch geometry: how far a model's distributions depend on how its tokens are batched."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from pytest_quantgate.computing import model_request_fields
from pytest_quantgate.worker.messages import CompareBatches

if TYPE_CHECKING:
    from pytest_quantgate.matrix import Cell
    from pytest_quantgate.run import Run

N_TOKENS = 64
"""Tokens that are decoded in every geometry; more than the largest of them."""

GEOMETRIES = (0, 1, 2, 3, 5, 8, 9, 31, 32)
"""Physical batch sizes that are compared with one batch; 0 is token by token."""


@dataclass(frozen=True, kw_only=True)
class Geometry:
    """One batch size against all tokens in one batch, in nats a token.

    ``repack`` tells whether the weights could be repacked for the CPU; ``n_ubatch`` 0 is token
    by token.
    """

    n_ubatch: int
    repack: bool
    mean_kld_nats: float
    max_kld_nats: float
    top_tokens_changed: int

    @property
    def name(self) -> str:
        """What a person reads."""
        size = f"n_ubatch {self.n_ubatch}" if self.n_ubatch else "token by token"
        return size if self.repack else f"{size}, not repacked"


@dataclass(frozen=True, kw_only=True)
class BatchMeasurement:
    """All geometries of one cell."""

    geometries: tuple[Geometry, ...]

    @property
    def worst(self) -> Geometry:
        """The geometry that is furthest from one batch; one that is no number comes first."""
        return max(
            self.geometries,
            key=lambda item: (item.mean_kld_nats != item.mean_kld_nats, item.mean_kld_nats),
        )


def measure_batches(run: Run, cell: Cell) -> BatchMeasurement:
    """Compare batch geometries of a cell, with repacked weights and without.

    Raises:
        CellError: the cell could not be measured.

    """
    profile, text = run.settings.profile, run.text(cell.text)
    requests = [
        CompareBatches(
            **model_request_fields(run, cell, replace(run.setting, repack=repack)),
            text=str(run.cache.text(text.data, text.sha256)),
            chunk=run.chunk_plan(cell.model, cell.text).order[0],
            n_ctx=profile.n_ctx,
            n_tokens=min(N_TOKENS, profile.n_ctx),
            n_ubatches=tuple(n for n in GEOMETRIES if n < profile.n_ctx),
        )
        for repack in ((True, False) if run.placement(cell).is_cpu else (True,))
    ]
    found = []
    with run.hold_device(requests[0].device, cell):
        for request in requests:
            reply = run.engine(cell.engine).ask(request)
            found += [
                Geometry(
                    n_ubatch=n_ubatch,
                    repack=request.repack,
                    mean_kld_nats=mean,
                    max_kld_nats=largest,
                    top_tokens_changed=changed,
                )
                for n_ubatch, mean, largest, changed in reply.rows
            ]
    return BatchMeasurement(geometries=tuple(found))
