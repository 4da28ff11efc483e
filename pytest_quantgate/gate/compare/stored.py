"""A cell's record as the judges see it: as the baseline, or as what was observed.

With both, two records are judged by the same functions that judge a test's cell, and their cause
is found by the same hashes. What a record lacks beside a measurement are the values of single
tokens: comparisons are of chunks' sums.
"""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

from pytest_quantgate.gate.acceptance import memory_part, routing_part, speed_part
from pytest_quantgate.gate.observation import Observation
from pytest_quantgate.gguf.tensor_changes import unpack_tensors
from pytest_quantgate.results.baseline import Anchor, Baseline, Divergence, Perplexity, Size
from pytest_quantgate.results.measurements.perplexity import PerplexityMeasurement
from pytest_quantgate.results.measurements.size import SizeMeasurement
from pytest_quantgate.results.measurements.speed import SpeedMeasurement
from pytest_quantgate.results.record import CellRecord


def is_complete(record: CellRecord) -> bool:
    """Tell whether a record has what two are compared by, and a file."""
    return record.key is not None and record.made_by is not None and record.file_bytes is not None


def as_baseline(record: CellRecord) -> Baseline:
    """Return the baseline that a complete record is."""
    assert record.key is not None
    assert record.made_by is not None
    assert record.file_bytes is not None
    assert record.bits_per_weight is not None
    scored = _perplexity(record)
    key = record.key
    if scored is None:
        key = key.model_copy(update={"text": "", "n_ctx": 0})
    return Baseline(
        key=key,
        source_sha256=record.source_sha256,
        made_by=record.made_by,
        perplexity=scored,
        divergence=_divergence(record),
        routing=routing_part(record.measured),
        size=Size(
            file_bytes=record.file_bytes,
            bits_per_weight=record.bits_per_weight,
            fallback_fraction=record.fallback_fraction or 0.0,
            tensors=record.tensors,
        ),
        metadata=record.metadata,
        speed=speed_part(record.made_by, record.measured),
        memory=memory_part(record.made_by, record.measured),
        anchor=Anchor(
            index=record.chunks.index,
            nll_sum_nats=record.chunks.nll_sum_nats,
            file_bytes=record.file_bytes,
        ),
        reason="",
    )


def _perplexity(record: CellRecord) -> Perplexity | None:
    if record.ppl is None:
        return None
    return Perplexity(
        ppl=record.ppl,
        text_sha256=record.text_sha256,
        per_token_sha256=None,
        chunks=record.chunks,
    )


def _divergence(record: CellRecord) -> Divergence | None:
    found, sums = record.divergence, record.chunks.kld_sums
    if found is None or sums is None or not all(map(math.isfinite, sums)):
        return None
    return Divergence(
        mean_kld_nats=found.mean_kld_nats,
        same_top=found.same_top,
        reference_per_token_sha256=None,
    )


def as_observation(
    record: CellRecord,
    reference: CellRecord | None = None,
    old_reference: CellRecord | None = None,
) -> Observation:
    """Return what a complete record says was observed.

    Args:
        record: the cell's.
        reference: its reference's in the same run, None for the reference itself or where the
            run has none.
        old_reference: that of the run it is compared with.

    """
    assert record.made_by is not None
    return Observation(
        perplexity=_measurement(record),
        reference=None if reference is None else _measurement(reference),
        divergence=record.divergence,
        size=_size(record),
        tensors=unpack_tensors(record.tensors),
        metadata=record.metadata,
        made_by=record.made_by,
        source_sha256=record.source_sha256,
        text_sha256=record.text_sha256,
        text_sha256_with_lf=record.text_sha256,
        quantizer_cpu=record.quantizer_cpu,
        same_computation=False,
        tokens_changed=None,
        reference_baseline=None if old_reference is None else as_baseline(old_reference),
        measured={name: _of_this_run_alone(item) for name, item in record.measured.items()},
    )


def _of_this_run_alone(measured: Any) -> Any:
    """Leave out what a speed was held against in its own run."""
    return replace(measured, against=()) if isinstance(measured, SpeedMeasurement) else measured


def _measurement(record: CellRecord) -> PerplexityMeasurement | None:
    if record.ppl is None:
        return None
    return PerplexityMeasurement(
        chunks=record.chunks,
        nll_nats=None,
        top_tokens=None,
        n_chunks_in_text=record.n_chunks_in_text or len(record.chunks),
        seconds_s=record.seconds_s,
    )


def _size(record: CellRecord) -> SizeMeasurement:
    assert record.file_bytes is not None
    assert record.bits_per_weight is not None
    tensor_bytes = sum(record.bytes_by_type.values())
    return SizeMeasurement(
        file_bytes=record.file_bytes,
        tensor_bytes=tensor_bytes,
        n_weights=round(8 * tensor_bytes / record.bits_per_weight),
        bits_per_weight=record.bits_per_weight,
        bytes_by_type=record.bytes_by_type,
        bytes_by_part=record.bytes_by_part,
        tensors_by_type=record.tensors_by_type,
        tensor_types={item.name: item.type for item in unpack_tensors(record.tensors)},
        fallbacks=record.fallbacks,
        fallback_fraction=record.fallback_fraction or 0.0,
        no_effect=False,
    )
