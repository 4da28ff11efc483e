"""Heat maps: domains, the distribution of the divergence, layers and experts."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pytest_quantgate.reports.chunks import domain_klds_on, domains_on
from pytest_quantgate.reports.run_tables import Group, label
from pytest_quantgate.reports.words import NONE, number, share
from pytest_quantgate.results.measurements.routing import RoutingMeasurement
from pytest_quantgate.results.record import CellRecord

_PERCENTILES = ("50", "90", "95", "99", "99.9")


@dataclass(frozen=True, kw_only=True)
class Heat:
    """A figure with the strength of its colour, from 0 to 1; None is not coloured."""

    text: str
    strength: float | None


@dataclass(frozen=True, kw_only=True)
class HeatMap:
    """Figures of formats in columns; ``says`` tells what a darker colour means."""

    title: str
    says: str
    headings: tuple[str, ...]
    rows: tuple[tuple[str, tuple[Heat, ...]], ...]


def heat_maps(group: Group) -> tuple[HeatMap, ...]:
    """Return a group's heat maps of formats in rows."""
    return (*_domain_maps(group), *_percentile_maps(group), *_layer_maps(group))


def _strengths(values: Sequence[float | None], *, is_log: bool = False) -> list[float | None]:
    """Return where each value lies between the smallest and the largest."""
    scaled = [_scale(value, is_log=is_log) for value in values]
    finite = [value for value in scaled if value is not None]
    if not finite or min(finite) == max(finite):
        return [None] * len(values)
    low, high = min(finite), max(finite)
    return [None if value is None else (value - low) / (high - low) for value in scaled]


def _scale(value: float | None, *, is_log: bool) -> float | None:
    if value is None or not math.isfinite(value) or (is_log and value <= 0):
        return None
    return math.log(value) if is_log else value


def _heat_map(
    title: str,
    says: str,
    headings: Sequence[str],
    rows: Sequence[tuple[str, Sequence[float | None], Sequence[str]]],
    *,
    is_log: bool = False,
) -> HeatMap:
    strengths = iter(_strengths([v for _, values, _ in rows for v in values], is_log=is_log))
    return HeatMap(
        title=title,
        says=says,
        headings=tuple(headings),
        rows=tuple(
            (name, tuple(Heat(text=text, strength=next(strengths)) for text in texts))
            for name, _, texts in rows
        ),
    )


def _domain_maps(group: Group) -> Iterable[HeatMap]:
    reference = group.reference
    before = {} if reference is None else dict(sorted(domains_on(reference, group.chunks).items()))
    ppl_rows, kld_rows = [], []
    for cell in group.cells:
        now = domains_on(cell, group.chunks)
        if cell.is_reference or not now:
            continue
        moves = [now[d] / before[d] - 1 if d in now else None for d in before]
        texts = [NONE if m is None else f"{number(100 * m, '+.2f')} %" for m in moves]
        ppl_rows.append((label(cell), moves, texts))
        klds = domain_klds_on(cell, group.chunks)
        values = [klds.get(domain) for domain in before]
        kld_rows.append((label(cell), values, [number(value, ".4f") for value in values]))
    if before and ppl_rows:
        chunks = f"on {len(group.chunks)} chunks"
        yield _heat_map(
            "Domains: change of perplexity", f"darker is worse; {chunks}", list(before), ppl_rows
        )
        yield _heat_map(
            "Domains: mean KLD in nats",
            f"darker is further from the reference; {chunks}",
            list(before),
            kld_rows,
            is_log=True,
        )


def _percentile_maps(group: Group) -> Iterable[HeatMap]:
    rows, tokens = [], set()
    for cell in group.cells:
        measured = cell.divergence
        if measured is None or not measured.kld_percentiles_nats:
            continue
        tokens.add(measured.tokens)
        values = [measured.kld_percentiles_nats.get(name) for name in _PERCENTILES]
        values.append(measured.max_kld_nats)
        rows.append((label(cell), values, [number(value, ".4g") for value in values]))
    if rows:
        headings = ("median", *(f"{name} %" for name in _PERCENTILES[1:]), "max")
        of = " to ".join(f"{count:,}" for count in sorted({min(tokens), max(tokens)}))
        yield _heat_map(
            "Distribution of the KLD over tokens",
            f"percentiles in nats; darker is further from the reference; of {of} tokens a cell",
            headings,
            rows,
            is_log=True,
        )


def _routing(cell: CellRecord) -> RoutingMeasurement | None:
    measured = cell.measured.get("routing")
    if not isinstance(measured, RoutingMeasurement) or not measured.layers:
        return None
    return None if measured.is_reference else measured


def _layer_maps(group: Group) -> Iterable[HeatMap]:
    rows = []
    headings: tuple[str, ...] = ()
    for cell in group.cells:
        routing = _routing(cell)
        if routing is not None:
            headings = tuple(f"layer {layer.layer}" for layer in routing.layers)
            moved = [1 - layer.same_experts / layer.tokens for layer in routing.layers]
            rows.append((label(cell), moved, [share(value) for value in moved]))
    if rows:
        yield _heat_map("Layers: tokens that go to other experts", "darker is more", headings, rows)


def expert_data(group: Group) -> Mapping[str, Any] | None:
    """Return each format's weight error by layer and expert, and its load, rounded for drawing."""
    formats: dict[str, Any] = {}
    for cell in group.cells:
        routing = _routing(cell)
        if routing is None:
            continue
        errors = {(item.layer, item.expert): item.relative_rms for item in routing.experts}
        formats[label(cell)] = {
            "layers": [layer.layer for layer in routing.layers],
            "load": [[round(part, 4) for part in layer.load] for layer in routing.layers],
            "error": [
                [_rounded(errors.get((layer.layer, n))) for n in range(len(layer.load))]
                for layer in routing.layers
            ],
        }
    return formats or None


def _rounded(value: float | None) -> float | None:
    return None if value is None or not math.isfinite(value) else float(f"{value:.3g}")
