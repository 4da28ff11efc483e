"""What stands around an upgrade's table: engines, formats, speed and memory, settings."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from pytest_quantgate.config.limit import ALL_DOMAINS
from pytest_quantgate.config.metrics import LIMITS, METRIC_OF, METRICS
from pytest_quantgate.engines.messages import UNKNOWN
from pytest_quantgate.gate.compare.cell import CellChange, Support, comparing_limits
from pytest_quantgate.gate.compare.comparison import Comparison
from pytest_quantgate.reports.blocks import (
    Block,
    Bullets,
    Column,
    Paragraph,
    Prose,
    Row,
    Table,
    code,
    intervals,
    listed,
    row,
    spans,
    strong,
    words,
)
from pytest_quantgate.reports.run_tables import figure_text
from pytest_quantgate.reports.upgrade.texts import peak_text, speed_text
from pytest_quantgate.reports.words import first_line, span_of
from pytest_quantgate.results.engine_facts import EngineFacts, KnownFormats
from pytest_quantgate.results.hardware import only_differing
from pytest_quantgate.results.measurements.speed import PHASES
from pytest_quantgate.results.record import CellRecord

_ENGINE = (
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
)
"""What is shown of an engine, and its name."""

_OPTIONS = frozenset({"system_info", "build_options"})
"""Facts that are lists of options, of which only those that differ are shown."""


def engine_name(engine: Mapping[str, Any]) -> str:
    """Return an engine's kind and version."""
    return EngineFacts.read(engine).name


def engine_blocks(comparison: Comparison) -> list[Block]:
    """Return a table of what differs between both engines, and below it what is the same."""
    rows: list[Row] = []
    same: list[Prose] = []
    for name, heading in _ENGINE:
        before, after = (_fact(engine, name) for engine in (comparison.old, comparison.new))
        if not {before, after} - {"", UNKNOWN}:
            continue
        if before == after:
            same.append(spans(f"{heading} ", _shown(name, before)))
            continue
        if name in _OPTIONS and before and after:
            before, after = only_differing(before, after)
        rows.append(row(heading, *(_cell(name, text or UNKNOWN) for text in (before, after))))
    blocks: list[Block] = []
    if rows:
        blocks.append(Table(columns=(words(""), words("old"), words("new")), rows=tuple(rows)))
    if same:
        blocks.append(Paragraph(text=spans("The same on both: ", listed(same, "; "), ".")))
    return blocks


def _fact(engine: Mapping[str, Any], name: str) -> str:
    if name == "version":
        return engine_name(engine)
    text = str(engine.get(name, ""))
    return text[:12] if name == "library_sha256" else text


def _cell(name: str, text: str) -> Prose:
    is_hash = name == "library_sha256" and text != UNKNOWN
    return (code(text),) if is_hash else text


def _shown(name: str, fact: str) -> Prose:
    """Shorten llama.cpp's line of options, ``CPU : AVX2 = 1 | FMA = 1 |``, to those that are on."""
    if name not in _OPTIONS:
        return _cell(name, fact)
    options = [option.strip() for option in fact.replace(":", "|").split("|")]
    return " ".join(option.removesuffix(" = 1") for option in options if option)


def support(comparison: Comparison) -> list[Prose]:
    """Return what one engine can make and measure that the other cannot, and what neither can."""
    lines: list[Prose] = []
    for change in comparison.cells:
        name = code(change.new.id)
        match change.support:
            case Support.NEW_ONLY:
                text = f": only the new engine can; the old one {_why(change.old)}"
                lines.append(spans(name, text))
            case Support.OLD_ONLY:
                text = f"; the new engine {_why(change.new)}"
                lines.append(spans(name, ": ", strong("no longer"), text))
            case Support.NEITHER:
                lines.append(spans(name, f": neither engine can; the new one {_why(change.new)}"))
        for crossed in change.unreadable:
            side, other = ("new", "old") if crossed.engine == change.new.engine else ("old", "new")
            text = f": with the {other} engine's file the {side} one {_why(crossed)}"
            lines.append(spans(name, text))
    formats = (EngineFacts.read(side).formats for side in (comparison.old, comparison.new))
    return [*lines, *_formats(*formats)]


def _known(
    old: KnownFormats, new: KnownFormats
) -> tuple[tuple[str, tuple[str, ...], tuple[str, ...]], ...]:
    """Return what both engines know of each kind; nothing where one cannot say."""
    kinds = (
        ("formats", old.writes, new.writes),
        ("tensor types", old.tensor_types, new.tensor_types),
    )
    return tuple((what, of_old, of_new) for what, of_old, of_new in kinds if of_old and of_new)


def _formats(old: KnownFormats | None, new: KnownFormats | None) -> list[Prose]:
    """Return which formats and tensor types only one engine knows, in the profile or not."""
    if old is None or new is None:
        return []
    lines: list[Prose] = []
    for what, of_old, of_new in _known(old, new):
        for lead, has, lacks, other in (
            ("only the new engine has", of_new, of_old, old),
            (strong("only the old engine has"), of_old, of_new, new),
        ):
            apart = [name for name in has if name not in lacks]
            if apart:
                which = listed(map(code, apart))
                lines.append(spans(lead, f" the {what} ", which, _refusal(other, apart[0])))
    return lines


def equal_formats(comparison: Comparison) -> list[Prose]:
    """Return how many formats and tensor types both engines have where neither has others."""
    old, new = (EngineFacts.read(side).formats for side in (comparison.old, comparison.new))
    if old is None or new is None:
        return []
    return [
        f"both have the same {len(of_new)} {what}"
        for what, of_old, of_new in _known(old, new)
        if set(of_old) == set(of_new)
    ]


