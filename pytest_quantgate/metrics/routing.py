"""Routing: whether a quantized mixture sends its tokens to the experts that the reference chose.

An expert is known by its weights, not by its number: two experts that stand exchanged in the
file, their router rows with them, route nothing otherwise.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from pytest_quantgate.config.settings import NO_IMATRIX
from pytest_quantgate.engines.messages import (
    BeginComparison,
    CompareExperts,
    ExpertErrors,
    ExpertMatrix,
    TensorPlace,
)
from pytest_quantgate.errors import CellError
from pytest_quantgate.gguf.formats import TENSOR_GROUPS
from pytest_quantgate.metrics.scoring import measure_perplexity, route_chunks
from pytest_quantgate.results.measurements.perplexity import PerplexityMeasurement, common_chunks
from pytest_quantgate.results.measurements.routes import Routes
from pytest_quantgate.results.measurements.routing import (
    DomainRouting,
    ExpertError,
    ExpertUse,
    LayerRouting,
    RoutingMeasurement,
)
from pytest_quantgate.storage.arrays import array_of

if TYPE_CHECKING:
    from pytest_quantgate.artifacts.files import CellFile
    from pytest_quantgate.artifacts.imatrix import Imatrix
    from pytest_quantgate.gguf.reader import Tensor
    from pytest_quantgate.matrix.resolved import ResolvedCell
    from pytest_quantgate.matrix.session import Session

MAX_EXPERT_ROWS = 256
"""Rows of each expert's matrix that are compared, evenly spaced over all of them."""

EXPERTS_OF_DOMAIN = 3
"""How many of its most used experts are listed for a domain."""

_EXPERT_TENSOR = re.compile(TENSOR_GROUPS["experts"])
_LAYER = re.compile(r"^blk\.(\d+)\.")


def measure_routing(session: Session, cell: ResolvedCell) -> RoutingMeasurement:
    """Compare a cell's routes and experts with its reference's.

    Raises:
        CellError: the cell could not be measured.

    """
    shape = cell.model.any_file
    n_experts, n_used = shape.n_experts, shape.n_experts_used
    chunks = route_chunks(session, cell)
    obstacle = None
    if not n_experts:
        obstacle = f"no experts: {shape.architecture} is a dense model"
    elif not chunks:
        obstacle = "routing = false in the profile"
    if obstacle is None:
        first_look = session.artifacts.looks(cell)[0]
        reference = measure_perplexity(session, session.reference(cell), first_look)
        comparison = None
        if reference.routes is not None and not cell.is_reference:
            comparison = _comparison(session, cell)
            if not cell.placement.is_cpu:  # where the processor waits for the device
                cell.engine.ask(BeginComparison(comparison=comparison))
        seen = measure_perplexity(session, cell, first_look)
        if seen.routes is not None and reference.routes is not None:
            rows = cell.engine.ask(comparison).rows if comparison is not None else ()
            found = compare_routing(seen, reference, n_experts, rows)
            return replace(found, is_reference=cell.is_reference)
        obstacle = "the engine recorded no routes"
        if seen.nll_nats is None:
            # Programs print sums by chunk alone.
            return RoutingMeasurement(
                n_experts=n_experts,
                n_experts_used=n_used,
                obstacle="this engine cannot report routing; routing was not judged",
                is_of_engine=True,
            )
    return RoutingMeasurement(n_experts=n_experts, n_experts_used=n_used, obstacle=obstacle)


def _comparison(session: Session, cell: ResolvedCell) -> CompareExperts:
    """Return the request that compares a cell's experts with the reference's."""
    reference = session.artifacts.file(session.reference(cell))
    own = session.artifacts.file(cell)
    return expert_request(reference, own, _importance(session, cell))


