"""Why a cell moved: found by hashes, in the order in which data flows."""

from __future__ import annotations

from pytest_quantgate.baselines.schema import Baseline
from pytest_quantgate.baselines.tensors import TensorChanges, compare_tensors, pack_tensors
from pytest_quantgate.observation import Observation, percent, token_ids_changed


def find_cause(seen: Observation, baseline: Baseline, *, same_quantizer_cpu: bool) -> str:
    """Say what moved a cell away from its baseline: tokenizer, quantizer or runtime."""
    if token_ids_changed(seen, baseline):
        return "cause: tokenizer (the same text has other token ids)"
    changes: TensorChanges = compare_tensors(baseline.size.tensors, pack_tensors(seen.tensors))
    parts = ["tokenization same"]
    if changes.any:
        attributable = same_quantizer_cpu or bool(changes.types_changed or changes.added_or_gone)
        parts.append(changes.describe())
        parts.append(f"size {percent(seen.size.file_bytes / baseline.size.file_bytes - 1)}")
        cause = "quantizer" if attributable else "not attributable: made on another kind of CPU"
    else:
        parts.append(f"all {len(seen.tensors)} tensors same")
        cause = "runtime kernels"
    if seen.tokens_changed is not None:
        tokens = seen.tokens_changed
        parts.append(
            f"{tokens.changed:,} of {tokens.tokens:,} tokens changed, largest |Δ|"
            f" {tokens.largest_nats:.3g} nats"
        )
    return f"cause: {cause} ({'; '.join(parts)})"
