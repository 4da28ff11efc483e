"""Why a cell moved: found by hashes, in the order in which data flows."""

from __future__ import annotations

import math
from collections.abc import Mapping
from collections.abc import Set as AbstractSet
from dataclasses import dataclass

from pytest_quantgate import stats
from pytest_quantgate.gate.observation import (
    Observation,
    describe_token_changes,
    percent,
    token_ids_changed,
)
from pytest_quantgate.gguf.tensor_changes import TensorChanges, compare_tensors, pack_tensors
from pytest_quantgate.results.baseline import Baseline, MadeBy
from pytest_quantgate.results.hardware import only_differing


@dataclass(frozen=True, kw_only=True)
class Cause:
    """The part of the way that is not as it was, and what shows it."""

    name: str
    evidence: tuple[str, ...]

    def __str__(self) -> str:
        """Say both in one line."""
        return f"cause: {self.name} ({'; '.join(self.evidence)})"


def find_cause(seen: Observation, baseline: Baseline, *, moved: AbstractSet[str]) -> Cause:
    """Say what moved a cell away from its baseline: tokenizer, file, quantizer or runtime.

    ``moved`` has the metrics that did: a file that grew around equal tensors did so in its
    metadata.
    """
    before = baseline.size.tensors if moved == {"size"} else baseline.tensors_scored
    changes = compare_tensors(before, pack_tensors(seen.tensors))
    fields = fields_changed(baseline.metadata, seen.metadata)
    runtime = _runtime_changes(baseline.made_by, seen.made_by)
    retokenized = token_ids_changed(seen, baseline)
    if retokenized:
        cause = "tokenizer"
        parts = [f"the same text has other token ids in {retokenized} of {_n_chunks(seen)} chunks"]
    else:
        cause = _name(seen, baseline, changes, fields, runtime, moved)
        parts = [] if seen.perplexity is None else ["tokenization same"]
    if fields:
        parts.append(f"metadata changed: {', '.join(fields)}")
    parts.append(changes.describe())
    if seen.size.file_bytes != baseline.size.file_bytes:
        parts.append(f"size {percent(seen.size.file_bytes / baseline.size.file_bytes - 1)}")
    parts += _quality(seen, baseline, retokenized=retokenized)
    if seen.perplexity is not None and not retokenized:
        if runtime:
            other = " too: the runtime is not ruled out" if changes.any or fields else ""
            parts.append(f"{', '.join(runtime)}{other}")
        elif changes.any or fields:
            parts.append("not the runtime: the libraries, the processor and the batch are the same")
        common = _common_cause(seen, baseline)
        if common is not None:
            parts.append(common)
    elif runtime:
        parts.append(", ".join(runtime))
    return Cause(name=cause, evidence=tuple(parts))


def _name(
    seen: Observation,
    baseline: Baseline,
    changes: TensorChanges,
    fields: list[str],
    runtime: list[str],
    moved: AbstractSet[str],
) -> str:
    """Name the first part of the way, after the tokenizer, that is not as it was."""
    if changes.types_changed or changes.added_or_gone:
        return "quantizer"
    if changes.any:
        if seen.quantizer_cpu is None and baseline.made_by.quantizer_sha256 is None:
            return "quantizer, or the kind of CPU that it ran on: the file was made elsewhere"
        if _made_on_another_cpu(seen, baseline):
            return "not attributable: made on another kind of CPU"
        if seen.made_by.imatrix_sha256 != baseline.made_by.imatrix_sha256:
            return "importance matrix: its values are not the baseline's"
        return "quantizer"
    if fields or moved == {"size"}:
        return "the file's metadata"
    if runtime:
        return "runtime kernels"
    if moved <= {"speed", "memory"}:
        return "the machine's state, not the engine: file, libraries and processor are the same"
    return "not reproducible: the same file, libraries, processor and batch gave other values"


def _made_on_another_cpu(seen: Observation, baseline: Baseline) -> bool:
    """Tell whether a file's bytes may differ because another kind of processor made them.

    On one processor, other libraries with other instruction sets are another build: that is the
    quantizer's own.
    """
    then, now = baseline.made_by, seen.made_by
    if seen.quantizer_cpu == then.system_info:
        return False
    return now.cpu != then.cpu or now.library_sha256 == then.library_sha256


