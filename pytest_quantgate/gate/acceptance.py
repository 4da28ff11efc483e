"""The baseline that would accept what was measured."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from collections.abc import Set as AbstractSet

from pytest_quantgate import stats
from pytest_quantgate.results.anchor import Anchor
from pytest_quantgate.results.baseline import (
    Baseline,
    Divergence,
    MemoryBaseline,
    Perplexity,
    Routing,
    Size,
    SpeedBaseline,
)
from pytest_quantgate.results.chunk_table import ChunkTable
from pytest_quantgate.results.hardware import of_same_machine
from pytest_quantgate.results.measurements.memory import MemoryMeasurement
from pytest_quantgate.results.measurements.routing import RoutingMeasurement
from pytest_quantgate.results.measurements.speed import SpeedMeasurement
from pytest_quantgate.results.record import CellRecord

QUALITY = frozenset({"perplexity", "divergence"})
"""The metrics that a baseline keeps together: both are of the same chunks."""


def make_baseline(record: CellRecord, old: Baseline | None = None, reason: str = "") -> Baseline:
    """Build the baseline that accepts what a record says was measured; it keeps the old anchor.

    What was not measured now stays as it was; so do the speeds and memories of other hardware,
    where the source is the same. Without scored chunks it is the baseline of a cell without a text.
    An old one under other settings gives its anchor alone.
    """
    assert record.key is not None
    assert record.made_by is not None
    assert record.file_bytes is not None
    assert record.bits_per_weight is not None
    perplexity = _perplexity_part(record)
    key = record.key
    if perplexity is None:
        key = key.model_copy(update={"text": "", "n_ctx": 0})
    before = old if old is not None and old.source_sha256 == record.source_sha256 else None
    kept = before if before is not None and before.key in {record.key, key} else None
    same_text = kept
    if kept is not None and _text_of(kept.perplexity) != _text_of(perplexity):
        same_text = None
    return Baseline(
        key=key,
        source_sha256=record.source_sha256,
        made_by=record.made_by,
        perplexity=perplexity,
        divergence=_divergence_part(record),
        routing=_routing_part(record) or (same_text.routing if same_text else None),
        size=Size(
            file_bytes=record.file_bytes,
            bits_per_weight=round(record.bits_per_weight, 4),
            fallback_fraction=round(record.fallback_fraction or 0.0, 4),
            tensors=record.tensors,
        ),
        metadata=record.metadata,
        speed=_speeds(kept.speed if kept else {}, _speed_part(record)),
        memory={**(kept.memory if kept else {}), **_memory_part(record)},
        anchor=_anchor(record, before, by_place=same_text is not None),
        reason=reason,
    )


def kept_anchor(chunks: ChunkTable, before: Baseline, *, by_place: bool) -> Anchor | None:
    """Return the first accepted values that go on to hold, with divergences not known before.

    None where too few of the scored chunks have any to judge by.
    """
    anchor, known = before.anchor, [chunks, before.scored.chunks]
    if not by_place:
        pair, known = before.first_accepted(chunks, by_place=False), [chunks]
        equal = pair.after
        if len(set(stats.cluster_labels(equal.document, equal.index))) < stats.MIN_CLUSTERS:
            return None
        anchor = Anchor(
            index=equal.index,
            nll_sum_nats=pair.before.nll_sum_nats,
            kld_sum_nats=pair.before.kld_sum_nats,
            file_bytes=before.anchor.file_bytes,
        )
    later = {
        index: nats
        for table in known
        for index, nats in zip(table.index, table.kld_sum_nats, strict=True)
        if nats is not None and math.isfinite(nats)
    }
    sums = [
        later.get(index) if first is None else first
        for index, first in zip(anchor.index, anchor.kld_sums, strict=True)
    ]
    return anchor.model_copy(update={"kld_sum_nats": _known(sums)})


def _known(sums: Sequence[float | None]) -> tuple[float | None, ...]:
    """Return a column that is empty where nothing of it is known."""
    return () if all(value is None for value in sums) else tuple(sums)


def _anchor(record: CellRecord, before: Baseline | None, *, by_place: bool) -> Anchor:
    """Return what drift is judged from: the first values where there are such, else these.

    In another text, or under other settings, a chunk is known by its tokens, wherever it is.
    Where too few are left to judge by, the drift of the quality begins anew, that of the file
    does not.
    """
    chunks, file_bytes = record.chunks, record.file_bytes or 0
    if before is not None:
        file_bytes = before.anchor.file_bytes
        kept = None
        if before.perplexity is not None:
            kept = kept_anchor(chunks, before, by_place=by_place)
        if kept is not None:
            return kept
    sums = [
        value if value is None or math.isfinite(value) else None for value in chunks.kld_sum_nats
    ]
    return Anchor(
        index=chunks.index,
        nll_sum_nats=chunks.nll_sum_nats,
        kld_sum_nats=_known(sums),
        file_bytes=file_bytes,
    )


def _text_of(perplexity: Perplexity | None) -> str | None:
    return None if perplexity is None else perplexity.text_sha256


def merge_parts(old: Baseline, new: Baseline, asked: AbstractSet[str]) -> Baseline:
    """Return the old baseline with the parts of the new one that were asked about.

    Both are of one source. What nobody asked about stays: whoever accepts a speed or a size has
    not looked at the quality. What made a measurement goes with the quality, or with the size
    where there is none; routes of another text than the quality's are left out.

    Args:
        old: what is stored.
        new: what was measured now.
        asked: the metrics that were asked about.

    """
    texts = [_text_of(item.perplexity) for item in (old, new)]
    names = {"speed", "memory"}
    takes_quality = not QUALITY.isdisjoint(asked)
    if "size" in asked:
        names.add("size")
    if takes_quality or (old.perplexity is None and "size" in asked):
        names |= {"perplexity", "divergence", "metadata", "made_by", "anchor", "routing"}
    elif texts[0] == texts[1]:
        names.add("routing")
    merged = old.model_copy(update={name: getattr(new, name) for name in names})
    scored = (new if takes_quality else old).tensors_scored
    is_apart = merged.perplexity is not None and scored != merged.size.tensors
    return merged.model_copy(update={"scored_tensors": scored if is_apart else None})


def _routing_part(record: CellRecord) -> Routing | None:
    """Return what a baseline keeps of the routes; None for a reference or where none are."""
    routing = record.measured.get("routing")
    if not isinstance(routing, RoutingMeasurement) or not routing.layers or routing.is_reference:
        return None
    return Routing(
        tokens=routing.tokens,
        layers=tuple(layer.layer for layer in routing.layers),
        same_experts=tuple(layer.same_experts for layer in routing.layers),
        same_top_expert=tuple(layer.same_top_expert for layer in routing.layers),
        index=routing.chunk_indices,
        chunk_same_experts=routing.chunk_same_experts,
    )


def _speed_part(record: CellRecord) -> dict[str, SpeedBaseline]:
    """Return what a baseline keeps of a speed, by the fingerprint of its hardware."""
    speed = record.measured.get("speed")
    if not isinstance(speed, SpeedMeasurement) or record.made_by is None:
        return {}
    part = SpeedBaseline(
        fingerprint=speed.fingerprint,
        engine=record.made_by.engine,
        llama_cpp=record.made_by.llama_cpp,
        prefill_tokens=speed.prefill_tokens,
        decode_tokens=speed.decode_tokens,
        depth=speed.depth,
        n_batch=speed.n_batch,
        n_ubatch=speed.n_ubatch,
        prefill_rates=tuple(float(f"{rate:.6g}") for rate in speed.rates("prefill")),
        decode_rates=tuple(float(f"{rate:.6g}") for rate in speed.rates("decode")),
    )
    return {speed.fingerprint.digest: part}


def _speeds(
    old: Mapping[str, SpeedBaseline], new: Mapping[str, SpeedBaseline]
) -> dict[str, SpeedBaseline]:
    """Return both, the new in place of the old; the first ones of the same settings are kept."""
    found = dict(old)
    for digest, speed in new.items():
        before = of_same_machine(old, speed.fingerprint)
        is_comparable = before is not None and before.settings == speed.settings
        anchor = before.first if before is not None and is_comparable else None
        found[digest] = speed.model_copy(update={"anchor": anchor})
    return found


def _memory_part(record: CellRecord) -> dict[str, MemoryBaseline]:
    """Return what a baseline keeps of the memory, by the fingerprint of its hardware."""
    memory = record.measured.get("memory")
    if not isinstance(memory, MemoryMeasurement) or record.made_by is None:
        return {}
    if memory.peak_resident_bytes is None:
        return {}
    part = MemoryBaseline(
        fingerprint=memory.fingerprint,
        engine=record.made_by.engine,
        llama_cpp=record.made_by.llama_cpp,
        n_ctx=memory.n_ctx,
        n_batch=memory.n_batch,
        n_ubatch=memory.n_ubatch,
        peak_resident_bytes=memory.peak_resident_bytes,
    )
    return {memory.fingerprint.digest: part}


def _perplexity_part(record: CellRecord) -> Perplexity | None:
    if record.ppl is None:
        return None
    return Perplexity(
        ppl=record.ppl,
        text_sha256=record.text_sha256,
        per_token_sha256=record.per_token_sha256,
        chunks=record.chunks,
    )


def _divergence_part(record: CellRecord) -> Divergence | None:
    divergence, sums = record.divergence, record.chunks.kld_sums
    if divergence is None or sums is None or not all(map(math.isfinite, sums)):
        return None
    return Divergence(
        mean_kld_nats=divergence.mean_kld_nats,
        same_top=divergence.same_top,
        reference_per_token_sha256=record.reference_per_token_sha256,
    )
