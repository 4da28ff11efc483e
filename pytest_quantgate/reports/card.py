"""A model card: for a publisher, which formats to ship, with the evidence; Markdown and CSV."""

from __future__ import annotations

import csv
import io
import json
import math
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum

from pytest_quantgate.config.limit import MAX_MEAN_KLD_NATS
from pytest_quantgate.config.schema import Limits
from pytest_quantgate.errors import ConfigError
from pytest_quantgate.gguf.formats import FULL_PRECISION, find_format
from pytest_quantgate.reports.blocks import (
    Block,
    Column,
    Heading,
    Listing,
    Paragraph,
    Row,
    Table,
    intervals,
    plain,
    row,
    spans,
    strong,
    words,
)
from pytest_quantgate.reports.chunks import domains_on, kld_interval_on, perplexity_on, same_top_on
from pytest_quantgate.reports.run_tables import (
    FAULT_DETECTOR,
    Group,
    group_cells,
    group_change,
    label,
    twin_notes,
)
from pytest_quantgate.reports.words import NONE, change, megabytes, number, printable, share
from pytest_quantgate.results.engine_facts import EngineFacts
from pytest_quantgate.results.record import CellRecord, RunRecord


class Advice(Enum):
    """What a card says of a format."""

    SHIP = "ship"
    DO_NOT = "don't"
    CANNOT_TELL = "can't tell"
    REFERENCE = "reference"


@dataclass(frozen=True, kw_only=True)
class Judged:
    """A format on a card: the advice, and what decides it."""

    cell: CellRecord
    advice: Advice
    why: str


def card_groups(record: RunRecord, model: str | None) -> tuple[Group, ...]:
    """Return the groups of one model.

    Raises:
        ConfigError: the record has none of the model, or several models and none was named.

    """
    names = list(dict.fromkeys(cell.model for cell in record.cells))
    if model is None and len(names) == 1:
        model = names[0]
    if model not in names:
        wrong = "several models" if model is None else f"no model {model!r}"
        raise ConfigError(f"the record has {wrong}; name one with --model: {', '.join(names)}")
    return tuple(group for group in group_cells(record) if group.first.model == model)


def judge(cell: CellRecord, group: Group, max_kld_nats: float | None) -> Judged:
    """Judge a format by its divergence: the whole interval has to lie on one side of the limit."""
    if cell.is_red:
        return Judged(cell=cell, advice=Advice.DO_NOT, why=f"the gate says {cell.verdict}")
    if cell.is_reference:
        return Judged(cell=cell, advice=Advice.REFERENCE, why="")
    limit = _limit(cell) if max_kld_nats is None else max_kld_nats
    kld, low, high = kld_interval_on(cell, group.chunks)
    if kld is None or limit is None or not (math.isfinite(low) and math.isfinite(high)):
        missing = "no limit is set: --max-kld" if limit is None else "no interval of its divergence"
        return Judged(cell=cell, advice=Advice.CANNOT_TELL, why=missing)
    if high <= limit:
        return Judged(cell=cell, advice=Advice.SHIP, why=f"KLD at most {high:.4f}, limit {limit:g}")
    if low > limit:
        why = f"KLD at least {low:.4f}, limit {limit:g}"
        return Judged(cell=cell, advice=Advice.DO_NOT, why=why)
    why = f"the limit {limit:g} lies within the interval: measure more chunks"
    return Judged(cell=cell, advice=Advice.CANNOT_TELL, why=why)


def _limit(cell: CellRecord) -> float | None:
    """Return the limit that the project set; the default one tells garbage, not what may ship."""
    limit = Limits.model_validate(cell.limits).kld_mean_max
    return None if limit == MAX_MEAN_KLD_NATS else limit