def _importance(session: Session, cell: ResolvedCell) -> Imatrix | None:
    """Return the cell's importance matrix or, so that cells compare, the profile's first one."""
    if cell.cell.imatrix is not None:
        return session.artifacts.imatrix(cell)
    named = (name for name in session.settings.profile.imatrices if name != NO_IMATRIX)
    first = next(named, None)
    if first is None:
        return None
    try:
        return session.artifacts.imatrix(cell, first)
    except CellError:
        return None  # the verdict of the cells that are made with it, not of this one


def expert_request(
    reference: CellFile, own: CellFile, importance: Imatrix | None
) -> CompareExperts:
    """Return the request that compares the experts of two files.

    Args:
        reference: the reference's file.
        own: the cell's file.
        importance: what the input columns are weighted by a second time.

    """
    before = {tensor.name: tensor for tensor in reference.header.tensors}
    matrices = []
    for tensor in own.header.tensors:
        other = before.get(tensor.name)
        if _EXPERT_TENSOR.search(tensor.name) and other is not None and other.shape == tensor.shape:
            _, rows, experts = tensor.shape
            columns = None if importance is None else importance.mean_squares(tensor.name, experts)
            weights = b"" if columns is None else columns.tobytes()
            matrices.append(
                ExpertMatrix(
                    name=tensor.name,
                    reference=_place(other),
                    own=_place(tensor),
                    n_rows=rows,
                    n_experts=experts,
                    importance=weights,
                )
            )
    return CompareExperts(matrices=tuple(matrices), max_rows=MAX_EXPERT_ROWS)


def _place(tensor: Tensor) -> TensorPlace:
    return TensorPlace(
        path=str(tensor.file),
        offset_bytes=tensor.offset_bytes,
        type_name=tensor.type.name,
        row_bytes=tensor.shape[0] // tensor.type.block_elements * tensor.type.block_bytes,
    )


def compare_routing(
    seen: PerplexityMeasurement,
    reference: PerplexityMeasurement,
    n_experts: int,
    expert_rows: Sequence[ExpertErrors],
) -> RoutingMeasurement:
    """Compare the routes of two measurements on the chunks that both recorded.

    Args:
        seen: the cell's; it has routes.
        reference: the reference's; it has routes.
        n_experts: experts of a layer.
        expert_rows: what the worker found of the experts' weights, a row a matrix; empty where
            both are one file.

    """
    ours, theirs = seen.routes, reference.routes
    assert ours is not None
    assert theirs is not None
    n_chunks = min(len(ours.experts), len(theirs.experts))
    mine, others = common_chunks(seen.first(n_chunks), reference.first(n_chunks))
    errors, counterparts = _read_experts(expert_rows, n_experts)
    used = theirs.experts.shape[3]
    by_chunk = np.zeros(len(mine), dtype=np.int64)
    layers, same_everywhere = [], np.ones((len(mine), ours.experts.shape[2]), dtype=bool)
    for place, layer in enumerate(theirs.layers):
        if layer not in ours.layers:
            continue
        counterpart = counterparts.get(layer, np.arange(n_experts, dtype=np.int16))
        now = counterpart[ours.experts[mine, ours.layers.index(layer)]]
        before, weights = theirs.experts[others, place], theirs.weights[others, place]
        same = (np.sort(now, axis=2) == np.sort(before, axis=2)).all(axis=2)
        shared = (before[..., :, None] == now[..., None, :]).any(axis=3)
        same_everywhere &= same
        by_chunk += same.sum(axis=1)
        layers.append(
            LayerRouting(
                layer=layer,
                tokens=int(same.size),
                same_experts=int(same.sum()),
                same_top_expert=int((now[..., 0] == before[..., 0]).sum()),
                shared_weight=float((weights * shared).sum(dtype=np.float64) / same.size),
                load=_load(now, n_experts),
                reference_load=_load(before, n_experts),
                exchanged=int((counterpart != np.arange(n_experts)).sum()),
            )
        )
    changed = ~same_everywhere
    kld = None if seen.kld_nats is None else seen.kld_nats[mine].astype(np.float64)
    return RoutingMeasurement(
        n_experts=n_experts,
        n_experts_used=used,
        tokens=int(changed.size),
        layers=tuple(layers),
        chunk_indices=seen.chunks.take(mine).index,
        chunk_same_experts=tuple(by_chunk.tolist()),
        changed_tokens=int(changed.sum()),
        kld_share_changed=_kld_share(kld, changed),
        mean_kld_changed_nats=_mean(kld, changed),
        mean_kld_same_nats=_mean(kld, same_everywhere),
        experts=errors,
        domains=_domains(list(reference.chunks.take(others).domain), theirs, others, n_experts),
    )


