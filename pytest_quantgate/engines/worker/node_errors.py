"""How far each node is from the recorded one, in units of what rounding explains.

Runs in the worker alone: standard library and numpy.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import numpy as np

from pytest_quantgate.engines.messages import NodeDifference
from pytest_quantgate.engines.messages.type_errors import TYPE_ERRORS
from pytest_quantgate.engines.worker.graph import StructuredNodes
from pytest_quantgate.engines.worker.node_store import NodeId, Recorded, Spread, measure_spread

F16_RMS = 2.0**-11 / math.sqrt(3)
"""RMS of even noise up to F16's rounding: what the ``floats`` noise of a node stands for."""

_UNQUANTIZED = frozenset({0, 1, 26, 27, 28, 30})
"""F32, F16, I32, I64, F64, BF16."""

_LEAST_VALUES = 16
"""A row or column of fewer values says too little by itself."""


@dataclass(kw_only=True)
class _Sums:
    """What the batches of one node have summed up to, in squares."""

    node: NodeId
    facts: NodeDifference
    n_values: int = 0
    values: float = 0.0
    moved: float = 0.0
    allowed: float = 0.0
    columns_moved: np.ndarray | float = 0.0
    columns_allowed: np.ndarray | float = 0.0
    n_rows: int = 0
    worst_rows: list[tuple[float, int]] = field(default_factory=list)


class NodeErrors:
    """Sums up differences by node.

    Args:
        nodes: reads a node's facts.
        changed_tensors: weights whose bytes are not those of the recorded side.
        cache_types: the types of keys and values, of both sides.
        n_tokens: over how many tokens attention sums at most.

    """

    def __init__(
        self,
        nodes: StructuredNodes,
        changed_tensors: frozenset[str],
        cache_types: tuple[tuple[int, int], tuple[int, int]],
        n_tokens: int,
    ) -> None:
        self._nodes = nodes
        self._changed = changed_tensors
        own, other = cache_types
        # Each of n steps of a sum in F16 rounds what has come up to then: the j-th F16_RMS · j/n.
        self._attention = F16_RMS * math.sqrt(n_tokens / 3)
        self._cache = math.hypot(*_type_errors(own, other, has_other_weights=False))
        self._sums: dict[NodeId, _Sums] = {}

    def add(
        self,
        node: NodeId,
        address: int,
        expected: Recorded,
        moved: np.ndarray,
        other_types: tuple[int, ...],
        *,
        follows: bool,
    ) -> None:
        """Add one batch of a node: how far its values moved from what was expected.

        ``follows`` says that a source of it had no counterpart, and so no recorded values: one
        side attends in one operation, the other in several.
        """
        if node not in self._sums:
            self._sums[node] = _Sums(node=node, facts=self._describe(node, address, other_types))
        sums = self._sums[node]
        types = tuple(self._nodes.type(source) for source in self._nodes.sources(address))
        own_error = _type_errors(types, other_types, bool(sums.facts.weights))
        if follows:
            own_error += [self._cache, self._attention]
        allowed = self._allowed(node, expected, types + other_types[:1], math.hypot(*own_error))
        spread, size = measure_spread(moved), moved.size
        n_rows = size // moved.shape[-1]
        finite = expected.values[np.isfinite(expected.values)].astype(np.float64)
        sums.values += float(np.square(finite).sum())
        sums.moved += spread.whole**2 * size
        sums.allowed += allowed.whole**2 * size
        sums.columns_moved = sums.columns_moved + spread.columns**2 * n_rows
        sums.columns_allowed = sums.columns_allowed + allowed.columns**2 * n_rows
        if moved.shape[-1] >= _LEAST_VALUES:
            ratios = _ratio(spread.rows, allowed.rows).ravel()
            worst = int(np.argmax(ratios))
            sums.worst_rows.append((float(ratios[worst]), sums.n_rows + worst))
        sums.n_values += size
        sums.n_rows += n_rows

    def _allowed(
        self, node: NodeId, expected: Recorded, types: tuple[int, ...], source_error: float
    ) -> Spread:
        """Return what rounding explains: of the inputs, of their types, and of the result.

        ``source_error`` is the relative error that the sources have by being of other types.
        """
        is_attention = node[1] == "FLASH_ATTN_EXT"
        rounds_to_blocks = any(kind not in _UNQUANTIZED for kind in types)
        noise = expected.blocks if rounds_to_blocks else expected.floats
        own = measure_spread(_finite(expected.values))
        # The one input of floats of GET_ROWS is the weights themselves.
        relative = _scaled(own, F16_RMS) if node[1] == "GET_ROWS" else expected.floats
        relative = _scaled(relative, source_error / F16_RMS)
        result = _scaled(own, self._attention if is_attention else F16_RMS)
        if expected.values.dtype != np.float32:
            result = _one_other_index(expected.values)
        whole = math.sqrt(noise.whole**2 + relative.whole**2 + result.whole**2)
        return Spread(
            whole=whole,
            rows=np.maximum(_hypot(noise.rows, relative.rows, result.rows), whole),
            columns=np.maximum(_hypot(noise.columns, relative.columns, result.columns), whole),
        )

    def _describe(self, node: NodeId, address: int, other_types: tuple[int, ...]) -> NodeDifference:
        sources = self._nodes.sources(address)
        names = tuple(self._nodes.name(source) for source in sources)
        return NodeDifference(
            name=node[0],
            operation=node[1],
            type_name=self._nodes.type_name(self._nodes.type(address)),
            shape=self._nodes.shape(address),
            sources=names,
            source_types=tuple(self._nodes.type_name(self._nodes.type(s)) for s in sources),
            source_shapes=tuple(self._nodes.shape(source) for source in sources),
            other_types=tuple(map(self._nodes.type_name, other_types)),
            relative_error=0.0,
            excess=0.0,
            place="whole",
            index=0,
            weights=next((name for name in names if name in self._changed), ""),
        )

    def rows(self) -> tuple[NodeDifference, ...]:
        """Return the differences, in the order in which the nodes were first added."""
        return tuple(_row(sums) for sums in self._sums.values())


