"""Why a cell moved: found by hashes, in the order in which data flows."""

from __future__ import annotations

from collections.abc import Set as AbstractSet

from pytest_quantgate import statistics
from pytest_quantgate.baselines.schema import Baseline
from pytest_quantgate.baselines.tensors import TensorChanges, compare_tensors, pack_tensors
from pytest_quantgate.observation import Observation, percent, token_ids_changed


def _common_cause(seen: Observation, baseline: Baseline) -> str | None:
    """Say how much of a move the reference made too, and what is left beyond it."""
    mine, theirs = seen.perplexity, seen.reference
    if mine is None or theirs is None or seen.reference_baseline is None:
        return None
    columns = []
    for measured, stored in ((mine, baseline), (theirs, seen.reference_baseline)):
        if stored.perplexity.text_sha256 != seen.text_sha256:
            return None
        before = dict(
            zip(stored.perplexity.chunks.index, stored.perplexity.chunks.nll_sum_nats, strict=True)
        )
        columns.append(
            {
                chunk.index: chunk.nll_sum_nats - before[chunk.index]
                for chunk in measured.chunks
                if chunk.index in before
            }
        )
    chunks = [c for c in mine.chunks if c.index in columns[0] and c.index in columns[1]]
    reference_moves = [columns[1][chunk.index] for chunk in chunks]
    if not any(reference_moves):
        return None
    tokens, documents = [c.tokens for c in chunks], [c.document for c in chunks]
    places = [c.index for c in chunks]
    shared = statistics.estimate_mean(reference_moves, tokens, documents, places)
    excess = statistics.compare_paired(
        reference_moves, [columns[0][c.index] for c in chunks], tokens, documents, places
    )
    low, high = statistics.ppl_ratio_interval(excess)
    return (
        f"common cause: the reference moved {percent(statistics.ppl_change(shared.mean))} too,"
        f" the excess over it is {percent(statistics.ppl_change(excess.mean))}"
        f" [{percent(low)}, {percent(high)}]"
    )


def find_cause(
    seen: Observation, baseline: Baseline, *, same_quantizer_cpu: bool, moved: AbstractSet[str]
) -> str:
    """Say what moved a cell away from its baseline: tokenizer, quantizer or runtime.

    ``moved`` has the metrics that regressed: a file that grew around equal tensors did so in
    its metadata.
    """
    if token_ids_changed(seen, baseline):
        return "cause: tokenizer (the same text has other token ids)"
    changes: TensorChanges = compare_tensors(baseline.size.tensors, pack_tensors(seen.tensors))
    parts = [] if seen.perplexity is None else ["tokenization same"]
    if changes.any:
        attributable = same_quantizer_cpu or bool(changes.types_changed or changes.added_or_gone)
        parts.append(changes.describe())
        parts.append(f"size {percent(seen.size.file_bytes / baseline.size.file_bytes - 1)}")
        cause = "quantizer" if attributable else "not attributable: made on another kind of CPU"
    else:
        parts.append(f"all {len(seen.tensors)} tensors same")
        cause = "the file's metadata" if moved == {"size"} else "runtime kernels"
    if seen.tokens_changed is not None:
        tokens = seen.tokens_changed
        parts.append(
            f"{tokens.changed:,} of {tokens.tokens:,} tokens changed, largest |Δ|"
            f" {tokens.largest_nats:.3g} nats"
        )
    elif seen.perplexity is not None and not all(c.is_exact for c in seen.perplexity.chunks):
        parts.append("which tokens changed is not known: the engine tells sums by chunk")
    common = _common_cause(seen, baseline)
    if common is not None:
        parts.append(common)
    return f"cause: {cause} ({'; '.join(parts)})"