def _load(experts: npt.NDArray[np.int16], n_experts: int) -> tuple[float, ...]:
    tokens = experts[..., 0].size
    return tuple((np.bincount(experts.ravel(), minlength=n_experts) / tokens).tolist())


def _kld_share(kld: npt.NDArray[np.float64] | None, changed: npt.NDArray[np.bool_]) -> float | None:
    total = 0.0 if kld is None else float(kld.sum())
    return float(kld[changed].sum()) / total if kld is not None and total > 0 else None


def _mean(kld: npt.NDArray[np.float64] | None, wanted: npt.NDArray[np.bool_]) -> float | None:
    return float(kld[wanted].mean()) if kld is not None and wanted.any() else None


def _read_experts(
    rows: Sequence[ExpertErrors], n_experts: int
) -> tuple[tuple[ExpertError, ...], dict[int, npt.NDArray[np.int16]]]:
    """Join what was found of each matrix into one error an expert, and one counterpart."""
    plain: dict[int, list[npt.NDArray[np.float64]]] = {}
    weighted: dict[int, list[npt.NDArray[np.float64]]] = {}
    stands: dict[int, list[npt.NDArray[np.int16]]] = {}
    for row in rows:
        found = _LAYER.match(row.name)
        layer = int(found[1]) if found else -1
        plain.setdefault(layer, []).append(array_of(row.relative_rms, np.float64, n_experts))
        if row.weighted:
            weighted.setdefault(layer, []).append(array_of(row.weighted, np.float64, n_experts))
        stands.setdefault(layer, []).append(array_of(row.counterpart, np.int16, n_experts))
    joined = []
    for layer, parts in plain.items():
        rms = np.sqrt(np.mean(np.square(parts), axis=0))
        importance = weighted.get(layer, [])
        by_weight = np.sqrt(np.mean(np.square(importance), axis=0)) if importance else None
        joined += [
            ExpertError(
                layer=layer,
                expert=expert,
                relative_rms=float(rms[expert]),
                weighted=None if by_weight is None else float(by_weight[expert]),
            )
            for expert in range(n_experts)
        ]
    exchanged = {
        layer: parts[0]
        for layer, parts in stands.items()
        # All matrices of an expert move together, and no two experts into one place.
        if all((part == parts[0]).all() for part in parts) and len(set(parts[0])) == n_experts
    }
    return tuple(sorted(joined, key=lambda item: (item.layer, item.expert))), exchanged


def _domains(
    names: list[str | None], routes: Routes, chunks: list[int], n_experts: int
) -> tuple[DomainRouting, ...]:
    """List the experts that each domain uses most."""
    experts = routes.experts[chunks]
    found = []
    for name in dict.fromkeys(name for name in names if name is not None):
        own = experts[[i for i, domain in enumerate(names) if domain == name]]
        uses = []
        for place, layer in enumerate(routes.layers):
            in_all = _load(experts[:, place], n_experts)
            uses += [
                ExpertUse(layer=layer, expert=expert, share=share, share_of_all=in_all[expert])
                for expert, share in enumerate(_load(own[:, place], n_experts))
            ]
        uses.sort(key=lambda use: (-use.share, use.layer, use.expert))
        found.append(
            DomainRouting(
                name=name,
                tokens=own.shape[0] * own.shape[2],
                most_used=tuple(uses[:EXPERTS_OF_DOMAIN]),
            )
        )
    return tuple(found)
