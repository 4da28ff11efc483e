"""The baseline that would accept what was measured."""

from __future__ import annotations

import math
from collections.abc import Mapping
from collections.abc import Set as AbstractSet
from typing import Any

from pytest_quantgate.artifacts.files import CellFile
from pytest_quantgate.gguf.tensor_changes import pack_tensors
from pytest_quantgate.matrix.cells import Cell
from pytest_quantgate.matrix.run import Run
from pytest_quantgate.metrics.divergence import measure_divergence, same_top_tokens
from pytest_quantgate.results.baseline import (
    Anchor,
    Baseline,
    Divergence,
    MadeBy,
    MemoryBaseline,
    Perplexity,
    Routing,
    Size,
    SpeedBaseline,
)
from pytest_quantgate.results.measurement_store import per_token_sha256
from pytest_quantgate.results.measurements.memory import MemoryMeasurement
from pytest_quantgate.results.measurements.perplexity import PerplexityMeasurement
from pytest_quantgate.results.measurements.routing import RoutingMeasurement
from pytest_quantgate.results.measurements.size import SizeMeasurement
from pytest_quantgate.results.measurements.speed import SpeedMeasurement

QUALITY = frozenset({"perplexity", "divergence"})
"""The metrics that a baseline keeps together: both are of the same chunks."""


def made_by(run: Run, cell: Cell, file: CellFile) -> MadeBy:
    """Describe what makes a measurement of a cell."""
    identity = run.engine(cell.engine).identity()
    return MadeBy(
        engine=f"{identity.kind} {identity.version}",
        llama_cpp=identity.llama_cpp_version,
        library_sha256=identity.library_sha256,
        quantizer_sha256=file.quantizer_sha256,
        imatrix_sha256=file.imatrix_sha256,
        system_info=identity.system_info,
        cpu=identity.cpu_name,
        platform=identity.platform,
        n_threads=run.n_threads,
        n_batch=run.n_batch,
        n_ubatch=run.n_ubatch,
    )


def make_baseline(
    run: Run,
    cell: Cell,
    file: CellFile,
    size: SizeMeasurement,
    perplexity: PerplexityMeasurement | None,
    reference: PerplexityMeasurement | None,
    old: Baseline | None,
    measured: Mapping[str, Any],
) -> Baseline:
    """Build the baseline that accepts a measurement; it keeps the old one's anchor.

    ``perplexity`` is None for a cell without a text. What was not ``measured`` now stays as it was;
    so do the speeds and memories of other hardware, where the source is the same.
    """
    maker = made_by(run, cell, file)
    part = None
    if perplexity is not None:
        part = _perplexity_part(perplexity, reference, run.text(cell.text).sha256)
    comparable = (
        old is not None
        and (old.perplexity and old.perplexity.text_sha256) == (part and part.text_sha256)
        and old.source_sha256 == file.source_sha256
    )
    kept = old if old is not None and old.source_sha256 == file.source_sha256 else None
    anchor = Anchor(
        index=part.chunks.index if part is not None else (),
        nll_sum_nats=part.chunks.nll_sum_nats if part is not None else (),
        file_bytes=size.file_bytes,
    )
    return Baseline(
        key=run.key(cell),
        source_sha256=file.source_sha256,
        made_by=maker,
        perplexity=part,
        divergence=_divergence_part(perplexity, reference),
        routing=routing_part(measured) or (old.routing if old is not None and comparable else None),
        size=Size(
            file_bytes=size.file_bytes,
            bits_per_weight=round(size.bits_per_weight, 4),
            fallback_fraction=round(size.fallback_fraction, 4),
            tensors=pack_tensors(file.tensors),
        ),
        metadata=file.header.settings(),
        speed=_speeds(kept.speed if kept else {}, speed_part(maker, measured)),
        memory={**(kept.memory if kept else {}), **memory_part(maker, measured)},
        anchor=old.anchor if old is not None and comparable else anchor,
        reason="",
    )


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
    texts = [item.perplexity and item.perplexity.text_sha256 for item in (old, new)]
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


