"""Perplexity measurements on disk: shared by the processes of a run, never half-written.

A measurement is one ``.npz`` without pickles: a JSON header with the chunks, and the per-token
arrays. Per-token values are kept a second time by their own hash, so that a later run can
compare with an accepted baseline token by token.
"""

from __future__ import annotations

import hashlib
import io
import json
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np

from pytest_quantgate.engines.messages import DivergenceSummary
from pytest_quantgate.results.chunk_table import HASH_DIGITS, ChunkTable
from pytest_quantgate.results.measurements.perplexity import PerplexityMeasurement, agrees
from pytest_quantgate.results.measurements.routes import Routes
from pytest_quantgate.storage.arrays import read_arrays
from pytest_quantgate.storage.atomic import write_atomically
from pytest_quantgate.storage.cache import Cache

_ARRAYS = ("nll_nats", "top_tokens", "top_probabilities", "kld_nats")


_DAMAGE = (
    OSError,
    EOFError,
    ValueError,
    LookupError,
    TypeError,
    AttributeError,
    RuntimeError,  # an archive that claims to be encrypted, or of a later version
    MemoryError,
    BadZipFile,
    zlib.error,
)
"""What reading a damaged archive raises."""


def per_token_sha256(measurement: PerplexityMeasurement) -> str | None:
    """Hash the per-token values and the chunks that they belong to; None where there are none."""
    if measurement.nll_nats is None or measurement.top_tokens is None:
        return None
    digest = hashlib.sha256()
    for index in measurement.chunks.index:
        digest.update(index.to_bytes(8, "little"))
    digest.update(np.ascontiguousarray(measurement.nll_nats).tobytes())
    digest.update(np.ascontiguousarray(measurement.top_tokens).tobytes())
    return digest.hexdigest()


def _pack(measurement: PerplexityMeasurement) -> bytes:
    header: dict[str, Any] = {
        "chunks": vars(measurement.chunks),
        "arrays": [name for name in _ARRAYS if getattr(measurement, name) is not None],
        "n_chunks_in_text": measurement.n_chunks_in_text,
        "seconds_s": measurement.seconds_s,
        "measured_s": measurement.measured_s,
        "summary": None if measurement.summary is None else vars(measurement.summary),
    }
    buffer = io.BytesIO()
    arrays: dict[str, Any] = {}
    for name in _ARRAYS:
        values = getattr(measurement, name)
        if values is not None:
            arrays[name] = values
    if measurement.routes is not None:
        header["route_layers"] = measurement.routes.layers
        arrays |= {"experts": measurement.routes.experts, "weights": measurement.routes.weights}
    arrays["header"] = np.frombuffer(json.dumps(header).encode(), dtype=np.uint8)
    np.savez(buffer, **arrays)
    return buffer.getvalue()


def _unpack(path: Path) -> PerplexityMeasurement | None:
    try:
        # Opened here: numpy leaves a file that is no archive open.
        with path.open("rb") as stream:
            arrays = read_arrays(stream)
        header = json.loads(arrays["header"].tobytes())
        if any(name not in arrays for name in header.get("arrays", ())):
            return None  # its directory is damaged: what it lacks must not count as unmeasured
        measurement = PerplexityMeasurement(
            chunks=ChunkTable().replace(**header["chunks"]),
            summary=_summary(header["summary"]),
            n_chunks_in_text=header["n_chunks_in_text"],
            seconds_s=header["seconds_s"],
            measured_s=header["measured_s"],
            **{name: arrays.get(name) for name in _ARRAYS},
            routes=_unpack_routes(header, arrays),
        )
        return measurement if _is_consistent(measurement) else None
    except _DAMAGE:
        return None  # torn or damaged in any way: measured anew


def _is_consistent(measurement: PerplexityMeasurement) -> bool:
    """Return whether the chunks' sums, counts and hashes are those of their tokens' values."""
    chunks, count = measurement.chunks, len(measurement.chunks)
    if len(set(chunks.index)) < count or min(chunks.tokens, default=1) < 1:
        return False
    for values, sums in (
        (measurement.nll_nats, chunks.nll_sum_nats),
        (measurement.kld_nats, chunks.kld_sums),
    ):
        if values is not None and sums is not None:
            if values.shape != (count, *values.shape[1:2]) or values.ndim != 2:
                return False
            if not agrees(values, sums):
                return False
    for rows in (measurement.nll_nats, measurement.top_tokens, measurement.top_probabilities):
        if rows is not None and [rows.shape[1]] * count != list(chunks.tokens):
            return False
    tops = measurement.top_tokens
    return tops is None or all(
        told is None or hashlib.sha256(row.tobytes()).hexdigest()[:HASH_DIGITS] == told
        for row, told in zip(tops, chunks.top_tokens, strict=True)
    )


def _summary(plain: dict[str, Any] | None) -> DivergenceSummary | None:
    if plain is None:
        return None
    fields: dict[str, Any] = {
        name: tuple(map(tuple, value)) if isinstance(value, list) else value
        for name, value in plain.items()
    }
    return DivergenceSummary(**fields)


def _unpack_routes(header: dict[str, Any], arrays: Mapping[str, Any]) -> Routes | None:
    layers = header.get("route_layers")
    if not layers:
        return None
    return Routes(layers=tuple(layers), experts=arrays["experts"], weights=arrays["weights"])


class Measurements:
    """Stores and finds measurements of a cache."""

    def __init__(self, cache: Cache) -> None:
        self._cache = cache

    def reference_folder(self, key: str) -> Path:
        """Return the folder of a reference: its measurement and its distribution together."""
        return self._cache.sub(f"references/{key}")

    def load(self, key: str, *, is_reference: bool) -> PerplexityMeasurement | None:
        """Return a stored measurement, None where there is none that can be read."""
        return _unpack(self._path(key, is_reference))

    def store(self, key: str, measurement: PerplexityMeasurement, *, is_reference: bool) -> None:
        """Store a measurement."""
        write_atomically(self._path(key, is_reference), _pack(measurement))

    def _path(self, key: str, is_reference: bool) -> Path:
        if is_reference:
            return self.reference_folder(key) / "scores.npz"
        return self._cache.sub("measurements") / f"{key}.npz"

    def keep_tokens(self, measurement: PerplexityMeasurement) -> str | None:
        """Keep the per-token values, if there are any, under their hash, and return it."""
        digest = per_token_sha256(measurement)
        if digest is not None:
            path = self._cache.sub("tokens") / f"{digest}.npz"
            if not path.exists():
                write_atomically(path, _pack(measurement))
        return digest

    def tokens(self, digest: str | None) -> PerplexityMeasurement | None:
        """Return the per-token values of a hash, if there is one and this cache has them."""
        if digest is None:
            return None
        found = _unpack(self._cache.sub("tokens") / f"{digest}.npz")
        return found if found is not None and per_token_sha256(found) == digest else None
