"""The report of an upgrade: what moved, by how much, how sure, why; and what did not."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from pytest_quantgate.changes.cell import CellChange, Support, comparing_limits
from pytest_quantgate.changes.comparison import Comparison
from pytest_quantgate.hardware import only_differing
from pytest_quantgate.metrics.speed import PHASES
from pytest_quantgate.report.change_texts import (
    HEADINGS,
    explanation,
    largest_text,
    names,
    ordered,
    peak_text,
    row,
    shift_text,
    short,
    speed_text,
)
from pytest_quantgate.report.record import CellRecord
from pytest_quantgate.report.sections import Section, section_lines
from pytest_quantgate.worker.messages import UNKNOWN

MOST_ROWS = 25
"""Rows of what moved within the limits that stand open; the others are folded away."""

_NAMED = 3
"""As many red cells are named in the headline; more are counted."""

_LIMITS = {
    "ppl_vs_baseline": "PPL",
    "kld_vs_baseline": "mean KLD",
    "size_vs_baseline": "size",
    "routing_vs_baseline": "changed routes",
    "prefill_vs_baseline": "prefill",
    "decode_vs_baseline": "decode",
    "speed_vs_same_hardware": "speed",
    "resident_vs_baseline": "memory",
    "resident_vs_same_hardware": "memory",
}


def title(found: Comparison) -> str:
    """Name both engines."""
    old, new = _label(found.old), _label(found.new)
    what = "Upgrade" if found.is_one_run else "Comparison"
    if old == new:
        same = found.old.get("library_sha256") == found.new.get("library_sha256")
        return f"{what}: {new} against {'itself' if same else f'another build of {new}'}"
    kind = found.old.get("kind")
    if kind is not None and kind == found.new.get("kind"):
        new = new.removeprefix(str(kind)).strip()
    return f"{what}: {old} → {new}"


def _label(engine: Mapping[str, Any]) -> str:
    if "version" not in engine:
        return "unknown engine"
    return f"{engine['kind']} {engine['version']}".strip()


def headline(found: Comparison) -> str:
    """Say in one line whether anything is worse, and how much moved."""
    red, n_cells = ordered(found.red), len(found.cells)
    still = [cell for cell in found.cells if cell.is_compared and not cell.moved]
    within = [cell for cell in found.moved if not cell.is_red]
    tokens = sum(cell.ppl.tokens for cell in still if cell.ppl is not None)
    if n_cells and len(still) == n_cells:
        on_tokens = f", {tokens:,} tokens" if tokens else ""
        return f"No change: bit-identical on {_count(n_cells)}{on_tokens}."
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
        parts.append(f"{len(still)} bit-identical")
    for support, words in (
        (Support.NEW_ONLY, "that only the new engine can make"),
        (Support.NEITHER, "that neither engine can make"),
    ):
        count = sum(cell.support is support and not cell.is_red for cell in found.cells)
        if count:
            parts.append(f"{count} {words}")
    return "; ".join(parts) + "."


def _count(n_cells: int) -> str:
    return f"{n_cells} cell" if n_cells == 1 else f"{n_cells} cells"


def upgrade_lines(found: Comparison) -> list[str]:
    """Lay out for a terminal what moved, below the engines and the headline."""
    moved = ordered(found.moved)
    lines = [title(found), headline(found)]
    if moved:
        section = Section(title="", headings=HEADINGS, rows=tuple(map(row, moved[:MOST_ROWS])))
        lines += section_lines(section)[2:]
    if len(moved) > MOST_ROWS:
        lines.append(f"{len(moved) - MOST_ROWS} more cells moved; a Markdown report has them all")
    lines += [f"note: {text}" for text in (*_support_lines(found), *_not_compared_lines(found))]
    return [line.replace("`", "").replace("**", "") for line in lines]


def _first(text: str | None) -> str:
    return text.splitlines()[0] if text else ""


def upgrade_markdown(found: Comparison) -> str:
    """Write the report as GitHub's Markdown, ready for a pull request."""
    lines = [f"# {title(found)}", "", f"**{headline(found)}**", ""]
    lines += _engines(found)
    lines += _moved(found)
    lines += _two_by_two(found)
    support = _support_lines(found)
    if support:
        lines += ["", "## Format support", ""]
        lines += [f"- {text}" for text in support]
    lines += _costs(found)
    lines += _still(found)
    apart = _not_compared_lines(found)
    if apart:
        lines += ["", "## What could not be compared", "", *(f"- {text}" for text in apart)]
    lines += ["", "## Settings", "", *_settings(found)]
    return "\n".join(lines) + "\n"


