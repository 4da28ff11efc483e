"""The report of an upgrade: what moved, by how much, how sure, why; and what did not."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence

from pytest_quantgate.gate.compare.cell import CellChange, Support
from pytest_quantgate.gate.compare.common_shift import shifts_of_comparison
from pytest_quantgate.gate.compare.comparison import Comparison
from pytest_quantgate.reports.blocks import (
    Block,
    Bullets,
    Folded,
    Heading,
    Paragraph,
    Prose,
    Span,
    Table,
    bullets,
    code,
    intervals,
    listed,
    row,
    section,
    spans,
    strong,
)
from pytest_quantgate.reports.common_shift import common_shift_blocks
from pytest_quantgate.reports.run_tables import label
from pytest_quantgate.reports.upgrade.facts import (
    costs,
    engine_blocks,
    engine_name,
    equal_formats,
    figures,
    settings,
    support,
)
from pytest_quantgate.reports.upgrade.texts import (
    COLUMNS,
    explanation,
    is_rounding,
    largest_text,
    moved_row,
    name_some,
    names,
    ordered,
    shift_text,
    short,
)
from pytest_quantgate.reports.words import count, span_of
from pytest_quantgate.results.engine_facts import EngineFacts

MOST_ROWS = 25
"""Rows of what moved within the limits that stand open; the others are folded away."""

_NAMED = 3
"""As many red cells are named in the headline; more are counted."""


def title(comparison: Comparison) -> str:
    """Name both engines."""
    old, new = engine_name(comparison.old), engine_name(comparison.new)
    what = "Upgrade" if comparison.is_one_run else "Comparison"
    if old == new:
        same = comparison.old.get("library_sha256") == comparison.new.get("library_sha256")
        return f"{what}: {new} against {'itself' if same else f'another build of {new}'}"
    engines = [EngineFacts.read(side) for side in (comparison.old, comparison.new)]
    if engines[0].kind == engines[1].kind and engines[1].version:
        new = engines[1].version
    return f"{what}: {old} → {new}"


def headline(comparison: Comparison) -> tuple[str | Span, ...]:
    """Return in one line whether anything is worse, and how much moved."""
    red, n_cells = ordered(comparison.red), len(comparison.cells)
    still = [cell for cell in comparison.cells if cell.is_compared and not cell.moved]
    within = [cell for cell in comparison.moved if not cell.is_red]
    tokens = sum(cell.ppl.tokens for cell in still if cell.ppl is not None)
    of_cells = count(n_cells, "cell")
    if n_cells and len(still) == n_cells:
        if not tokens:
            return (f"No change: the same tensors and sizes in {of_cells}; no text was scored.",)
        return (f"No change: {_identical(still)} on {of_cells}, {tokens:,} tokens.",)
    parts: list[Prose] = []
    verb = "is" if len(red) == 1 else "are"
    if len(red) > _NAMED:
        kinds = Counter(cell.verdict.kind.value for cell in red)
        counts = ", ".join(f"{number} {kind}" for kind, number in kinds.items())
        parts.append(f"{len(red)} of {of_cells} are red: {counts}")
    elif red:
        parts.append(spans(f"{len(red)} of {of_cells} {verb} red: ", listed(map(short, red))))
    else:
        parts.append(f"None of {of_cells} is worse than its limits")
    if within:
        most = largest_text(within)
        parts.append(f"{len(within)} moved within the limits{f', {most}' if most else ''}")
    if still:
        parts.append(f"{len(still)} {_identical(still) if tokens else 'unchanged'}")
    for kind, what in (
        (Support.NEW_ONLY, "that only the new engine can make"),
        (Support.NEITHER, "that neither engine can make"),
    ):
        number = sum(cell.support is kind and not cell.is_red for cell in comparison.cells)
        if number:
            parts.append(f"{number} {what}")
    return spans(listed(parts, "; "), ".")


def _identical(cells: Iterable[CellChange]) -> str:
    """Return how equal the cells are that did not move."""
    records = [record for change in cells for record in (change.old, change.new)]
    exact = all(record.chunks.is_exact for record in records)
    return "bit-identical" if exact else "identical to the digits printed"


def brief_blocks(comparison: Comparison) -> list[Block]:
    """Return what moved, for the end of a run on a terminal."""
    shown, folded = _open_and_folded(ordered(comparison.moved))
    notes = (*support(comparison), *_not_compared(comparison))
    together = common_shift_blocks(shifts_of_comparison(comparison))
    blocks: list[Block] = [
        Heading(text=title(comparison), level=1),
        Paragraph(text=headline(comparison)),
    ]
    if shown:
        blocks.append(Table(columns=COLUMNS, rows=tuple(map(moved_row, shown))))
    if folded:
        blocks.append(Folded(summary=_folded(folded), blocks=()))
    return [*blocks, *together, *bullets(spans("note: ", note) for note in notes)]


def _open_and_folded(
    moved: Sequence[CellChange],
) -> tuple[list[CellChange], list[CellChange]]:
    """Part what stands open from what is folded away: rounding, and what is too much."""
    clear = [change for change in moved if not is_rounding(change)]
    shown = clear[: sum(change.is_red for change in moved) + MOST_ROWS]
    return shown, [change for change in moved if change not in shown]


def _folded(changes: Sequence[CellChange]) -> str:
    most = largest_text(changes)
    return f"{len(changes)} more moved within the limits{f', {most}' if most else ''}"


def upgrade_blocks(comparison: Comparison) -> list[Block]:
    """Return the report, ready for a pull request."""
    formats = bullets([*support(comparison), *equal_formats(comparison)])
    return [
        Heading(text=title(comparison), level=1),
        Paragraph(text=(*headline(comparison),), is_strong=True),
        *engine_blocks(comparison),
        *section("What moved", _moved(comparison)),
        *section("Which half of the engine", _two_by_two(comparison)),
        *section("Format support", formats),
        *section("Speed and memory", costs(comparison)),
        *section("Further figures", figures(comparison)),
        *section("What did not move", _still(comparison)),
        *section("What could not be compared", bullets(_not_compared(comparison))),
        *section("Settings", bullets(settings(comparison))),
    ]


def _moved(comparison: Comparison) -> list[Block]:
    moved = [change for change in ordered(comparison.moved) if change.is_compared or change.is_red]
    shown, folded = _open_and_folded(moved)
    blocks: list[Block] = []
    if shown:
        blocks.append(Table(columns=COLUMNS, rows=tuple(map(moved_row, shown))))
    if folded:
        table = Table(columns=COLUMNS, rows=tuple(map(moved_row, folded)))
        blocks.append(Folded(summary=_folded(folded), blocks=(table,)))
    blocks += common_shift_blocks(shifts_of_comparison(comparison))
    groups: dict[tuple[str, str], list[CellChange]] = {}
    for change in moved:
        if change.is_compared:
            groups.setdefault((change.cause_name, explanation(change)), []).append(change)
    causes: list[Prose] = []
    for (cause, why), changes in groups.items():
        which = names(changes) if len(changes) <= _NAMED else count(len(changes), "cell")
        causes.append(spans(strong(cause), " (", which, f"): {why}"))
    if causes:
        blocks += [Paragraph(text="Why:"), Bullets(items=tuple(causes))]
    return [*blocks, *_evidence([change for change in moved if change.is_red])]


def _evidence(red: Sequence[CellChange]) -> list[Block]:
    """Return the full reason and cause of each red cell, of many folded away."""
    if not red:
        return []
    items: list[Prose] = []
    below: list[tuple[Prose, ...]] = []
    for change in red:
        cause = str(change.verdict.cause or change.cause or "")
        items.append((code(change.new.id), " ", strong(change.verdict.kind.value), ":"))
        below.append(tuple(filter(None, (change.verdict.reason, cause))))
    evidence = Bullets(items=tuple(items), below=tuple(below))
    if len(red) <= _NAMED:
        return [Paragraph(text="What is red, in full:"), evidence]
    summary = f"What is red, in full: {len(red)} cells"
    return [Folded(summary=summary, blocks=(evidence,))]


def _two_by_two(comparison: Comparison) -> list[Block]:
    """Return which half of the engine moved what, where both files differ."""
    rows = []
    for change in ordered(comparison.moved):
        effects = change.effects
        if effects is None or effects.is_same_file:
            continue
        shifts = (effects.quantizer, effects.runtime, effects.together, effects.left_over)
        rows.append(row((code(change.new.id),), *map(shift_text, shifts)))
    if not rows:
        return []
    headings = ("ΔPPL [95 %]", "quantizer alone", "runtime alone", "together", "left over")
    return [
        Paragraph(
            text="The new quantizer's file on the old runtime, the old file on the new runtime,"
            " and both new, each against both old; left over is what the first two do not add up"
            " to."
        ),
        Table(columns=tuple(map(intervals, headings)), rows=tuple(rows)),
    ]


def _still(comparison: Comparison) -> list[Block]:
    """Group what did not move by model, device and text."""
    groups: dict[str, list[CellChange]] = {}
    for change in comparison.cells:
        if change.is_compared and not change.moved:
            record = change.new
            text = f", text {record.text_name}" if record.text else ""
            groups.setdefault(f"{record.model} on {record.device}{text}", []).append(change)
    lines: list[Prose] = []
    for where, changes in groups.items():
        formats = ", ".join(label(change.new) for change in changes)
        chunks = [change.ppl.chunks for change in changes if change.ppl is not None]
        same = "the same tensors and size; no text was scored"
        if chunks:
            same = f"same file, {_identical(changes)} on {span_of(chunks)} chunks"
        lines.append(f"{where}: {formats}: {same}")
    return bullets(lines)


def _not_compared(comparison: Comparison) -> list[Prose]:
    """Return which cells could not be compared, and which one side alone has."""
    lines: list[Prose] = []
    reasons: dict[str, list[CellChange]] = {}
    for change in comparison.cells:
        if change.obstacle is not None:
            reasons.setdefault(str(change.obstacle), []).append(change)
    for why, changes in reasons.items():
        lines.append(spans(names(changes), f": {why}"))
    for side, records in (("old", comparison.only_old), ("new", comparison.only_new)):
        if records:
            which = name_some([record.id for record in records])
            lines.append(spans(f"only in the {side} run: ", which))
    return [*lines, *comparison.incomplete]
