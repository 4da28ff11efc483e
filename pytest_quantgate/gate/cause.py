"""Why a cell moved: found by hashes, in the order in which data flows."""

from __future__ import annotations

import math
from collections.abc import Mapping
from collections.abc import Set as AbstractSet

from pytest_quantgate import stats
from pytest_quantgate.gate.observation import Observation
from pytest_quantgate.gate.reasons.changes import TokensMoved
from pytest_quantgate.gate.reasons.words import percent
from pytest_quantgate.gguf.tensor_changes import TensorChanges, compare_tensors
from pytest_quantgate.results.baseline import Baseline, MadeBy
from pytest_quantgate.results.hardware import only_differing
from pytest_quantgate.results.verdicts import Cause, CauseKind


def find_cause(seen: Observation, baseline: Baseline, *, moved: AbstractSet[str]) -> Cause:
    """Say what moved a cell away from its baseline: tokenizer, file, quantizer or runtime.

    ``moved`` has the metrics that did: a file that grew around equal tensors did so in its
    metadata.
    """
    before = baseline.size.tensors if moved == {"size"} else baseline.tensors_scored
    changes = compare_tensors(before, seen.cell.tensors)
    fields = fields_changed(baseline.metadata, seen.cell.metadata)
    runtime = runtime_changes(baseline.made_by, seen.made_by)
    retokenized = seen.paired(baseline).retokenized
    is_scored = len(seen.chunks) > 0
    if retokenized:
        kind = CauseKind.TOKENIZER
        of_all = f"{retokenized} of {len(seen.chunks)} chunks"
        evidence = [f"the same text has other token ids in {of_all}"]
    else:
        kind = _kind(seen, baseline, changes, fields, runtime, moved)
        evidence = ["tokenization same"] if is_scored else []
    if fields:
        evidence.append(f"metadata changed: {', '.join(fields)}")
    evidence.append(changes.describe())
    if seen.file_bytes != baseline.size.file_bytes:
        evidence.append(f"size {percent(seen.file_bytes / baseline.size.file_bytes - 1)}")
    if is_scored:
        evidence += _quality(seen, baseline, retokenized=retokenized)
    if is_scored and not retokenized:
        if runtime:
            other = " too: the runtime is not ruled out" if changes.any or fields else ""
            evidence.append(f"{', '.join(runtime)}{other}")
        elif changes.any or fields:
            evidence.append(
                "not the runtime: the libraries, the processor and the batch are the same"
            )
        common = _common_cause(seen, baseline)
        if common is not None:
            evidence.append(common)
    elif runtime:
        evidence.append(", ".join(runtime))
    return Cause(kind=kind, evidence=tuple(evidence))


def _kind(
    seen: Observation,
    baseline: Baseline,
    changes: TensorChanges,
    fields: list[str],
    runtime: list[str],
    moved: AbstractSet[str],
) -> CauseKind:
    """Return the first step of the way, after the tokenizer, that is not as it was."""
    if changes.types_changed or changes.added_or_gone:
        return CauseKind.QUANTIZER
    if changes.any:
        if seen.cell.quantizer_cpu is None and baseline.made_by.quantizer_sha256 is None:
            return CauseKind.QUANTIZER_OR_CPU
        if _made_on_another_cpu(seen, baseline):
            return CauseKind.OTHER_CPU
        if seen.made_by.imatrix_sha256 != baseline.made_by.imatrix_sha256:
            return CauseKind.IMATRIX
        return CauseKind.QUANTIZER
    if fields or moved == {"size"}:
        return CauseKind.METADATA
    if runtime:
        return CauseKind.RUNTIME
    if moved <= {"speed", "memory"}:
        return CauseKind.MACHINE
    return CauseKind.NOT_REPRODUCIBLE


def _made_on_another_cpu(seen: Observation, baseline: Baseline) -> bool:
    """Tell whether a file's bytes may differ because another kind of processor made them.

    On one processor, other libraries with other instruction sets are another build: that is the
    quantizer's own.
    """
    then, now = baseline.made_by, seen.made_by
    if seen.cell.quantizer_cpu == then.system_info:
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


def runtime_changes(then: MadeBy, now: MadeBy) -> list[str]:
    """Return what else computed: libraries, processor, batch, a phrase each."""
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


def _quality(seen: Observation, baseline: Baseline, *, retokenized: int) -> list[str]:
    """Say how perplexity moved, and how many tokens did."""
    if retokenized:
        return [f"PPL {seen.chunks.perplexity:.4g}, was {baseline.scored.ppl:.4g}"]
    pair = seen.paired(baseline)
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
        parts.append(str(TokensMoved(changes=seen.tokens_changed)))
    elif not seen.chunks.is_exact:
        parts.append("which tokens changed is unknown: the engine reports only sums by chunk")
    return parts


def _common_cause(seen: Observation, baseline: Baseline) -> str | None:
    """Say how much of a move the reference made too, and what is left beyond it."""
    if seen.reference is None or seen.reference_baseline is None:
        return None
    if {baseline.scored.text_sha256, seen.reference_baseline.scored.text_sha256} != {
        seen.cell.text_sha256
    }:
        return None
    tables = [
        seen.reference,
        seen.reference_baseline.scored.chunks,
        baseline.scored.chunks,
        seen.chunks,
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
