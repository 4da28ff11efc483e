"""A baseline, observations of its cell, and what the judge says of them."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from pytest_quantgate.config.limits import default_limits
from pytest_quantgate.config.schema import Limits
from pytest_quantgate.gate.acceptance import make_baseline
from pytest_quantgate.gate.judge import conclude
from pytest_quantgate.gate.judges.perplexity import judge_perplexity
from pytest_quantgate.gate.judges.size import judge_size
from pytest_quantgate.gate.observation import Observation
from pytest_quantgate.gguf.digests import TensorDigest
from pytest_quantgate.gguf.formats import find_format
from pytest_quantgate.gguf.tensor_changes import pack_tensors
from pytest_quantgate.metrics.divergence import measure_divergence, same_top_tokens
from pytest_quantgate.results.baseline import Baseline, Key, MadeBy
from pytest_quantgate.results.chunk_table import ChunkTable
from pytest_quantgate.results.measurements.perplexity import PerplexityMeasurement, TokenChanges
from pytest_quantgate.results.record import CellRecord
from pytest_quantgate.results.verdicts import Verdict
from pytest_quantgate.stats import Look, plan_looks

LAST = plan_looks((16,), 16, 16)[0]
FORMAT = find_format("Q4_K_M")
TENSORS = (
    TensorDigest(name="token_embd.weight", type="Q6_K", sha256="a" * 64),
    TensorDigest(name="blk.0.attn_q.weight", type="Q4_K", sha256="b" * 64),
    TensorDigest(name="blk.1.attn_q.weight", type="Q4_K", sha256="c" * 64),
)
MADE_BY = MadeBy(
    engine="e 1",
    llama_cpp="b1",
    library_sha256="1",
    quantizer_sha256="2",
    system_info="AVX2",
    cpu="c",
    platform="p",
    n_threads=1,
    n_batch=64,
    n_ubatch=64,
)
METADATA = {"llama.rope.freq_base": "100000.0", "tokenizer.ggml.pre": "smollm"}
KEY = Key(
    model="m",
    format="Q4_K_M",
    imatrix=None,
    text="t",
    n_ctx=64,
    flash_attention=True,
    type_k="F16",
    type_v="F16",
    device_kind="cpu",
)


def measurement(
    shift: float | list[float] = 0.0, n_chunks: int = 16, ids: str = "ids"
) -> PerplexityMeasurement:
    """Return chunks of 100 tokens, a document each, shifted by so many nats a token."""
    shifts = [shift] * n_chunks if isinstance(shift, float) else shift
    random = np.random.default_rng(5)
    nll = random.uniform(1, 3, (n_chunks, 100)) + np.array(shifts)[:, None]
    tops = np.zeros((n_chunks, 100), dtype=np.int32)
    return PerplexityMeasurement(
        chunks=ChunkTable(
            index=tuple(range(n_chunks)),
            tokens=(100,) * n_chunks,
            nll_sum_nats=tuple(float(row.sum()) for row in nll),
            token_ids=tuple(
                hashlib.sha256(f"{ids}{number}".encode()).hexdigest()[:16]
                for number in range(n_chunks)
            ),
            top_tokens=(hashlib.sha256(tops[0].tobytes()).hexdigest()[:16],) * n_chunks,
            document=tuple(range(n_chunks)),
        ),
        nll_nats=nll.astype(np.float32),
        top_tokens=tops,
        n_chunks_in_text=100,
        seconds_s=1.0,
    )


def record(**changes: Any) -> CellRecord:
    """Return a measured cell's record that equals the baseline, or as changed."""
    usual = CellRecord(
        id="m-Q4_K_M-cpu",
        model="m",
        format="Q4_K_M",
        imatrix=None,
        device="cpu",
        engine="default",
        text="t",
        is_reference=False,
        reference="F16",
        is_requantized=False,
        is_miniature=False,
        verdict="MEASURED",
        reason="",
        file_bytes=1_000_000,
        bits_per_weight=4.9,
        fallback_fraction=0.0,
        key=KEY,
        text_sha256="t" * 64,
        source_sha256="s",
        made_by=MADE_BY,
        quantizer_cpu="AVX2",
        tensors=pack_tensors(TENSORS),
        metadata=METADATA,
    )
    return replace(usual, **changes)


def observe(
    perplexity: PerplexityMeasurement | None = None,
    reference: PerplexityMeasurement | None = None,
    reference_baseline: Baseline | None = None,
    reference_file_bytes: int | None = None,
    tokens_changed: TokenChanges | None = None,
    *,
    same_computation: bool = False,
    tensors: Sequence[TensorDigest] = TENSORS,
    text_sha256_with_lf: str = "t" * 64,
    **cell: Any,
) -> Observation:
    """Return an observation that equals the baseline, or as changed; ``cell`` is of its record."""
    scored = perplexity or measurement()
    chunks = scored.chunks
    if reference is not None:
        cell.setdefault("divergence", measure_divergence(scored, reference))
        same = same_top_tokens(scored, reference)
        chunks = chunks.replace(same_top=same or chunks.same_top)
    return Observation(
        cell=record(
            ppl=scored.perplexity,
            chunks=chunks,
            n_chunks_in_text=scored.n_chunks_in_text,
            tensors=pack_tensors(tensors),
            **cell,
        ),
        reference=None if reference is None else reference.chunks,
        reference_baseline=reference_baseline,
        reference_file_bytes=reference_file_bytes,
        text_sha256_with_lf=text_sha256_with_lf,
        same_computation=same_computation,
        tokens_changed=tokens_changed,
    )


def change_cell(seen: Observation, **changes: Any) -> Observation:
    """Return an observation with another record of the cell."""
    return replace(seen, cell=replace(seen.cell, **changes))


def baseline_of(seen: Observation) -> Baseline:
    """Return the baseline that accepts an observation."""
    return make_baseline(seen.cell, reason="first")


BASELINE = baseline_of(observe())


def judge(
    seen: Observation,
    limits: Limits | None = None,
    baseline: Baseline | None = BASELINE,
    *,
    look: Look = LAST,
) -> Verdict:
    """Judge both metrics by the format's default limits, or by some."""
    limits = limits or default_limits(FORMAT)
    judgements = judge_perplexity(seen, limits, baseline, look)
    judgements += judge_size(seen, limits, baseline, look)
    return conclude(judgements, seen, baseline)


def wobble(shift: float, amplitude: float = 0.0005) -> list[float]:
    """Return shifts around a mean that are not all equal."""
    return [shift + amplitude * math.sin(number) for number in range(16)]
