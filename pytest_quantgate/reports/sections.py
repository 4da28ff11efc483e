"""What a report says below its tables: what each part costs, where tokens went, by domain."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from pytest_quantgate.gguf.tensor_groups import PARTS, QUANTIZED_PARTS, REST
from pytest_quantgate.results.measurements.routing import ExpertUse, RoutingMeasurement
from pytest_quantgate.results.record import CellRecord, RunRecord


@dataclass(frozen=True, kw_only=True)
class Section:
    """A small table of its own; the first column is of words, the others of figures."""

    title: str
    headings: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    notes: tuple[str, ...] = ()


def make_sections(record: RunRecord) -> tuple[Section, ...]:
    """Return the sections of a run: parts, routing and domains of each model, text and device."""
    groups: dict[tuple[str, ...], list[CellRecord]] = {}
    for cell in record.cells:
        if cell.file_bytes is not None:
            key = (cell.model, cell.text, cell.device, cell.engine)
            groups.setdefault(key, []).append(cell)
    found: list[Section] = []
    for (model, *_), cells in groups.items():
        found += _parts(model, cells)
        found += _routing(model, cells)
        found += _domains(model, cells)
    return tuple(found)


def _megabytes(n_bytes: int) -> str:
    return f"{n_bytes / 1e6:,.2f}"


def _parts(model: str, cells: Sequence[CellRecord]) -> Iterator[Section]:
    """Say what each part saves and costs, for each format that was measured by parts."""
    reference = next((cell for cell in cells if cell.is_reference), None)
    if reference is None:
        return
    by_format: dict[tuple[str, str | None], dict[str, CellRecord]] = {}
    for cell in cells:
        whole, part = _split(cell.format)
        if part is not None:
            by_format.setdefault((whole, cell.imatrix), {})[part] = cell
    for (whole, imatrix), parts in by_format.items():
        own = next((c for c in cells if (c.format, c.imatrix) == (whole, imatrix)), None)
        matrix = "" if imatrix is None else f", importance matrix {imatrix}"
        yield _parts_section(
            f"{model}: what {whole} costs, part by part{matrix}", reference, parts, own
        )


def _split(format_name: str) -> tuple[str, str | None]:
    """Return a format's whole and its part, None where it is no format of one part."""
    whole, _, part = format_name.rpartition(".")
    return (whole, part) if whole and part in QUANTIZED_PARTS else (format_name, None)


def _parts_section(
    title: str, reference: CellRecord, parts: dict[str, CellRecord], whole: CellRecord | None
) -> Section:
    costs = {part: _kld(cell) for part, cell in parts.items()}
    total = sum(cost for cost in costs.values() if cost is not None)
    rows, saved_by_all = [], 0
    for part in (*PARTS, REST):
        before = reference.bytes_by_part.get(part)
        if before is None:
            continue
        cell = parts.get(part)
        if cell is None:
            rows.append((part, _megabytes(before), "–", "–", "–"))
            continue
        saved = before - cell.bytes_by_part[part]
        saved_by_all += saved
        cost = costs[part]
        share = "–" if cost is None or total <= 0 else f"{100 * cost / total:.1f} %"
        rows.append((part, _megabytes(before), _megabytes(saved), _nats(cost), share))
    rows.append(("sum of the parts", "", _megabytes(saved_by_all), _nats(total), ""))
    if whole is not None and reference.file_bytes is not None and whole.file_bytes is not None:
        saved = sum(reference.bytes_by_part.values()) - sum(whole.bytes_by_part.values())
        rows.append(("all parts at once", "", _megabytes(saved), _nats(_kld(whole)), ""))
    cells = [cell for cell in (*parts.values(), whole) if cell is not None]
    chunks = {len(cell.chunks) for cell in cells if cell.ppl is not None}
    notes: tuple[str, ...] = ()
    if len(chunks) > 1:
        notes = (f"the divergences are of {min(chunks)} to {max(chunks)} chunks",)
    return Section(
        title=title,
        headings=("part", f"{reference.format} MB", "saved MB", "mean KLD", "share"),
        rows=tuple(rows),
        notes=notes,
    )


def _kld(cell: CellRecord) -> float | None:
    return None if cell.divergence is None else cell.divergence.mean_kld_nats


def _nats(value: float | None) -> str:
    return "–" if value is None else f"{value:.4f}"


def _of(cell: CellRecord) -> RoutingMeasurement | None:
    found = cell.measured.get("routing")
    return found if isinstance(found, RoutingMeasurement) and found.layers else None


def _name(cell: CellRecord) -> str:
    return cell.format if cell.imatrix is None else f"{cell.format}, {cell.imatrix}"