def formats_table(group: Group, max_kld_nats: float | None) -> Table:
    """Return the formats by size; a column that is empty in every row is left out.

    So is the advice where no limit says what may ship.
    """
    rows, has_limit = [], _has_limit(group, max_kld_nats)
    for cell in group.cells:
        judged = judge(cell, group, max_kld_nats)
        kld, low, high = kld_interval_on(cell, group.chunks)
        interval = f" [{low:.4f}, {high:.4f}]" if math.isfinite(high) else ""
        shift = None if cell.is_reference else group_change(cell, group)
        rows.append(
            (
                label(cell),
                megabytes(cell.file_bytes),
                number(cell.bits_per_weight, ".2f"),
                number(perplexity_on(cell, group.chunks), ".4f"),
                NONE if shift is None else change(*shift),
                NONE if kld is None else f"{kld:.4f}{interval}",
                share(same_top_on(cell, group.chunks)),
                judged.advice.value if has_limit else NONE,
                judged.why or NONE if has_limit else NONE,
            )
        )
    figures = [Column(heading=name) for name in ("size MB", "bits per weight", "PPL")]
    columns = [
        words("format"),
        *figures,
        intervals("ΔPPL [95 %]"),
        intervals("KLD [95 %]"),
        Column(heading="same top"),
        words("advice"),
        words("what decides"),
    ]
    notes = twin_notes(group.cells)
    if not has_limit:
        notes.append("no limit says which formats may ship; give one with --max-kld NATS")
    return _without_empty(columns, rows, notes=notes)


def _has_limit(group: Group, max_kld_nats: float | None) -> bool:
    """Return whether something says of a format whether it may ship: a limit, or the gate."""
    if max_kld_nats is not None:
        return True
    return any(cell.is_red or _limit(cell) is not None for cell in group.cells)


def _without_empty(
    columns: Sequence[Column], rows: Sequence[tuple[str, ...]], notes: Sequence[str] = ()
) -> Table:
    kept = [n for n in range(len(columns)) if any(texts[n] != NONE for texts in rows)]
    return Table(
        columns=tuple(columns[n] for n in kept),
        rows=tuple(Row(cells=tuple(texts[n] for n in kept)) for texts in rows),
        notes=tuple(notes),
    )


def _domains(group: Group) -> list[Block]:
    reference = group.reference
    before = {} if reference is None else dict(sorted(domains_on(reference, group.chunks).items()))
    rows = []
    for cell in group.cells:
        now = domains_on(cell, group.chunks)
        if cell.is_reference or not now:
            continue
        moves = [now[name] / before[name] - 1 if name in now else None for name in before]
        rows.append(row(label(cell), *(_percent(move) for move in moves)))
    if not before or not rows:
        return []
    columns = (words("format"), *(Column(heading=name) for name in before))
    lead = "Change of perplexity from the reference, by domain of the text."
    return [
        Heading(text=f"Domains, on {group.first.device}"),
        Paragraph(text=lead),
        Table(columns=columns, rows=tuple(rows)),
    ]


def _percent(value: float | None) -> str:
    return NONE if value is None else f"{number(100 * value, '+.2f')} %"


def _is_named_by_llama_cpp(name: str) -> bool:
    try:
        return name not in FULL_PRECISION and not find_format(name).overrides
    except ConfigError:
        return False  # a recipe of the project, or a part of a model


def _commands(group: Group) -> list[Block]:
    """Return llama.cpp's commands that make the files, of formats that it knows by name."""
    model, source = group.first.model, group.first.reference
    lines = []
    for cell in group.cells:
        if cell.is_reference or not _is_named_by_llama_cpp(cell.format):
            continue
        command = ["llama-quantize"]
        if cell.is_requantized:
            command.append("--allow-requantize")
        if cell.imatrix is not None:
            command += ["--imatrix", f"{cell.imatrix}.gguf"]
        name = f"{cell.format}-{cell.imatrix}" if cell.imatrix else cell.format
        command += [f"{model}-{source}.gguf", f"{model}-{name}.gguf", cell.format]
        lines.append(shlex.join(command))
    return [Heading(text="How the files are made"), Listing(lines=tuple(lines))] if lines else []


