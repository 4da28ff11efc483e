"""Constructed records of one cell and of whole runs, for two engines."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from dataclasses import asdict, fields, replace
from typing import Any

from pytest_quantgate.config.limits import default_limits
from pytest_quantgate.engines.messages import Identity
from pytest_quantgate.gguf.formats import find_format
from pytest_quantgate.results.baseline import Key, MadeBy
from pytest_quantgate.results.chunk_table import ChunkTable
from pytest_quantgate.results.measurements.divergence import DivergenceMeasurement
from pytest_quantgate.results.record import CellRecord, RunRecord

CHUNKS = 16
TOKENS = 255

BUILDS = {
    "old": Identity(
        kind="llama-cpp-python",
        version="0.3.30",
        llama_cpp_version="b7000",
        python_version="3.11.4",
        platform="Linux x86_64",
        cpu_name="A Processor",
        system_info="CPU : AVX2 = 1 | FMA = 1 |",
        library_sha256="a" * 64,
        quantizer_sha256="b" * 64,
        devices=(),
    ),
    "new": Identity(
        kind="llama-cpp-python",
        version="0.3.36",
        llama_cpp_version="b8000",
        python_version="3.11.4",
        platform="Linux x86_64",
        cpu_name="A Processor",
        system_info="CPU : AVX2 = 1 | FMA = 1 | REPACK = 1 |",
        library_sha256="c" * 64,
        quantizer_sha256="d" * 64,
        devices=(),
    ),
}

TENSORS = {
    "token_embd.weight": "Q6_K:11111111",
    "blk.*.attn_q.weight": "0=Q4_K:22222222 1=Q4_K:33333333",
    "blk.*.ffn_down.weight": "0=Q6_K:44444444 1=Q4_K:55555555",
    "output_norm.weight": "F32:66666666",
}
OTHER_TYPES = TENSORS | {"blk.*.ffn_down.weight": "0=Q4_K:77777777 1=Q4_K:55555555"}
OTHER_BYTES = TENSORS | {"blk.*.attn_q.weight": "0=Q4_K:88888888 1=Q4_K:33333333"}


def made_by(engine: str) -> MadeBy:
    """Return what computes with an engine."""
    build = BUILDS[engine]
    return MadeBy(
        engine=f"{build.kind} {build.version}",
        llama_cpp=build.llama_cpp_version,
        library_sha256=build.library_sha256,
        quantizer_sha256=build.quantizer_sha256,
        system_info=build.system_info,
        cpu=build.cpu_name,
        platform=build.platform,
        n_threads=2,
        n_batch=512,
        n_ubatch=512,
    )


def wobble(size: float, seed: int = 0) -> tuple[float, ...]:
    """Return shifts of the chunks in nats a token: mean 0, and as large as ``size``."""
    values = [math.sin(1 + seed + 2.1 * n) for n in range(CHUNKS)]
    mean = sum(values) / CHUNKS
    return tuple(size * (value - mean) for value in values)


def scored(
    name: str = "Q4_K_M",
    *,
    model: str = "m",
    engine: str = "new",
    quantizer: str | None = None,
    shift: float | Sequence[float] = 0.0,
    kld: float = 0.04,
    tensors: dict[str, str] = TENSORS,
    file_bytes: int = 6_300_000,
    ids: str = "ids",
    **changes: Any,
) -> CellRecord:
    """Return a measured cell; ``shift`` is in nats a token, of all chunks or of each."""
    shifts = [shift] * CHUNKS if isinstance(shift, float) else list(shift)
    sums = tuple(TOKENS * (3.2 + 0.1 * math.sin(n) + shifts[n]) for n in range(CHUNKS))
    is_reference = name == "F16"
    klds = tuple(TOKENS * kld * (1 + 0.1 * math.cos(n)) for n in range(CHUNKS))
    maker = engine if quantizer is None else quantizer
    side = "" if engine == maker == "new" else f"@{engine}"
    side = side if engine == maker else f"@{maker}-on-{engine}"
    usual = CellRecord(
        id=f"{model}-{name}-cpu{side}",
        model=model,
        format=name,
        imatrix=None,
        device="cpu",
        engine=engine,
        text="t",
        is_reference=is_reference,
        reference="F16",
        is_requantized=False,
        is_miniature=False,
        verdict="PASS",
        reason="within the limits",
        file_bytes=file_bytes,
        bits_per_weight=16.0 if is_reference else 4.9,
        bytes_by_type={"Q4_K": file_bytes},
        fallback_fraction=0.0,
        file_sha256=_digest(name, tensors, file_bytes),
        tensor_data_sha256=_digest(name, tensors),
        ppl=math.exp(sum(sums) / TOKENS / CHUNKS),
        chunks=ChunkTable(
            index=tuple(range(CHUNKS)),
            tokens=(TOKENS,) * CHUNKS,
            nll_sum_nats=sums,
            token_ids=tuple(_digest(ids, n)[:16] for n in range(CHUNKS)),
            top_tokens=("0" * 16,) * CHUNKS,
            document=tuple(range(CHUNKS)),
            kld_sum_nats=() if is_reference else klds,
        ),
        divergence=None if is_reference else divergence(sum(klds) / TOKENS / CHUNKS),
        key=Key(
            model=model,
            format=name,
            imatrix=None,
            text="t",
            n_ctx=512,
            flash_attention=True,
            type_k="F16",
            type_v="F16",
            device_kind="cpu",
        ),
        text_sha256="e" * 64,
        source_sha256="f" * 64,
        made_by=made_by(engine),
        quantizer=maker,
        quantizer_cpu=BUILDS[maker].system_info,
        tensors=tensors,
        metadata={"tokenizer.ggml.pre": "m"},
        n_chunks_in_text=100,
        limits=default_limits(find_format(name)).model_dump(exclude_none=True),
    )
    return replace(usual, **changes)


def divergence(nats: float) -> DivergenceMeasurement:
    """Return a divergence with this mean."""
    return DivergenceMeasurement(
        tokens=CHUNKS * TOKENS,
        mean_kld_nats=nats,
        mean_kld_error_nats=0.0,
        max_kld_nats=1.0,
        min_kld_nats=0.0,
        kld_percentiles_nats={},
        mean_delta_p=0.0,
        rms_delta_p=0.0,
        delta_p_percentiles={},
        same_top=1 - nats,
        same_top_error=0.0,
        by_confidence=(),
        by_domain=(),
    )


def failed(name: str, *, engine: str = "new", verdict: str, reason: str) -> CellRecord:
    """Return a cell that could not be measured."""
    whole = scored(name, engine=engine)
    kept = [field.name for field in fields(CellRecord)][:11]
    plain = {name: getattr(whole, name) for name in (*kept, "key", "text_sha256", "quantizer")}
    return CellRecord(**plain, verdict=verdict, reason=reason)


def _digest(*parts: object) -> str:
    return hashlib.sha256(repr(parts).encode()).hexdigest()


def facts(engine: str) -> dict[str, Any]:
    """Return an engine's identity as JSON gives it back."""
    return {**asdict(BUILDS[engine]), "devices": []}


def run_of(
    *cells: CellRecord, others: Sequence[CellRecord] = (), engine: str = "new", **changes: Any
) -> RunRecord:
    """Return a run's record; with others it held the new engine against the old one."""
    usual = RunRecord(
        profile="p",
        gated=True,
        settings={
            "n_ctx": 512,
            "n_batch": 512,
            "n_ubatch": 512,
            "n_threads": 2,
            "flash_attention": True,
            "type_k": "F16",
            "type_v": "F16",
            "chunks": 16,
            "texts": {"t": "e" * 64},
        },
        engine=facts(engine),
        cells=tuple(replace(cell, id=cell.id.split("@")[0]) for cell in cells),
        started="2026-01-01T00:00:00+00:00",
        seconds_s=12.0,
        against=facts("old") if others else None,
        others=tuple(others),
        command="pytest --quant-matrix --quant-engine new --quant-against old",
    )
    return replace(usual, **changes)