def _table(headings: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    lines = ["| " + " | ".join(headings) + " |", "|" + "---|" * len(headings)]
    for texts in rows:
        plain = (text.replace("|", "\\|").replace("\n", " ") for text in texts)
        lines.append("| " + " | ".join(plain) + " |")
    return lines


def _engines(found: Comparison) -> list[str]:
    """Say what both engines are; what is equal stands once."""
    old, new = found.old, found.new
    rows = []
    for name, heading in (
        ("version", "engine"),
        ("llama_cpp_version", "llama.cpp"),
        ("commit", "commit"),
        ("library_sha256", "libraries"),
        ("system_info", "build"),
        ("build_options", "build options"),
        ("python_version", "Python"),
        ("cpu_name", "processor"),
        ("platform", "platform"),
        ("error", "error"),
    ):
        before, after = str(old.get(name, "")), str(new.get(name, ""))
        if name == "version":
            before, after = _label(old), _label(new)
        if name == "library_sha256":
            before, after = (f"`{digest[:12]}`" if digest else "" for digest in (before, after))
        if name in {"system_info", "build_options"} and before != after:
            before, after = only_differing(before, after)
        if {before, after} - {"", UNKNOWN}:
            rows.append((heading, before or "–", "same" if before == after else after or "–"))
    return _table(("", "old", "new"), rows)


def _moved(found: Comparison) -> list[str]:
    moved = [change for change in ordered(found.moved) if change.is_compared or change.is_red]
    if not moved:
        return []
    red = sum(change.is_red for change in moved)
    open_rows, folded = moved[: red + MOST_ROWS], moved[red + MOST_ROWS :]
    lines = ["", "## What moved", "", *_table(HEADINGS, map(_row, open_rows))]
    if folded:
        lines += ["", "<details>", f"<summary>{len(folded)} more within the limits</summary>", ""]
        lines += [*_table(HEADINGS, map(_row, folded)), "", "</details>"]
    groups: dict[tuple[str, str], list[CellChange]] = {}
    for change in moved:
        if change.is_compared:
            groups.setdefault((change.cause_name, explanation(change)), []).append(change)
    if groups:
        lines += ["", "Why:", ""]
    for (cause, why), changes in groups.items():
        which = names(changes) if len(changes) <= 4 else _count(len(changes))
        lines.append(f"- **{cause}** ({which}): {why}")
    evidence = [change for change in moved if change.is_red]
    if evidence:
        lines += ["", "<details>", "<summary>Evidence of what is red</summary>", ""]
        for change in evidence:
            cause = change.verdict.cause or (str(change.cause) if change.cause else "")
            lines.append(f"- `{change.new.id}` {change.verdict.kind.value}:")
            lines.append(f"  {_escape(change.verdict.reason)}")
            lines += [f"  {_escape(cause)}"] if cause else []
        lines += ["", "</details>"]
    return lines


def _row(change: CellChange) -> tuple[str, ...]:
    name, verdict, *rest = row(change)
    return (f"`{name}`", f"**{verdict}**" if change.is_red else verdict, *rest)


def _escape(text: str) -> str:
    return " ".join(text.replace("|", "\\|").split())


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
        "",
        "## Which half of the engine",
        "",
        "The new quantizer's file on the old runtime, the old file on the new runtime, and both"
        " new, each against both old; left over is what the first two do not add up to.",
        "",
        *_table(headings, rows),
    ]


def _support_lines(found: Comparison) -> list[str]:
    """Say what one engine can make and measure that the other cannot, and what neither can."""
    lines = []
    for change in found.cells:
        name = f"`{change.new.id}`"
        match change.support:
            case Support.NEW_ONLY:
                lines.append(f"{name}: only the new engine can; the old one {_why(change.old)}")
            case Support.OLD_ONLY:
                lines.append(f"{name}: **no longer**; the new engine {_why(change.new)}")
            case Support.NEITHER:
                lines.append(f"{name}: neither engine can; the new one {_why(change.new)}")
    return [*lines, *_formats_lines(found.old.get("formats"), found.new.get("formats"))]


def _formats_lines(old: Any, new: Any) -> list[str]:
    """Say which formats and tensor types only one engine knows, in the profile or not."""
    if not isinstance(old, Mapping) or not isinstance(new, Mapping):
        return []
    lines = []
    for key, what in (("writes", "formats"), ("tensor_types", "tensor types")):
        if not old[key] or not new[key]:
            continue  # an engine that cannot tell
        for words, has, lacks in (
            ("only the new engine has", new, old),
            ("**only the old engine has**", old, new),
        ):
            apart = [name for name in has[key] if name not in lacks[key]]
            if apart:
                lines.append(f"{words} the {what} {_code(apart)}{_refusal(lacks, apart[0])}")
        if set(old[key]) == set(new[key]):
            lines.append(f"both have the same {len(new[key])} {what}")
    return lines


def _code(names: Sequence[str]) -> str:
    return ", ".join(f"`{name}`" for name in names)


def _refusal(engine: Mapping[str, Any], name: str) -> str:
    reason = engine["refuses"].get(name)
    return f" (of {name} the other says: {_escape(reason)})" if reason else ""