def advice_blocks(groups: Sequence[Group], max_kld: float | None) -> list[Block]:
    """Return the card from its title to what is said of each format; the plots come next."""
    blocks: list[Block] = [Heading(text=groups[0].first.model, level=1)]
    for group in groups:
        first = group.first
        blocks.append(Heading(text=f"Quantized formats on {first.device}"))
        if group.only_detects_faults:
            blocks.append(Paragraph(text=f"This model is a {FAULT_DETECTOR}."))
        on = f", on {len(group.chunks)} chunks of the text {first.text_name}" if first.text else ""
        lead = f"By size{on}; the reference is {first.reference}. Intervals are of 95 %."
        blocks += [*_smallest(group, max_kld), Paragraph(text=lead), formats_table(group, max_kld)]
    return blocks


def _smallest(group: Group, max_kld: float | None) -> list[Block]:
    """Return which format is the smallest that ships; nothing of a model that only finds faults."""
    judged = [judge(cell, group, max_kld) for cell in group.cells]
    ships = [item.cell for item in judged if item.advice is Advice.SHIP and item.cell.file_bytes]
    if not ships or group.only_detects_faults:
        return []
    cell = min(ships, key=lambda item: item.file_bytes or 0)
    kld, _, _ = kld_interval_on(cell, group.chunks)
    figures = f" ({megabytes(cell.file_bytes)} MB, KLD {number(kld, '.4f')})"
    return [Paragraph(text=spans("The smallest to ship is ", strong(label(cell)), f"{figures}."))]


def origin_blocks(record: RunRecord, groups: Sequence[Group]) -> list[Block]:
    """Return the end of the card: domains, how the files are made, and what measured them."""
    blocks = [block for group in groups for block in _domains(group)] + _commands(groups[0])
    engine = EngineFacts.read(record.engine)
    if engine.version:
        llama = f", llama.cpp {engine.llama_cpp_version}".rstrip(", ")
        by = f"Measured by pytest-quantgate with {engine.name}{llama}"
        blocks.append(Paragraph(text=f"{by} on {engine.cpu_name}, {record.started[:10]}."))
    return blocks


def front_matter(groups: Sequence[Group]) -> str:
    """Return Hugging Face's metadata with its model-index; strings are JSON, which YAML reads."""
    lines = ["---", "tags:", "- gguf", "- quantized", "model-index:"]
    lines += [f"- name: {json.dumps(groups[0].first.model)}", "  results:"]
    for group in groups:
        metrics = []
        for cell in group.cells:
            ppl = perplexity_on(cell, group.chunks)
            kld, _, _ = kld_interval_on(cell, group.chunks)
            for kind, name, value in (("perplexity", "PPL", ppl), ("kl_divergence", "KLD", kld)):
                if value is not None and math.isfinite(value):
                    title = json.dumps(f"{name}, {label(cell)}")
                    metrics += [f"    - type: {kind}", f"      name: {title}"]
                    metrics.append(f"      value: {value:.6g}")
        if metrics:
            dataset = json.dumps(group.first.text)
            lines += ["  - task:", "      type: text-generation", "    dataset:"]
            lines += [f"      name: {dataset}", f"      type: {dataset}", "    metrics:", *metrics]
    return "\n".join([*lines, "---", "", ""])


def _as_text(cell: str) -> str:
    """Return a text that no spreadsheet takes for a formula."""
    return f"'{printable(cell)}" if cell.lstrip().startswith(tuple("=+-@")) else printable(cell)


def card_csv(groups: Sequence[Group], max_kld: float | None) -> str:
    """Return the tables of formats as CSV, with a column for the device."""
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    for n, group in enumerate(groups):
        table = formats_table(group, max_kld)
        if n == 0:
            writer.writerow(["device", *(column.heading for column in table.columns)])
        for line in table.rows:
            texts = [
                _as_text(plain(cell)) if column.is_text or column.is_left else plain(cell)
                for column, cell in zip(table.columns, line.cells, strict=True)
            ]
            writer.writerow([_as_text(group.first.device), *texts])
    return stream.getvalue()
