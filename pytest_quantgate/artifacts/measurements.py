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
from pathlib import Path
from zipfile import BadZipFile

import numpy as np

from pytest_quantgate.artifacts.cache import Cache, write_atomically
from pytest_quantgate.metrics.perplexity import ChunkScore, PerplexityMeasurement

_OPTIONAL = ("top_probabilities", "kld_nats")


def per_token_sha256(measurement: PerplexityMeasurement) -> str:
    """Hash the per-token values and the chunks that they belong to."""
    digest = hashlib.sha256()
    for chunk in measurement.chunks:
        digest.update(chunk.index.to_bytes(8, "little"))
    digest.update(np.ascontiguousarray(measurement.nll_nats).tobytes())
    digest.update(np.ascontiguousarray(measurement.top_tokens).tobytes())
    return digest.hexdigest()


def _pack(measurement: PerplexityMeasurement) -> bytes:
    header = {
        "chunks": [vars(chunk) for chunk in measurement.chunks],
        "n_chunks_in_text": measurement.n_chunks_in_text,
        "seconds_s": measurement.seconds_s,
    }
    buffer = io.BytesIO()
    arrays = {
        "header": np.frombuffer(json.dumps(header).encode(), dtype=np.uint8),
        "nll_nats": measurement.nll_nats,
        "top_tokens": measurement.top_tokens,
    }
    for name in _OPTIONAL:
        values = getattr(measurement, name)
        if values is not None:
            arrays[name] = values
    np.savez(buffer, **arrays)  # type: ignore[arg-type] # numpy's stub takes no mapping
    return buffer.getvalue()


def _unpack(path: Path) -> PerplexityMeasurement | None:
    try:
        # Opened here: numpy leaves a file that is no archive open.
        with path.open("rb") as stream, np.load(stream, allow_pickle=False) as arrays:
            header = json.loads(arrays["header"].tobytes())
            return PerplexityMeasurement(
                chunks=tuple(ChunkScore(**chunk) for chunk in header["chunks"]),
                nll_nats=arrays["nll_nats"],
                top_tokens=arrays["top_tokens"],
                n_chunks_in_text=header["n_chunks_in_text"],
                seconds_s=header["seconds_s"],
                **{name: arrays[name] for name in _OPTIONAL if name in arrays},
            )
    except (OSError, EOFError, ValueError, KeyError, TypeError, BadZipFile, zlib.error):
        return None  # torn or damaged in any way: measured anew


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

    def keep_tokens(self, measurement: PerplexityMeasurement) -> str:
        """Keep the per-token values under their hash, and return it."""
        digest = per_token_sha256(measurement)
        path = self._cache.sub("tokens") / f"{digest}.npz"
        if not path.exists():
            write_atomically(path, _pack(measurement))
        return digest

    def tokens(self, digest: str) -> PerplexityMeasurement | None:
        """Return the per-token values of a hash, if this cache has them."""
        found = _unpack(self._cache.sub("tokens") / f"{digest}.npz")
        return found if found is not None and per_token_sha256(found) == digest else None
