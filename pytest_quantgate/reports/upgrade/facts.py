"""What stands around an upgrade's table: engines, formats, speed and memory, settings."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from pytest_quantgate.engines.messages import UNKNOWN
from pytest_quantgate.gate.compare.cell import CellChange, Support, comparing_limits
from pytest_quantgate.gate.compare.comparison import Comparison
from pytest_quantgate.reports.layout import escape, first_line, markdown_table
from pytest_quantgate.reports.upgrade.texts import peak_text, speed_text
from pytest_quantgate.results.hardware import only_differing
from pytest_quantgate.results.measurements.speed import PHASES
from pytest_quantgate.results.record import CellRecord

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

_OF_METRIC = {
    "ppl_vs_baseline": "quality",
    "kld_vs_baseline": "quality",
    "routing_vs_baseline": "routing",
    "prefill_vs_baseline": "speed",
    "decode_vs_baseline": "speed",
    "speed_vs_same_hardware": "speed",
    "resident_vs_baseline": "memory",
    "resident_vs_same_hardware": "memory",
}
"""What must have been measured for a limit to be told; the size always is."""


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
"""What is told of an engine, and how it is called."""

_OPTIONS = frozenset({"system_info", "build_options"})
"""Facts that are lists of options, of which only those that differ are told."""


def engine_name(engine: Mapping[str, Any]) -> str:
    """Return an engine's kind and version."""
    if "version" not in engine:
        return "unknown engine"
    return f"{engine['kind']} {engine['version']}".strip()


def engine_lines(found: Comparison) -> list[str]:
    """Say in a table what differs between both engines, and below it what is the same."""
    rows, same = [], []
    for name, heading in _ENGINE:
        before, after = (_fact(engine, name) for engine in (found.old, found.new))
        if not {before, after} - {"", UNKNOWN}:
            continue
        if before == after:
            same.append(f"{heading} {_shown(name, before)}")
            continue
        if name in _OPTIONS and before and after:
            before, after = only_differing(before, after)
        rows.append((heading, before or UNKNOWN, after or UNKNOWN))
    lines = markdown_table(("", "old", "new"), rows) if rows else []
    if same:
        lines += [""] * bool(rows) + [f"The same on both: {'; '.join(same)}."]
    return lines


def _fact(engine: Mapping[str, Any], name: str) -> str:
    if name == "version":
        return engine_name(engine)
    text = str(engine.get(name, ""))
    if name == "library_sha256" and text:
        return f"`{text[:12]}`"
    return text


def _shown(name: str, fact: str) -> str:
    """Shorten llama.cpp's line of options, ``CPU : AVX2 = 1 | FMA = 1 |``, to those that are on."""
    if name not in _OPTIONS:
        return escape(fact)
    options = [part.strip() for part in fact.replace(":", "|").split("|")]
    return " ".join(option.removesuffix(" = 1") for option in options if option)


def support_lines(found: Comparison) -> list[str]:
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
        for crossed in change.unreadable:
            side, other = ("new", "old") if crossed.engine == change.new.engine else ("old", "new")
            lines.append(f"{name}: with the {other} engine's file the {side} one {_why(crossed)}")
    return [*lines, *_formats_lines(found.old.get("formats"), found.new.get("formats"))]


_FORMATS = (("writes", "formats"), ("tensor_types", "tensor types"))
"""What an engine tells of the formats that it knows, and how that is called."""


def _formats_lines(old: Any, new: Any) -> list[str]:
    """Say which formats and tensor types only one engine knows, in the profile or not."""
    if not isinstance(old, Mapping) or not isinstance(new, Mapping):
        return []
    lines = []
    for key, what in _FORMATS:
        if not old[key] or not new[key]:
            continue  # an engine that cannot tell
        for words, has, lacks in (
            ("only the new engine has", new, old),
            ("**only the old engine has**", old, new),
        ):
            apart = [name for name in has[key] if name not in lacks[key]]
            if apart:
                lines.append(f"{words} the {what} {_code(apart)}{_refusal(lacks, apart[0])}")
    return lines


def equal_formats_lines(found: Comparison) -> list[str]:
    """Say how many formats and tensor types both engines have where neither has others."""
    old, new = found.old.get("formats"), found.new.get("formats")
    if not isinstance(old, Mapping) or not isinstance(new, Mapping):
        return []
    return [
        f"both have the same {len(new[key])} {what}"
        for key, what in _FORMATS
        if new[key] and set(old[key]) == set(new[key])
    ]


def _code(names: Sequence[str]) -> str:
    return ", ".join(f"`{name}`" for name in names)


def _refusal(engine: Mapping[str, Any], name: str) -> str:
    reason = engine["refuses"].get(name)
    return f" (of {name} the other says: {escape(reason)})" if reason else ""


def _why(record: CellRecord) -> str:
    return f"gave {record.verdict}: {escape(first_line(record.reason))}"


def cost_lines(found: Comparison) -> list[str]:
    """Tell speed and memory, or that they were not measured or cannot be compared."""
    has_speed = any(change.costs.speed for change in found.cells)
    has_peak = any(change.costs.peak_bytes is not None for change in found.cells)
    phases = PHASES if has_speed else ()
    rows = []
    for change in found.cells:
        by_phase = {item.phase: item for item in change.costs.speed}
        texts = [speed_text(by_phase.get(phase)) for phase in phases]
        if by_phase or change.costs.peak_bytes is not None:
            rows.append((f"`{change.new.id}`", *texts, *([peak_text(change)] if has_peak else [])))
    headings = ("cell", *(f"{phase} [95 %]" for phase in phases), *(["peak MB"] * has_peak))
    lines = [*markdown_table(headings, rows), ""] if rows else []
    pairs = [item.processes for change in found.cells for item in change.costs.speed]
    if has_speed and found.is_one_run:
        lines.append(f"- speeds of {least_to_most(pairs)} pairs of fresh processes, run in turn")
    elif has_speed:
        lines.append("- speeds of two sessions: what moved between them is not in the interval")
    reasons = dict.fromkeys(why for change in found.cells for why in change.costs.not_compared)
    lines += [f"- not compared: {escape(why)}" for why in reasons]
    for name, there in (("speed", has_speed), ("memory", has_peak)):
        if not there and not any(why.startswith(name) for why in reasons):
            lines.append(f"- {name} was not measured (`{name} = true` in the profile)")
    return lines


def least_to_most(numbers: Sequence[int]) -> str:
    """Name a range of numbers."""
    low, high = min(numbers), max(numbers)
    return str(low) if low == high else f"{low} to {high}"


def settings_lines(found: Comparison) -> list[str]:
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
            if _OF_METRIC.get(name, "size") not in {"size", *_measured(change)}:
                continue
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


def _measured(change: CellChange) -> set[str]:
    names = {"quality"} if change.new.ppl is not None else set()
    return names | set(change.new.measured)
