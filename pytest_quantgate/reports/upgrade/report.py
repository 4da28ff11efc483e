"""The report of an upgrade: what moved, by how much, how sure, why; and what did not."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence

from pytest_quantgate.gate.compare.cell import CellChange, Support
from pytest_quantgate.gate.compare.comparison import Comparison
from pytest_quantgate.reports.layout import escape, markdown_table
from pytest_quantgate.reports.upgrade.facts import (
    cost_lines,
    engine_lines,
    engine_name,
    equal_formats_lines,
    least_to_most,
    settings_lines,
    support_lines,
)
from pytest_quantgate.reports.upgrade.texts import (
    HEADINGS,
    explanation,
    is_rounding,
    largest_text,
    name_some,
    names,
    ordered,
    row,
    shift_text,
    short,
)
from pytest_quantgate.results.record import CellRecord

MOST_ROWS = 25
"""Rows of what moved within the limits that stand open; the others are folded away."""

_GIVES_WAY = ("how sure", "mean KLD, same top", "size")
"""The columns that a narrow terminal does without; a Markdown report has them."""

_NAMED = 3
"""As many red cells are named in the headline; more are counted."""


def title(found: Comparison) -> str:
    """Name both engines."""
    old, new = engine_name(found.old), engine_name(found.new)
    what = "Upgrade" if found.is_one_run else "Comparison"
    if old == new:
        same = found.old.get("library_sha256") == found.new.get("library_sha256")
        return f"{what}: {new} against {'itself' if same else f'another build of {new}'}"
    kind = found.old.get("kind")
    if kind is not None and kind == found.new.get("kind"):
        new = new.removeprefix(str(kind)).strip()
    return f"{what}: {old} → {new}"


def headline(found: Comparison) -> str:
    """Say in one line whether anything is worse, and how much moved."""
    red, n_cells = ordered(found.red), len(found.cells)
    still = [cell for cell in found.cells if cell.is_compared and not cell.moved]
    within = [cell for cell in found.moved if not cell.is_red]
    tokens = sum(cell.ppl.tokens for cell in still if cell.ppl is not None)
    if n_cells and len(still) == n_cells:
        if not tokens:
            which = _count(n_cells)
            return f"No change: the same tensors and sizes in {which}; no text was scored."
        return f"No change: {_identical(still)} on {_count(n_cells)}, {tokens:,} tokens."
    if len(red) > _NAMED:
        kinds = Counter(cell.verdict.kind.value for cell in red)
        counts = ", ".join(f"{count} {kind}" for kind, count in kinds.items())
        parts = [f"{len(red)} of {_count(n_cells)} are red: {counts}"]
    elif red:
        told = ", ".join(map(short, red))
        parts = [f"{len(red)} of {_count(n_cells)} {'is' if red[1:] == [] else 'are'} red: {told}"]
    else:
        parts = [f"None of {_count(n_cells)} is worse than its limits"]
    if within:
        most = largest_text(within)
        parts.append(f"{len(within)} moved within the limits{f', {most}' if most else ''}")
    if still:
        parts.append(f"{len(still)} {_identical(still) if tokens else 'unchanged'}")
    for support, words in (
        (Support.NEW_ONLY, "that only the new engine can make"),
        (Support.NEITHER, "that neither engine can make"),
    ):
        count = sum(cell.support is support and not cell.is_red for cell in found.cells)
        if count:
            parts.append(f"{count} {words}")
    return "; ".join(parts) + "."


def _identical(cells: Iterable[CellChange]) -> str:
    """Say how equal cells are that did not move."""
    records = [record for change in cells for record in (change.old, change.new)]
    exact = all(record.chunks.is_exact for record in records)
    return "bit-identical" if exact else "identical to the digits printed"


def _count(n_cells: int) -> str:
    return f"{n_cells} cell" if n_cells == 1 else f"{n_cells} cells"


def upgrade_lines(found: Comparison, width: int) -> list[str]:
    """Lay out for a terminal of so many columns what moved, below the engines and the headline.

    Where not all columns fit, those of ``_GIVES_WAY`` are left out, one after the other.
    """
    shown, folded = _open_and_folded(ordered(found.moved))
    lines = [title(found), headline(found)]
    if shown:
        lines += _fitting([HEADINGS, *map(row, shown)], width)
    if folded:
        lines.append(f"{_folded(folded)}; a Markdown report has them all")
    lines += [f"note: {text}" for text in (*support_lines(found), *_not_compared_lines(found))]
    return [line.replace("`", "").replace("**", "") for line in lines]


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


def _fitting(grid: Sequence[tuple[str, ...]], width: int) -> list[str]:
    columns = list(zip(*grid, strict=True))
    for heading in (None, *_GIVES_WAY):
        columns = [column for column in columns if column[0] != heading]
        widths = [max(map(len, column)) for column in columns]
        if sum(widths) + 2 * (len(widths) - 1) <= width:
            break
    return [
        "  ".join(text.ljust(room) for text, room in zip(texts, widths, strict=True)).rstrip()
        for texts in zip(*columns, strict=True)
    ]


def upgrade_markdown(found: Comparison) -> str:
    """Write the report as GitHub's Markdown, ready for a pull request."""
    lines = [f"# {title(found)}", "", f"**{headline(found)}**", "", *engine_lines(found)]
    formats = [*support_lines(found), *equal_formats_lines(found)]
    for heading, section in (
        ("What moved", _moved(found)),
        ("Which half of the engine", _two_by_two(found)),
        ("Format support", [f"- {text}" for text in formats]),
        ("Speed and memory", cost_lines(found)),
        ("What did not move", _still(found)),
        ("What could not be compared", [f"- {text}" for text in _not_compared_lines(found)]),
        ("Settings", settings_lines(found)),
    ):
        if section:
            lines += ["", f"## {heading}", "", *section]
    return "\n".join(lines) + "\n"


