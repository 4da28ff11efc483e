"""What was observed in a cell, as the judge and the search for causes see it."""

from __future__ import annotations

import math
from dataclasses import dataclass

from pytest_quantgate.baselines.schema import Baseline
from pytest_quantgate.formats import Format
from pytest_quantgate.metrics.batches import BatchMeasurement
from pytest_quantgate.metrics.divergence import DivergenceMeasurement
from pytest_quantgate.metrics.perplexity import PerplexityMeasurement, TokenChanges
from pytest_quantgate.metrics.size import SizeMeasurement
from pytest_quantgate.models.gguf_file import TensorDigest


@dataclass(frozen=True, kw_only=True)
class Observation:
    """What was observed in a cell, up to a look.

    ``reference_baseline`` is the reference's own; ``batches`` is there only if asked for.
    ``tokens_changed`` compares with the
    baseline's per-token values, None where they are gone; ``same_computation`` says that file,
    libraries, processor and settings are the baseline's: on a CPU equal values then stay equal
    on every further chunk.
    """

    format: Format
    perplexity: PerplexityMeasurement
    reference: PerplexityMeasurement | None
    divergence: DivergenceMeasurement | None
    reference_file_bytes: int | None
    size: SizeMeasurement
    tensors: tuple[TensorDigest, ...]
    source_sha256: str | None
    text_sha256: str
    text_sha256_with_lf: str
    quantizer_cpu: str | None
    same_computation: bool
    tokens_changed: TokenChanges | None
    reference_baseline: Baseline | None = None
    batches: BatchMeasurement | None = None


def percent(fraction: float | None, digits: int = 2) -> str:
    """Format a relative change with its sign."""
    if fraction is None or not math.isfinite(fraction):
        return "not finite" if fraction is not None else "–"
    return f"{100 * fraction:+.{digits}f} %".replace("-", "−")


def token_ids_changed(seen: Observation, baseline: Baseline) -> int:
    """Count the chunks whose token ids are not the baseline's."""
    stored = dict(
        zip(baseline.perplexity.chunks.index, baseline.perplexity.chunks.token_ids, strict=True)
    )
    return sum(
        stored.get(chunk.index, chunk.token_ids_sha256[:16]) != chunk.token_ids_sha256[:16]
        for chunk in seen.perplexity.chunks
    )