def routing_part(measured: Mapping[str, Any]) -> Routing | None:
    """Return what a baseline keeps of the routes; None for a reference or where none are."""
    found = measured.get("routing")
    if not isinstance(found, RoutingMeasurement) or not found.layers or found.is_reference:
        return None
    return Routing(
        tokens=found.tokens,
        layers=tuple(layer.layer for layer in found.layers),
        same_experts=tuple(layer.same_experts for layer in found.layers),
        same_top_expert=tuple(layer.same_top_expert for layer in found.layers),
        index=found.chunk_indices,
        chunk_same_experts=found.chunk_same_experts,
    )


def speed_part(maker: MadeBy, measured: Mapping[str, Any]) -> dict[str, SpeedBaseline]:
    """Return what a baseline keeps of a speed, by the fingerprint of its hardware."""
    found = measured.get("speed")
    if not isinstance(found, SpeedMeasurement):
        return {}
    part = SpeedBaseline(
        fingerprint=found.fingerprint,
        engine=maker.engine,
        llama_cpp=maker.llama_cpp,
        prefill_tokens=found.prefill_tokens,
        decode_tokens=found.decode_tokens,
        depth=found.depth,
        n_batch=found.n_batch,
        n_ubatch=found.n_ubatch,
        prefill_rates=tuple(float(f"{rate:.6g}") for rate in found.rates("prefill")),
        decode_rates=tuple(float(f"{rate:.6g}") for rate in found.rates("decode")),
    )
    return {found.fingerprint.digest: part}


def _speeds(
    old: Mapping[str, SpeedBaseline], new: Mapping[str, SpeedBaseline]
) -> dict[str, SpeedBaseline]:
    """Return both, the new in place of the old; the first ones of the same settings are kept."""
    found = dict(old)
    for digest, speed in new.items():
        before = old.get(digest)
        is_comparable = before is not None and before.settings == speed.settings
        anchor = before.first if before is not None and is_comparable else None
        found[digest] = speed.model_copy(update={"anchor": anchor})
    return found


def memory_part(maker: MadeBy, measured: Mapping[str, Any]) -> dict[str, MemoryBaseline]:
    """Return what a baseline keeps of the memory, by the fingerprint of its hardware."""
    found = measured.get("memory")
    if not isinstance(found, MemoryMeasurement) or found.peak_resident_bytes is None:
        return {}
    part = MemoryBaseline(
        fingerprint=found.fingerprint,
        engine=maker.engine,
        llama_cpp=maker.llama_cpp,
        n_ctx=found.n_ctx,
        n_batch=found.n_batch,
        n_ubatch=found.n_ubatch,
        peak_resident_bytes=found.peak_resident_bytes,
    )
    return {found.fingerprint.digest: part}


def _perplexity_part(
    perplexity: PerplexityMeasurement, reference: PerplexityMeasurement | None, text_sha256: str
) -> Perplexity:
    same = None if reference is None else same_top_tokens(perplexity, reference)
    return Perplexity(
        ppl=perplexity.perplexity,
        text_sha256=text_sha256,
        per_token_sha256=per_token_sha256(perplexity),
        chunks=perplexity.chunks.replace(same_top=same or perplexity.chunks.same_top),
    )


def _divergence_part(
    perplexity: PerplexityMeasurement | None, reference: PerplexityMeasurement | None
) -> Divergence | None:
    if perplexity is None or reference is None:
        return None
    found = measure_divergence(perplexity, reference)
    sums = perplexity.chunks.kld_sums
    if found is None or sums is None or not all(map(math.isfinite, sums)):
        return None
    return Divergence(
        mean_kld_nats=found.mean_kld_nats,
        same_top=found.same_top,
        reference_per_token_sha256=per_token_sha256(reference),
    )
