"""What a report says below its tables: what each part costs, where tokens went, by domain."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

from pytest_quantgate.gguf.tensor_groups import PARTS, QUANTIZED_PARTS, REST
from pytest_quantgate.reports.blocks import Column, Row, Table, row, words
from pytest_quantgate.reports.chunks import domain_klds_on, domains_on, kld_on
from pytest_quantgate.reports.run_tables import Group, group_cells, label
from pytest_quantgate.reports.words import NONE, megabytes, number, share
from pytest_quantgate.results.measurements.routing import ExpertUse, RoutingMeasurement
from pytest_quantgate.results.record import CellRecord, RunRecord


def section_tables(record: RunRecord) -> tuple[Table, ...]:
    """Return the tables below those of a run: tensor groups, routing and domains."""
    tables: list[Table] = []
    for group in group_cells(record):
        tables += _parts(group)
        tables += _routing(group)
        tables += _domains(group)
    return tuple(tables)


def _figures(*headings: str) -> tuple[Column, ...]:
    return tuple(Column(heading=heading) for heading in headings)


def _parts(group: Group) -> Iterator[Table]:
    """Return what each tensor group saves and costs, for each format measured by groups."""
    if group.reference is None:
        return
    by_format: dict[tuple[str, str | None], dict[str, CellRecord]] = {}
    for cell in group.cells:
        whole, part = _split(cell.format)
        if part is not None:
            by_format.setdefault((whole, cell.imatrix), {})[part] = cell
    for (whole, imatrix), cells in by_format.items():
        own = next((c for c in group.cells if (c.format, c.imatrix) == (whole, imatrix)), None)
        yield _costs(group, whole, imatrix, cells, own)


def _split(format_name: str) -> tuple[str, str | None]:
    """Return a format's whole and its part, None where it is no format of one part."""
    whole, _, part = format_name.rpartition(".")
    return (whole, part) if whole and part in QUANTIZED_PARTS else (format_name, None)


def _costs(
    group: Group,
    name: str,
    imatrix: str | None,
    cells: dict[str, CellRecord],
    whole: CellRecord | None,
) -> Table:
    reference = group.reference
    assert reference is not None
    costs = {part: kld_on(cell, group.chunks) for part, cell in cells.items()}
    total = sum(cost for cost in costs.values() if cost is not None)
    rows, saved_by_all = [], 0
    for part in (*PARTS, REST):
        before = reference.bytes_by_part.get(part)
        if before is None:
            continue
        cell = cells.get(part)
        if cell is None:
            rows.append(row(part, megabytes(before, 2), NONE, NONE, NONE))
            continue
        saved = before - cell.bytes_by_part[part]
        saved_by_all += saved
        cost = costs[part]
        of_all = share(None if cost is None or total <= 0 else cost / total)
        figures = megabytes(before, 2), megabytes(saved, 2), number(cost, ".4f"), of_all
        rows.append(row(part, *figures))
    sums = megabytes(saved_by_all, 2), number(total, ".4f")
    rows.append(row("sum of the parts", "", *sums, ""))
    if whole is not None and reference.file_bytes is not None and whole.file_bytes is not None:
        saved = sum(reference.bytes_by_part.values()) - sum(whole.bytes_by_part.values())
        of_whole = number(kld_on(whole, group.chunks), ".4f")
        rows.append(row("all parts at once", "", megabytes(saved, 2), of_whole, ""))
    matrix = "" if imatrix is None else f", importance matrix {imatrix}"
    return _section(
        f"{reference.model}: what {name} costs, part by part{matrix}",
        (words("part"), *_figures(f"{reference.format} MB", "saved MB", "mean KLD", "share")),
        rows,
    )


def _section(title: str, columns: Sequence[Column], rows: Sequence[Row]) -> Table:
    return Table(title=title, columns=tuple(columns), rows=tuple(rows), level=3)


