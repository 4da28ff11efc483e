"""A change of baselines as a reviewer wants it: cell, figure, old → new, interval and reason."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass

from pytest_quantgate import stats
from pytest_quantgate.gate.cause import fields_changed
from pytest_quantgate.gguf.tensor_changes import compare_tensors
from pytest_quantgate.reports.blocks import (
    Block,
    Bullets,
    Heading,
    Paragraph,
    Prose,
    Row,
    Table,
    code,
    intervals,
    row,
    spans,
    words,
)
from pytest_quantgate.reports.chunks import kld_change
from pytest_quantgate.reports.words import NONE, change, count, nats_change, number, share
from pytest_quantgate.results.baseline import Baseline, Key


@dataclass(frozen=True, kw_only=True)
class BaselineChange:
    """A baseline's file before and after; None is one that was not there or is no more."""

    path: str
    old: Baseline | None
    new: Baseline | None

    @property
    def key(self) -> Key:
        """The cell that it is of."""
        baseline = self.new or self.old
        assert baseline is not None
        return baseline.key


def cell_name(key: Key, named: Collection[str]) -> str:
    """Return the id of a baseline's cell; ``named`` has what of its text the id must tell."""
    matrix = [] if key.imatrix is None else [key.imatrix]
    text = [key.text] if key.text and "text" in named else []
    length = [f"c{key.n_ctx}"] if key.text and "n_ctx" in named else []
    return "-".join([key.model, key.format, *matrix, key.device_kind, *text, *length])


def named_of_text(keys: Iterable[Key]) -> frozenset[str]:
    """Return what ids name since cells differ in it: ``text``, ``n_ctx``."""
    scored = [key for key in keys if key.text]
    return frozenset(
        name for name in ("text", "n_ctx") if len({getattr(key, name) for key in scored}) > 1
    )


def diff_blocks(changes: Sequence[BaselineChange], revision: str) -> list[Block]:
    """Return what changed since a revision: figures first, then what came and went, and reasons."""
    blocks: list[Block] = [Heading(text=f"Baselines changed since {revision}", level=1)]
    if not changes:
        return [*blocks, Paragraph(text="No baseline changed.")]
    both = [item for item in changes if item.old is not None and item.new is not None]
    came = [item for item in changes if item.old is None]
    went = [item for item in changes if item.new is None]
    counts = ((both, "changed"), (came, "new"), (went, "removed"))
    told = ", ".join(f"{len(items)} {word}" for items, word in counts if items)
    blocks.append(Paragraph(text=f"{count(len(changes), 'baseline')}: {told}.", is_strong=True))
    named = named_of_text(item.key for item in changes)
    names_of = {item.path: cell_name(item.key, named) for item in changes}
    rows = [line for item in both for line in _rows(item, names_of[item.path])]
    if rows:
        columns = (
            words("cell"),
            words("figure"),
            intervals("old → new"),
            intervals("change [95 %]"),
        )
        blocks.append(Table(columns=columns, rows=tuple(rows)))
    for items, title in ((came, "New"), (went, "Removed")):
        if items:
            entries = tuple((names_of[item.path], " ", code(item.path)) for item in items)
            blocks += [Heading(text=title), Bullets(items=entries)]
    reasons: dict[str, list[str]] = {}
    for item in changes:
        if item.new is not None:
            why = item.new.reason or "no reason was given"
            reasons.setdefault(why, []).append(names_of[item.path])
    told_reasons: tuple[Prose, ...] = tuple(
        spans(reason, f" ({', '.join(names)})") for reason, names in reasons.items()
    )
    if told_reasons:
        blocks += [Heading(text="Reasons"), Bullets(items=told_reasons)]
    return blocks


def _rows(item: BaselineChange, name: str) -> Iterator[Row]:
    assert item.old is not None
    assert item.new is not None
    lines = list(_figures(item.old, item.new))
    for n, line in enumerate(lines or [row("nothing that is judged", NONE, NONE)]):
        yield row("" if n else name, *line.cells)