def _refusal(known: KnownFormats, name: str) -> str:
    reason = known.refuses.get(name)
    return f" (of {name} the other says: {reason})" if reason else ""


def _why(record: CellRecord) -> str:
    return f"gave {record.verdict}: {first_line(record.reason)}"


def costs(comparison: Comparison) -> list[Block]:
    """Return speed and memory, or that they were not measured or cannot be compared."""
    changes = comparison.cells
    has_speed = any(change.costs.speed for change in changes)
    has_peak = any(change.costs.peak_bytes is not None for change in changes)
    phases = PHASES if has_speed else ()
    rows = []
    for change in changes:
        by_phase = {item.phase: item for item in change.costs.speed}
        texts = [speed_text(by_phase.get(phase)) for phase in phases]
        if by_phase or change.costs.peak_bytes is not None:
            peak = [peak_text(change)] if has_peak else []
            rows.append(row((code(change.new.id),), *texts, *peak))
    headings = ("cell", *(f"{phase} [95 %]" for phase in phases), *(["peak MB"] * has_peak))
    notes: list[Prose] = []
    pairs = [item.processes for change in changes for item in change.costs.speed]
    if has_speed and comparison.is_one_run:
        notes.append(f"speeds of {span_of(pairs)} pairs of fresh processes, run in turn")
    elif has_speed:
        notes.append("speeds of two sessions: what moved between them is not in the interval")
    for name, is_there, reasons in (
        ("speed", has_speed, [change.costs.why_no_speed for change in changes]),
        ("memory", has_peak, [change.costs.why_no_peak for change in changes]),
    ):
        notes += [f"not compared: {why}" for why in dict.fromkeys(filter(None, reasons))]
        if not is_there and not any(reasons):
            setting = code(f"{name} = true")
            notes.append(spans(f"{name} was not measured (", setting, " in the profile)"))
    columns = tuple(map(intervals, headings))
    blocks: list[Block] = [Table(columns=columns, rows=tuple(rows))] if rows else []
    return [*blocks, Bullets(items=tuple(notes))] if notes else blocks


def figures(comparison: Comparison) -> list[Block]:
    """Return the figures of metrics that have no table of their own, on both sides."""
    shown = [(name, figure) for name, metric in METRICS.items() for figure in metric.figures]
    sides = [(change, change.old, change.new) for change in comparison.cells]
    columns = [item for item in shown if any(item[0] in new.measured for _, _, new in sides)]
    rows = [
        row(
            (code(change.new.id),),
            *(
                f"{figure_text(old, name, figure)} → {figure_text(new, name, figure)}"
                for name, figure in columns
            ),
        )
        for change, old, new in sides
        if any(name in new.measured for name, _ in columns)
    ]
    if not rows:
        return []
    headings = (words("cell"), *(Column(heading=figure.heading) for _, figure in columns))
    return [Table(columns=headings, rows=tuple(rows))]


def settings(comparison: Comparison) -> list[Prose]:
    """Return under which settings and limits this holds, and how to repeat it."""
    values = comparison.settings
    conditions = [
        f"{name} {values[name]}"
        for name in ("n_ctx", "n_batch", "n_ubatch", "n_threads", "type_k", "type_v", "chunks")
        if values.get(name) is not None
    ]
    if "flash_attention" in values:
        conditions.append(f"flash attention {'on' if values['flash_attention'] else 'off'}")
    conditions += [
        f"text {name} (SHA-256 {str(digest)[:12]})"
        for name, digest in dict(values.get("texts") or {}).items()
    ]
    lines: list[Prose] = [", ".join(conditions)] if conditions else []
    if comparison.settings_changed:
        lines.append(f"settings that differ: {'; '.join(comparison.settings_changed)}")
    limits = limits_text(comparison.cells)
    if limits:
        lines.append(f"limits: {limits}")
    if comparison.command:
        lines.append(("again: ", code(comparison.command)))
    return lines


def limits_text(changes: Iterable[CellChange]) -> str:
    """Return which limits were used; where formats have limits of their own, of which formats."""
    values: dict[str, dict[str, list[str]]] = {}
    for change in changes:
        for name, value in comparing_limits(change.new).model_dump(exclude_none=True).items():
            if METRIC_OF[name] not in {"size", *_measured(change)}:
                continue
            formats = values.setdefault(name, {}).setdefault(_allowed(value), [])
            if change.new.format not in formats:
                formats.append(change.new.format)
    parts = []
    for name, limit in LIMITS.items():
        by_value = values.get(name, {})
        for value, formats in sorted(by_value.items()):
            of_formats = f" ({', '.join(formats)})" if len(by_value) > 1 else ""
            parts.append(f"{limit.figure} {value}{of_formats}")
    return ", ".join(parts)


def _allowed(limit: float | Mapping[str, float]) -> str:
    """Return an allowed change, or one of each domain that has its own."""
    if not isinstance(limit, Mapping):
        return f"{100 * limit:+g} %".replace("-", "−")
    others = [_allowed(value) for name, value in limit.items() if name == ALL_DOMAINS]
    named = [f"{name} {_allowed(value)}" for name, value in limit.items() if name != ALL_DOMAINS]
    return ", ".join([*others, *named])


def _measured(change: CellChange) -> set[str]:
    names = {"perplexity", "divergence"} if change.new.ppl is not None else set()
    return names | set(change.new.measured)