def _of(cell: CellRecord) -> RoutingMeasurement | None:
    routing = cell.measured.get("routing")
    return routing if isinstance(routing, RoutingMeasurement) and routing.layers else None


def _routing(group: Group) -> Iterator[Table]:
    """Return where a mixture sends its tokens, against the reference."""
    rows, tokens = [], set()
    for cell in group.cells:
        routing = _of(cell)
        if routing is None or routing.is_reference:
            continue
        tokens.add(routing.tokens)
        worst = max(routing.experts, key=lambda error: error.relative_rms, default=None)
        error = NONE
        if worst is not None:
            error = f"{worst.relative_rms:.4f} (layer {worst.layer}, expert {worst.expert})"
        rows.append(
            row(
                label(cell),
                share(routing.same_experts, 2),
                _least(routing),
                share(routing.same_top_expert, 2),
                share(routing.shared_weight, 2),
                share(routing.changed_tokens / routing.tokens),
                share(routing.kld_share_changed),
                share(routing.max_load_share),
                error,
            )
        )
    if rows:
        columns = (
            words("format"),
            Column(heading="same experts"),
            Column(heading="least in a layer", drop=3),
            Column(heading="same first", drop=5),
            Column(heading="shared weight", drop=6),
            Column(heading="changed tokens"),
            Column(heading="their share of the KLD", drop=4),
            Column(heading="largest load"),
            Column(heading="largest expert error", drop=2),
        )
        title = f"{group.first.model}: routing against the reference, {max(tokens):,} tokens"
        yield _section(f"{title} a layer", columns, rows)


def _least(routing: RoutingMeasurement) -> str:
    """Name the layer that keeps fewest routes."""
    layer = min(routing.layers, key=lambda item: item.same_experts / item.tokens)
    return f"{share(layer.same_experts / layer.tokens, 2)} (layer {layer.layer})"


def _domains(group: Group) -> Iterator[Table]:
    """Return what each domain costs, and the error of the experts that it uses most."""
    reference = group.reference
    routings = [routing for cell in group.cells if (routing := _of(cell)) is not None]
    if reference is None or not routings:
        return
    for domain, before in domains_on(reference, group.chunks).items():
        used = [item.most_used for item in routings[0].domains if item.name == domain]
        uses = used[0] if used else ()
        rows = []
        for cell in group.cells:
            now = domains_on(cell, group.chunks).get(domain)
            if now is None or _split(cell.format)[1] is not None:
                continue
            change = "" if cell.is_reference else f"{number(100 * (now / before - 1), '+.2f')} %"
            kld = domain_klds_on(cell, group.chunks).get(domain)
            figures = number(now, ".4f"), change, number(kld, ".4f")
            rows.append(row(label(cell), *figures, *_errors(cell, uses)))
        names = [f"L{use.layer} E{use.expert}" for use in uses]
        columns = [Column(heading=name, drop=1, is_below=True) for name in names]
        loads = ", ".join(
            f"{name} {100 * use.share:.0f} % ({100 * use.share_of_all:.0f} % of all)"
            for name, use in zip(names, uses, strict=True)
        )
        table = _section(
            f"{group.first.model}: {domain}, and the weight error of the experts it uses most",
            (words("format"), *_figures("PPL", "change", "mean KLD"), *columns),
            rows,
        )
        note = f"layer and expert, and the share of the domain's tokens that it takes: {loads}"
        yield replace(table, notes=(note,)) if uses else table


def _errors(cell: CellRecord, uses: Sequence[ExpertUse]) -> list[str]:
    routing = _of(cell)
    experts = () if routing is None else routing.experts
    errors = {(item.layer, item.expert): item for item in experts}
    texts = []
    for use in uses:
        error = errors.get((use.layer, use.expert))
        if error is None:
            texts.append(NONE)
        elif error.weighted is None:
            texts.append(f"{error.relative_rms:.4f}")
        else:
            texts.append(f"{error.relative_rms:.4f} (by activations {error.weighted:.4f})")
    return texts