def _figures(old: Baseline, new: Baseline) -> Iterator[Row]:
    """Return each figure that changed, its values, and by how much."""
    for part in ("perplexity", "divergence", "routing"):
        had, has = (getattr(side, part) is not None for side in (old, new))
        if had != has:
            yield row(part, "stored → gone" if had else "none → stored", NONE)
    if old.perplexity and new.perplexity and old.perplexity.ppl != new.perplexity.ppl:
        shift = new.perplexity.chunks.paired(old.perplexity.chunks).shift()
        moved = "of another text"
        if old.perplexity.text_sha256 == new.perplexity.text_sha256 and shift is not None:
            moved = change(shift.change, shift.low, shift.high)
        yield row("PPL", f"{old.perplexity.ppl:.4f} → {new.perplexity.ppl:.4f}", moved)
    if old.divergence is not None and new.divergence is not None:
        before, after = old.divergence, new.divergence
        if before.mean_kld_nats != after.mean_kld_nats:
            moved = _kld_change(old, new)
            yield row("mean KLD", f"{before.mean_kld_nats:.5f} → {after.mean_kld_nats:.5f}", moved)
        if before.same_top != after.same_top:
            values = f"{100 * before.same_top:.2f} → {100 * after.same_top:.2f} %"
            yield row("same top", values, NONE)
    if old.routing and new.routing and old.routing != new.routing:
        shares = (
            sum(side.same_experts) / (side.tokens * len(side.layers))
            for side in (old.routing, new.routing)
        )
        yield row("same experts", " → ".join(share(value, 2) for value in shares), NONE)
    sizes = old.size.file_bytes, new.size.file_bytes
    if sizes[0] != sizes[1]:
        moved = f"{number(100 * (sizes[1] / sizes[0] - 1), '+.2f')} %"
        yield row("bytes", f"{sizes[0]:,} → {sizes[1]:,}", moved)
    if new.metadata is not None:
        for field in fields_changed(old.metadata, new.metadata):
            yield row("metadata", field, NONE)
    tensors = compare_tensors(old.size.tensors, new.size.tensors)
    if tensors.any:
        yield row("tensors", tensors.describe(), NONE)
    yield from _costs(old, new)
    before_made, after_made = old.made_by, new.made_by
    if before_made.llama_cpp != after_made.llama_cpp:
        yield row("llama.cpp", f"{before_made.llama_cpp} → {after_made.llama_cpp}", NONE)
    if old.anchor != new.anchor:
        yield row("anchor", "set anew: slow drift is judged from here", NONE)


def _kld_change(old: Baseline, new: Baseline) -> str:
    """Return how far the divergence moved, with its interval where chunks can be paired."""
    pair = new.scored.chunks.paired(old.scored.chunks)
    interval = None
    if old.scored.text_sha256 == new.scored.text_sha256:
        interval = kld_change(pair)
    return "of another text" if interval is None else nats_change(*interval)


def _costs(old: Baseline, new: Baseline) -> Iterator[Row]:
    for digest in sorted(old.speed.keys() & new.speed.keys()):
        before, after = old.speed[digest], new.speed[digest]
        for name, then, now in (
            (f"pp{after.prefill_tokens} t/s", before.prefill_rates, after.prefill_rates),
            (f"tg{after.decode_tokens} t/s", before.decode_rates, after.decode_rates),
        ):
            if then != now and before.settings == after.settings:
                estimate = stats.slowdown_unpaired(then, now)
                low, high = stats.interval(estimate)
                ratio = (stats.ppl_change(-value) for value in (estimate.mean, high, low))
                rates = (sum(values) / len(values) for values in (then, now))
                yield row(name, " → ".join(f"{value:,.1f}" for value in rates), change(*ratio))
    for digest in sorted(old.memory.keys() & new.memory.keys()):
        peaks = [side.memory[digest].peak_resident_bytes for side in (old, new)]
        if peaks[0] != peaks[1]:
            moved = f"{number(100 * (peaks[1] / peaks[0] - 1), '+.2f')} %"
            yield row(
                "peak memory", " → ".join(f"{peak / 1e6:,.1f}" for peak in peaks) + " MB", moved
            )