def fields_changed(before: Mapping[str, str] | None, after: Mapping[str, str]) -> list[str]:
    """Say which of the file's settings changed, from what to what; nothing where none are known."""
    if before is None:
        return []
    return [
        f"{name} {before.get(name, 'absent')} → {after.get(name, 'absent')}"
        for name in sorted({*before, *after})
        if before.get(name) != after.get(name)
    ]


def _runtime_changes(then: MadeBy, now: MadeBy) -> list[str]:
    """Say what else computed: libraries, processor, batch."""
    told = []
    if then.library_sha256 != now.library_sha256:
        before, after = (f"{made.engine} {made.llama_cpp}".rstrip() for made in (then, now))
        other = "another build of " + after if before == after else f"{before} → {after}"
        told.append(f"the libraries changed ({other.strip()})")
    if then.cpu != now.cpu:
        told.append(f"the processor changed ({then.cpu} → {now.cpu})")
    elif then.system_info != now.system_info:
        before, after = only_differing(then.system_info, now.system_info)
        told.append(f"the instruction sets changed ({before} → {after})")
    for name in ("n_batch", "n_ubatch"):
        before, after = getattr(then, name), getattr(now, name)
        if before != after:
            told.append(f"{name} changed ({before} → {after})")
    return told


def _n_chunks(seen: Observation) -> int:
    return 0 if seen.perplexity is None else len(seen.perplexity.chunks)


def _quality(seen: Observation, baseline: Baseline, *, retokenized: int) -> list[str]:
    """Say how perplexity moved, and how many tokens did."""
    if seen.perplexity is None:
        return []
    if retokenized:
        return [f"PPL {seen.perplexity.perplexity:.4g}, was {baseline.scored.ppl:.4g}"]
    pair = seen.perplexity.chunks.paired(baseline.scored.chunks)
    shift = pair.shift()
    parts = []
    if shift is not None:
        if shift.is_identical:
            parts.append("PPL identical")
        elif not math.isfinite(shift.change):
            bad = sum(not math.isfinite(nats) for nats in pair.after.nll_sum_nats)
            parts.append(f"PPL not finite in {bad} of {len(pair)} chunks")
        else:
            over = "documents" if shift.of_documents else "clusters"
            bounds = ""
            if math.isfinite(shift.high):
                bounds = f" [{percent(shift.low)}, {percent(shift.high)}]"
            parts.append(f"PPL {percent(shift.change)}{bounds} over {shift.clusters} {over}")
    if seen.tokens_changed is not None:
        parts.append(describe_token_changes(seen.tokens_changed))
    elif not seen.perplexity.chunks.is_exact:
        parts.append("which tokens changed is not known: the engine tells sums by chunk")
    return parts


def _common_cause(seen: Observation, baseline: Baseline) -> str | None:
    """Say how much of a move the reference made too, and what is left beyond it."""
    mine, theirs = seen.perplexity, seen.reference
    if mine is None or theirs is None or seen.reference_baseline is None:
        return None
    if {baseline.scored.text_sha256, seen.reference_baseline.scored.text_sha256} != {
        seen.text_sha256
    }:
        return None
    tables = [
        theirs.chunks,
        seen.reference_baseline.scored.chunks,
        baseline.scored.chunks,
        mine.chunks,
    ]
    common = tables[-1]
    for table in tables[:-1]:
        common = common.paired(table).after
    if not len(common):
        return None
    after, before, own_before, own_after = (
        common.paired(table).before.nll_sum_nats for table in tables
    )
    reference_moves = [now - then for now, then in zip(after, before, strict=True)]
    own_moves = [now - then for now, then in zip(own_after, own_before, strict=True)]
    if not any(reference_moves):
        return None
    shared, excess = common.mean(reference_moves), common.difference(reference_moves, own_moves)
    low, high = stats.ppl_ratio_interval(excess)
    return (
        f"common cause: the reference moved {percent(stats.ppl_change(shared.mean))} too,"
        f" the excess over it is {percent(stats.ppl_change(excess.mean))}"
        f" [{percent(low)}, {percent(high)}]"
    )