def _moved(found: Comparison) -> list[str]:
    moved = [change for change in ordered(found.moved) if change.is_compared or change.is_red]
    if not moved:
        return []
    shown, folded = _open_and_folded(moved)
    lines = markdown_table(HEADINGS, map(_row, shown)) if shown else []
    if folded:
        lines += [""] * bool(shown) + ["<details>", f"<summary>{_folded(folded)}</summary>", ""]
        lines += [*markdown_table(HEADINGS, map(_row, folded)), "", "</details>"]
    groups: dict[tuple[str, str], list[CellChange]] = {}
    for change in moved:
        if change.is_compared:
            groups.setdefault((change.cause_name, explanation(change)), []).append(change)
    if groups:
        lines += ["", "Why:", ""]
    for (cause, why), changes in groups.items():
        which = names(changes) if len(changes) <= _NAMED else _count(len(changes))
        lines.append(f"- **{cause}** ({which}): {why}")
    return [*lines, *_evidence([change for change in moved if change.is_red])]


def _evidence(red: Sequence[CellChange]) -> list[str]:
    """Give the full reason and cause of each red cell, of many folded away."""
    lines = []
    for change in red:
        cause = change.verdict.cause or (str(change.cause) if change.cause else "")
        lines.append(f"- `{change.new.id}` **{change.verdict.kind.value}**:")
        lines += [f"  - {escape(text)}" for text in (change.verdict.reason, cause) if text]
    if len(red) <= _NAMED:
        return ["", "What is red, in full:", "", *lines] if red else []
    summary = f"<summary>What is red, in full: {len(red)} cells</summary>"
    return ["", "<details>", summary, "", *lines, "", "</details>"]


def _row(change: CellChange) -> tuple[str, ...]:
    name, verdict, *rest = row(change)
    return (f"`{name}`", f"**{verdict}**" if change.is_red else verdict, *rest)


def _two_by_two(found: Comparison) -> list[str]:
    """Say which half of the engine moved what, where both files differ."""
    rows = []
    for change in ordered(found.moved):
        effects = change.effects
        if effects is None or effects.is_same_file:
            continue
        shifts = (effects.quantizer, effects.runtime, effects.together, effects.left_over)
        rows.append((f"`{change.new.id}`", *map(shift_text, shifts)))
    if not rows:
        return []
    headings = ("ΔPPL [95 %]", "quantizer alone", "runtime alone", "together", "left over")
    return [
        "The new quantizer's file on the old runtime, the old file on the new runtime, and both"
        " new, each against both old; left over is what the first two do not add up to.",
        "",
        *markdown_table(headings, rows),
    ]


def _still(found: Comparison) -> list[str]:
    """Group what did not move by model, device and text."""
    groups: dict[str, list[CellChange]] = {}
    for change in found.cells:
        if change.is_compared and not change.moved:
            record = change.new
            text = f", text {record.text}" if record.text else ""
            groups.setdefault(f"{record.model} on {record.device}{text}", []).append(change)
    lines = []
    for where, changes in groups.items():
        formats = ", ".join(_format(change.new) for change in changes)
        chunks = [change.ppl.chunks for change in changes if change.ppl is not None]
        same = "the same tensors and size; no text was scored"
        if chunks:
            same = f"same file, {_identical(changes)} on {least_to_most(chunks)} chunks"
        lines.append(f"- {where}: {formats}: {same}")
    return lines


def _format(record: CellRecord) -> str:
    return record.format if record.imatrix is None else f"{record.format} + {record.imatrix}"


def _not_compared_lines(found: Comparison) -> list[str]:
    """Say which cells could not be compared, and which one side alone has."""
    lines: list[str] = []
    reasons: dict[str, list[CellChange]] = {}
    for change in found.cells:
        if change.obstacle is not None:
            reasons.setdefault(escape(change.obstacle), []).append(change)
    for why, changes in reasons.items():
        lines.append(f"{names(changes)}: {why}")
    for side, records in (("old", found.only_old), ("new", found.only_new)):
        if records:
            which = name_some([record.id for record in records])
            lines.append(f"only in the {side} run: {which}")
    return [*lines, *map(escape, found.incomplete)]
