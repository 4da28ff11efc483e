"""A baseline, observations of its cell, and what the judge says of them."""

from __future__ import annotations

import hashlib
import math
from dataclasses import replace

import numpy as np

from pytest_quantgate.config.limits import default_limits
from pytest_quantgate.config.schema import Limits
from pytest_quantgate.gate.judge import conclude, declared_looks
from pytest_quantgate.gate.judges.bounds import Look
from pytest_quantgate.gate.judges.perplexity import judge_perplexity
from pytest_quantgate.gate.judges.size import judge_size
from pytest_quantgate.gate.observation import Observation
from pytest_quantgate.gguf.digests import TensorDigest
from pytest_quantgate.gguf.formats import find_format
from pytest_quantgate.gguf.tensor_changes import pack_tensors
from pytest_quantgate.results.baseline import (
    Anchor,
    Baseline,
    Key,
    MadeBy,
    Perplexity,
    Size,
)
from pytest_quantgate.results.chunk_table import ChunkTable
from pytest_quantgate.results.measurements.perplexity import PerplexityMeasurement
from pytest_quantgate.results.measurements.size import SizeMeasurement
from pytest_quantgate.results.verdicts import Verdict

LAST = declared_looks((16,))[0]
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
    return PerplexityMeasurement(
        chunks=ChunkTable(
            index=tuple(range(n_chunks)),
            tokens=(100,) * n_chunks,
            nll_sum_nats=tuple(float(row.sum()) for row in nll),
            token_ids=tuple(
                hashlib.sha256(f"{ids}{number}".encode()).hexdigest()[:16]
                for number in range(n_chunks)
            ),
            top_tokens=("0" * 16,) * n_chunks,
            document=tuple(range(n_chunks)),
        ),
        nll_nats=nll.astype(np.float32),
        top_tokens=np.zeros((n_chunks, 100), dtype=np.int32),
        n_chunks_in_text=100,
        seconds_s=1.0,
    )


def size(file_bytes: int = 1_000_000, bits: float = 4.9) -> SizeMeasurement:
    """Return a size."""
    return SizeMeasurement(
        file_bytes=file_bytes,
        tensor_bytes=file_bytes,
        n_weights=1_600_000,
        bits_per_weight=bits,
        bytes_by_type={},
        bytes_by_part={},
        tensors_by_type={},
        tensor_types={},
        fallbacks=(),
        fallback_fraction=0.0,
        no_effect=False,
    )


def observe(**changes: object) -> Observation:
    """Return an observation that equals the baseline, or as changed."""
    usual = Observation(
        perplexity=measurement(),
        reference=None,
        divergence=None,
        reference_file_bytes=None,
        size=size(),
        tensors=TENSORS,
        metadata=METADATA,
        made_by=MADE_BY,
        source_sha256="s",
        text_sha256="t" * 64,
        text_sha256_with_lf="t" * 64,
        quantizer_cpu="AVX2",
        same_computation=False,
        tokens_changed=None,
    )
    return replace(usual, **changes)  # type: ignore[arg-type]


def baseline_of(seen: Observation) -> Baseline:
    """Return the baseline that accepts an observation."""
    chunks = seen.scored.chunks
    return Baseline(
        key=KEY,
        source_sha256=seen.source_sha256,
        made_by=MADE_BY,
        perplexity=Perplexity(
            ppl=seen.scored.perplexity,
            text_sha256=seen.text_sha256,
            per_token_sha256="",
            chunks=chunks,
        ),
        size=Size(
            file_bytes=seen.size.file_bytes,
            bits_per_weight=seen.size.bits_per_weight,
            fallback_fraction=0.0,
            tensors=pack_tensors(seen.tensors),
        ),
        metadata=seen.metadata,
        anchor=Anchor(
            index=chunks.index, nll_sum_nats=chunks.nll_sum_nats, file_bytes=seen.size.file_bytes
        ),
        reason="first",
    )


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