def _routing(model: str, cells: Sequence[CellRecord]) -> Iterator[Section]:
    """Say where a mixture sends its tokens, against the reference."""
    rows, tokens = [], set()
    for cell in cells:
        found = _of(cell)
        if found is None or found.is_reference:
            continue
        tokens.add(found.tokens)
        share = found.kld_share_changed
        worst = max(found.experts, key=lambda error: error.relative_rms, default=None)
        error = "–"
        if worst is not None:
            error = f"{worst.relative_rms:.4f} (layer {worst.layer}, expert {worst.expert})"
        rows.append(
            (
                _name(cell),
                f"{100 * found.same_experts:.2f} %",
                _least(found),
                f"{100 * found.same_top_expert:.2f} %",
                f"{100 * found.shared_weight:.2f} %",
                f"{100 * found.changed_tokens / found.tokens:.1f} %",
                "–" if share is None else f"{100 * share:.1f} %",
                f"{100 * found.max_load_share:.1f} %",
                error,
            )
        )
    if rows:
        yield Section(
            title=f"{model}: routing against the reference, {max(tokens):,} tokens a layer",
            headings=(
                "format",
                "same experts",
                "least in a layer",
                "same first",
                "shared weight",
                "changed tokens",
                "their share of the KLD",
                "largest load",
                "largest expert error",
            ),
            rows=tuple(rows),
        )


def _least(found: RoutingMeasurement) -> str:
    """Name the layer that keeps fewest routes."""
    layer = min(found.layers, key=lambda item: item.same_experts / item.tokens)
    return f"{100 * layer.same_experts / layer.tokens:.2f} % (layer {layer.layer})"


def _domains(model: str, cells: Sequence[CellRecord]) -> Iterator[Section]:
    """Say what each domain costs, and the error of the experts that it uses most."""
    reference = next((cell for cell in cells if cell.is_reference), None)
    if reference is None or not any(_of(cell) for cell in cells):
        return
    for domain, before in reference.ppl_by_domain.items():
        routed = next((found for cell in cells if (found := _of(cell)) is not None), None)
        uses: tuple[ExpertUse, ...] = ()
        for item in routed.domains if routed is not None else ():
            uses = item.most_used if item.name == domain else uses
        rows = []
        for cell in cells:
            now = cell.ppl_by_domain.get(domain)
            if now is None or _split(cell.format)[1] is not None:
                continue
            parts = cell.divergence.by_domain if cell.divergence is not None else ()
            kld = next((part.mean_kld_nats for part in parts if part.name == domain), None)
            change = "" if cell.is_reference else f"{100 * (now / before - 1):+.2f} %"
            rows.append((_name(cell), f"{now:.4f}", change, _nats(kld), *_errors(cell, uses)))
        named = tuple(
            f"L{use.layer} E{use.expert} ({100 * use.share:.0f} % of the domain's tokens,"
            f" {100 * use.share_of_all:.0f} % of all)"
            for use in uses
        )
        yield Section(
            title=f"{model}: {domain}, and the weight error of the experts it uses most",
            headings=("format", "PPL", "change", "mean KLD", *named),
            rows=tuple(rows),
        )


def _errors(cell: CellRecord, uses: Sequence[ExpertUse]) -> list[str]:
    found = _of(cell)
    errors = {} if found is None else {(item.layer, item.expert): item for item in found.experts}
    texts = []
    for use in uses:
        error = errors.get((use.layer, use.expert))
        if error is None:
            texts.append("–")
        elif error.weighted is None:
            texts.append(f"{error.relative_rms:.4f}")
        else:
            texts.append(f"{error.relative_rms:.4f} (by activations {error.weighted:.4f})")
    return texts


def section_lines(section: Section) -> list[str]:
    """Lay a section out for a terminal."""
    grid = [section.headings, *section.rows]
    widths = [max(len(row[i]) for row in grid) for i in range(len(section.headings))]
    lines = ["", section.title]
    for row in grid:
        padded = [
            text.rjust(width) if i else text.ljust(width)
            for i, (text, width) in enumerate(zip(row, widths, strict=True))
        ]
        lines.append("  ".join(padded).rstrip())
    return [*lines, *(f"note: {note}" for note in section.notes)]


def section_markdown(section: Section) -> list[str]:
    """Write a section as Markdown."""
    lines = ["", f"### {section.title}", ""]
    lines.append("| " + " | ".join(section.headings) + " |")
    lines.append("|---|" + "--:|" * (len(section.headings) - 1))
    lines += [
        "| " + " | ".join(text.replace("|", "\\|") for text in row) + " |" for row in section.rows
    ]
    return [*lines, *([""] if section.notes else []), *(f"- {note}" for note in section.notes)]
