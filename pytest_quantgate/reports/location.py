"""Where two computations first differ, as blocks."""

from __future__ import annotations

from pytest_quantgate.diagnosis.locate import Location, Origin, limit_of
from pytest_quantgate.engines.messages import NodeDifference
from pytest_quantgate.reports.blocks import (
    Block,
    Column,
    Paragraph,
    Prose,
    Row,
    Table,
    code,
    spans,
    words,
)
from pytest_quantgate.reports.words import number

_COLUMNS = (
    words("node"),
    words("operation"),
    Column(heading="relative error"),
    Column(heading="× rounding"),
    Column(heading="limit"),
    words("computed from"),
)


def location_blocks(found: Location) -> list[Block]:
    """Return what a comparison of two graphs says, the answer first."""
    rows = found.further[:5] or found.largest
    table = Table(
        title=f"{found.n_nodes} operations compared on {found.n_tokens} tokens",
        columns=_COLUMNS,
        rows=tuple(_row(node) for node in rows),
        notes=_notes(found),
    )
    blocks: list[Block] = [
        Paragraph(text=_answer(found), is_strong=True),
        Paragraph(text=f"first: {found.first.description}; second: {found.second.description}"),
    ]
    return [*blocks, table] if rows else blocks


def _answer(found: Location) -> Prose:
    kld = f"mean KLD {found.mean_kld_nats:.3g} nats"
    if found.origin is Origin.NONE:
        return f"No operation is further away than rounding explains ({kld})."
    if found.origin is Origin.FUSED:
        return (
            f"The results differ ({kld}), but not when the graph is computed node by node"
            f" ({found.mean_kld_by_node_nats:.3g}): a kernel that several nodes are fused into"
        )
    node = found.further[0]
    where = "" if node.place == "whole" else f", {node.place} {node.index}"
    named = spans("First difference: ", code(node.name), f" ({node.operation}{where})")
    if found.origin is Origin.WEIGHTS:
        return spans(named, ", from other weights: ", code(node.weights), f" ({kld})")
    return spans(named, f", from equal inputs: the operation itself ({kld})")


def _row(node: NodeDifference) -> Row:
    return Row(
        cells=(
            node.name,
            node.operation,
            f"{node.relative_error:.2g}",
            number(node.excess, ".3g"),
            number(limit_of(node), "g"),
            ", ".join(map(_source, node.sources, node.source_types, node.source_shapes)),
        ),
        is_red=not node.excess <= limit_of(node),
    )


def _source(name: str, kind: str, shape: tuple[int, ...]) -> str:
    sizes = list(shape)
    while len(sizes) > 1 and sizes[-1] == 1:
        sizes.pop()
    return f"{name or 'no name'} {kind} [{', '.join(map(str, sizes))}]"


def _notes(found: Location) -> tuple[Prose, ...]:
    notes: list[Prose] = []
    if len(found.further) > 1:
        first = found.further[0]
        notes.append(
            f"{len(found.further)} operations are too far; {found.same_operation} of them are"
            f" {first.operation} of {first.source_types[0] if first.source_types else 'nothing'}"
        )
    if found.n_alone:
        notes.append(
            f"{found.n_alone} nodes of the second have no counterpart in the first; what they"
            " compute counts at the next node that has one"
        )
    return tuple(notes)
