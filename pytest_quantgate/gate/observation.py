"""What was observed in a cell, as the judge and the search for causes see it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, TypeVar

from pytest_quantgate.gguf.digests import TensorDigest
from pytest_quantgate.results.baseline import Baseline, MadeBy
from pytest_quantgate.results.measurements.divergence import DivergenceMeasurement
from pytest_quantgate.results.measurements.perplexity import PerplexityMeasurement, TokenChanges
from pytest_quantgate.results.measurements.size import SizeMeasurement

MeasurementT = TypeVar("MeasurementT")


@dataclass(frozen=True, kw_only=True)
class Observation:
    """What was observed in a cell, up to a look.

    ``perplexity`` is None where nothing was asked that needs the text; ``reference_baseline``
    is the reference's own; ``reference_file_bytes`` is there where a limit asks for it;
    ``measured`` has the metrics of
    :mod:`pytest_quantgate.metrics.registry` that were asked for, by name.
    ``metadata`` has the file's settings
    (:meth:`~pytest_quantgate.gguf.reader.GgufFile.settings`), ``made_by`` what computes now,
    ``quantizer_cpu`` what made the file, None for a user's own. ``tokens_changed`` compares with
    the baseline's per-token values, None where they are gone; ``same_computation`` says that file,
    libraries, processor and settings are the baseline's: on a CPU equal values then stay equal
    on every further chunk.
    """

    perplexity: PerplexityMeasurement | None
    reference: PerplexityMeasurement | None
    divergence: DivergenceMeasurement | None
    size: SizeMeasurement
    tensors: tuple[TensorDigest, ...]
    metadata: Mapping[str, str]
    made_by: MadeBy
    source_sha256: str | None
    text_sha256: str
    text_sha256_with_lf: str
    quantizer_cpu: str | None
    same_computation: bool
    tokens_changed: TokenChanges | None
    reference_baseline: Baseline | None = None
    reference_file_bytes: int | None = None
    measured: Mapping[str, Any] = field(default_factory=dict)

    @property
    def scored(self) -> PerplexityMeasurement:
        """The perplexity, for judges that are only asked where it was measured."""
        assert self.perplexity is not None
        return self.perplexity

    def find(self, kind: type[MeasurementT]) -> MeasurementT | None:
        """Return the measurement of a kind, None where it was not asked for."""
        return next((item for item in self.measured.values() if isinstance(item, kind)), None)


def percent(fraction: float | None, digits: int = 2) -> str:
    """Format a relative change with its sign."""
    if fraction is None or not math.isfinite(fraction):
        return "not finite" if fraction is not None else "–"
    return f"{100 * fraction:+.{digits}f} %".replace("-", "−")


def describe_token_changes(changes: TokenChanges) -> str:
    """Say how many tokens are not bit-equal, and the largest move."""
    if changes.changed == 0:
        return f"none of {changes.tokens:,} tokens changed"
    largest = f"{changes.largest_nats:.3g} nats"
    if not math.isfinite(changes.largest_nats):
        largest = "not finite"
    return f"{changes.changed:,} of {changes.tokens:,} tokens changed, largest |Δ| {largest}"


def token_ids_changed(seen: Observation, baseline: Baseline) -> int:
    """Count the chunks whose token ids are not the baseline's."""
    if seen.perplexity is None:
        return 0
    return seen.perplexity.chunks.paired(baseline.scored.chunks).retokenized