def _why(record: CellRecord) -> str:
    return f"gave {record.verdict}: {_escape(_first(record.reason))}"


def _costs(found: Comparison) -> list[str]:
    """Tell speed and memory, or that they were not measured or cannot be compared."""
    lines = ["", "## Speed and memory", ""]
    rows = []
    paired = False
    for change in found.cells:
        costs = change.costs
        if not costs.speed and costs.peak_bytes is None:
            continue
        by_phase = {item.phase: item for item in costs.speed}
        paired = paired or any(item.is_paired for item in costs.speed)
        rows.append(
            (
                f"`{change.new.id}`",
                *(speed_text(by_phase.get(phase)) for phase in PHASES),
                peak_text(change),
            )
        )
    reasons = dict.fromkeys(why for change in found.cells for why in change.costs.not_compared)
    if not rows and not reasons:
        return [
            *lines,
            "Not measured. `speed = true` and `memory = true` in the profile measure them.",
        ]
    if rows:
        lines += _table(("cell", *(f"{phase} [95 %]" for phase in PHASES), "peak MB"), rows)
    if rows and not paired and any(change.costs.speed for change in found.cells):
        lines += [
            "",
            "The speeds are of two sessions: what moved between them is not in the interval.",
        ]
    lines += [f"- Not compared: {why}" for why in reasons]
    return lines


def _still(found: Comparison) -> list[str]:
    """Group what did not move by model, device and text."""
    groups: dict[str, list[CellChange]] = {}
    for change in found.cells:
        if change.is_compared and not change.moved:
            record = change.new
            text = f", text {record.text}" if record.text else ""
            groups.setdefault(f"{record.model} on {record.device}{text}", []).append(change)
    if not groups:
        return []
    lines = ["", "## What did not move", ""]
    for where, changes in groups.items():
        formats = ", ".join(_format(change.new) for change in changes)
        chunks = [change.ppl.chunks for change in changes if change.ppl is not None]
        on_chunks = f" on {_range(chunks)} chunks" if chunks else ""
        lines.append(f"- {where}: {formats}: same file, bit-identical{on_chunks}")
    return lines


def _format(record: CellRecord) -> str:
    return record.format if record.imatrix is None else f"{record.format} + {record.imatrix}"


def _range(numbers: Sequence[int]) -> str:
    low, high = min(numbers), max(numbers)
    return str(low) if low == high else f"{low} to {high}"


def _not_compared_lines(found: Comparison) -> list[str]:
    """Say which cells could not be compared, and which one side alone has."""
    lines: list[str] = []
    reasons: dict[str, list[CellChange]] = {}
    for change in found.cells:
        if change.obstacle is not None:
            reasons.setdefault(_escape(change.obstacle), []).append(change)
    for why, changes in reasons.items():
        lines.append(f"{names(changes)}: {why}")
    for side, records in (("old", found.only_old), ("new", found.only_new)):
        if records:
            which = ", ".join(f"`{record.id}`" for record in records)
            lines.append(f"only in the {side} run: {which}")
    return lines


def _settings(found: Comparison) -> list[str]:
    """Say under which settings and limits this holds, and how to repeat it."""
    settings = found.settings
    told = [
        f"{name} {settings[name]}"
        for name in ("n_ctx", "n_batch", "n_ubatch", "n_threads", "type_k", "type_v", "chunks")
        if settings.get(name) is not None
    ]
    if "flash_attention" in settings:
        told.append(f"flash attention {'on' if settings['flash_attention'] else 'off'}")
    told += [
        f"text {name} (SHA-256 {str(digest)[:12]})"
        for name, digest in dict(settings.get("texts") or {}).items()
    ]
    lines = [f"- {', '.join(told)}"] if told else []
    if found.settings_changed:
        lines.append(f"- settings that differ: {'; '.join(found.settings_changed)}")
    limits = limits_text(found.cells)
    if limits:
        lines.append(f"- limits: {limits}")
    if found.command:
        lines.append(f"- again: `{found.command}`")
    return lines


def limits_text(changes: Iterable[CellChange]) -> str:
    """Say which limits were used; where formats have limits of their own, of which formats."""
    values: dict[str, dict[float, list[str]]] = {}
    for change in changes:
        for name, value in comparing_limits(change.new).model_dump(exclude_none=True).items():
            formats = values.setdefault(name, {}).setdefault(float(value), [])
            if change.new.format not in formats:
                formats.append(change.new.format)
    parts = []
    for name, word in _LIMITS.items():
        by_value = values.get(name, {})
        for value, formats in sorted(by_value.items()):
            of_formats = f" ({', '.join(formats)})" if len(by_value) > 1 else ""
            parts.append(f"{word} {100 * value:+g} %{of_formats}".replace("-", "−"))
    return ", ".join(parts)