def _row(sums: _Sums) -> NodeDifference:
    excess, place, index = math.sqrt(sums.moved / sums.allowed) if sums.allowed else 0.0, "whole", 0
    columns = _ratio(np.sqrt(sums.columns_moved), np.sqrt(sums.columns_allowed))
    if sums.n_rows >= _LEAST_VALUES and float(columns.max()) > excess:
        excess, place, index = float(columns.max()), "column", int(np.argmax(columns))
    worst = max(sums.worst_rows, default=(0.0, 0))
    if worst[0] > excess:
        (excess, index), place = worst, "row"
    error = math.sqrt(sums.moved / sums.values) if sums.values else math.sqrt(sums.moved)
    return _with(sums.facts, error, excess if not math.isnan(excess) else math.inf, place, index)


def _with(
    facts: NodeDifference, error: float, excess: float, place: str, index: int
) -> NodeDifference:
    values = {**vars(facts), "relative_error": error, "excess": excess}
    return NodeDifference(**{**values, "place": place, "index": index})


def _ratio(moved: np.ndarray, allowed: np.ndarray) -> np.ndarray:
    ratio: np.ndarray = np.divide(moved, allowed, out=np.zeros(np.shape(moved)), where=moved > 0)
    return ratio


def _finite(values: np.ndarray) -> np.ndarray:
    return np.where(np.isfinite(values), values, 0)


def _hypot(*parts: np.ndarray) -> np.ndarray:
    total: np.ndarray = np.sqrt(sum(part**2 for part in parts))
    return total


def _one_other_index(values: np.ndarray) -> Spread:
    """Return what one index that is another makes of a node of indices."""
    moved = np.zeros(values.shape)
    moved.flat[0] = 1.0
    spread = measure_spread(moved)
    return Spread(whole=spread.whole, rows=0 * spread.rows, columns=0 * spread.columns)


def _scaled(spread: Spread, factor: float) -> Spread:
    return Spread(
        whole=spread.whole * factor, rows=spread.rows * factor, columns=spread.columns * factor
    )


def _type_errors(
    types: tuple[int, ...], other_types: tuple[int, ...], has_other_weights: bool
) -> list[float]:
    """Return the errors of those types of both sides that make sources differ."""
    errors = [0.0]
    for place, pair in enumerate(zip(types, other_types, strict=False)):
        if pair[0] != pair[1] or (place == 0 and has_other_weights):
            errors += [TYPE_ERRORS.get(kind, 0.0) for kind in pair]
    return errors
