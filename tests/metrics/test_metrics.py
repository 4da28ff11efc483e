"""What is observed in a cell: perplexity from chunks, and size from a header."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from pytest_quantgate.engines.messages import DivergenceSummary
from pytest_quantgate.gguf.formats import TENSOR_TYPES, find_format, make_recipe
from pytest_quantgate.gguf.reader import GgufFile, Tensor
from pytest_quantgate.results.measurement_store import Measurements, per_token_sha256
from pytest_quantgate.results.measurements.perplexity import (
    FloatArray,
    IntArray,
    PerplexityMeasurement,
    common_chunks,
    token_changes,
)
from pytest_quantgate.results.measurements.size import measure_size
from pytest_quantgate.storage.cache import Cache
from tests.gate.judged import measurement


def values(seen: PerplexityMeasurement) -> tuple[FloatArray, IntArray]:
    """Return the values of single tokens, which these measurements have."""
    assert seen.nll_nats is not None
    assert seen.top_tokens is not None
    return seen.nll_nats, seen.top_tokens


def test_perplexity_is_of_the_mean_over_all_tokens() -> None:
    seen = measurement()
    nats = sum(seen.chunks.nll_sum_nats)
    assert seen.chunks.n_tokens == 1600
    assert math.isclose(seen.perplexity, math.exp(nats / 1600))
    assert seen.chunks.is_finite


def test_perplexity_overflows_to_infinity_and_keeps_not_a_number() -> None:
    assert measurement(800.0).perplexity == math.inf
    assert math.isnan(measurement([math.nan] + [0.0] * 15).perplexity)
    assert not measurement([math.inf] + [0.0] * 15).chunks.is_finite


def test_the_first_chunks_are_a_measurement_of_their_own() -> None:
    seen = measurement()
    first = seen.first(3)
    assert first.chunks.n_tokens == 300
    nll_nats, top_tokens = values(first)
    assert nll_nats.shape == top_tokens.shape == (3, 100)
    assert first.n_chunks_in_text == seen.n_chunks_in_text


def test_measurements_are_compared_on_their_common_chunks() -> None:
    seen = measurement()
    order = [5, 2, 9]
    other = replace(
        seen,
        chunks=seen.chunks.take(order),
        nll_nats=values(seen)[0][order].copy(),
        top_tokens=values(seen)[1][order].copy(),
    )
    assert common_chunks(other, seen) == ([0, 1, 2], order)
    same = token_changes(other, seen)
    assert same is not None
    assert same.changed == 0
    nll_nats, top_tokens = values(other)
    nll_nats[1, 7] += np.float32(0.25)
    top_tokens[2, 0] = 9
    changes = token_changes(seen, other)
    assert changes is not None
    assert (changes.changed, changes.tokens, changes.top_tokens_changed) == (1, 300, 1)
    assert changes.largest_nats == pytest.approx(0.25, abs=1e-6)


def test_bits_decide_whether_a_token_changed() -> None:
    """Not a number equals itself; zero and minus zero differ."""
    seen = measurement()
    other = replace(seen, nll_nats=values(seen)[0].copy())
    values(seen)[0][0, :3] = (math.nan, 0.0, 1.0)
    values(other)[0][0, :3] = (math.nan, -0.0, 1.0)
    changes = token_changes(seen, other)
    assert changes is not None
    assert changes.changed == 1
    assert token_changes(seen, replace(other, nll_nats=None)) is None


def test_a_measurement_survives_its_file(tmp_path: Path) -> None:
    store = Measurements(Cache(tmp_path, 1 << 30))
    seen = measurement()
    assert store.load("k", is_reference=False) is None
    store.store("k", seen, is_reference=False)
    loaded = store.load("k", is_reference=False)
    assert loaded is not None
    assert loaded.chunks == seen.chunks
    np.testing.assert_array_equal(values(loaded)[0], values(seen)[0])
    assert per_token_sha256(loaded) == per_token_sha256(seen)


def test_sums_alone_survive_their_file_too(tmp_path: Path) -> None:
    store = Measurements(Cache(tmp_path, 1 << 30))
    summary = DivergenceSummary(
        max_kld_nats=1.0,
        min_kld_nats=0.0,
        kld_percentiles_nats=(("99.9", 0.5), ("99", 0.25)),
        mean_delta_p=0.0,
        rms_delta_p=0.1,
        delta_p_percentiles=(("50", 0.0),),
    )
    seen = replace(measurement(), nll_nats=None, top_tokens=None, summary=summary)
    store.store("k", seen, is_reference=False)
    assert store.load("k", is_reference=False) == seen
    assert store.keep_tokens(seen) is None
    assert store.tokens(None) is None


@pytest.mark.parametrize("keep", [0.0, 0.001, 0.5, 0.9999])
def test_a_torn_measurement_is_none(tmp_path: Path, keep: float) -> None:
    store = Measurements(Cache(tmp_path, 1 << 30))
    store.store("k", measurement(), is_reference=False)
    path = tmp_path / "measurements" / "k.npz"
    data = path.read_bytes()
    path.write_bytes(data[: int(keep * len(data))])
    assert store.load("k", is_reference=False) is None


def test_per_token_values_are_kept_by_their_hash(tmp_path: Path) -> None:
    store = Measurements(Cache(tmp_path, 1 << 30))
    digest = store.keep_tokens(measurement())
    assert store.tokens(digest) is not None
    assert store.tokens("0" * 64) is None
    other = Measurements(Cache(tmp_path / "other", 1 << 30))
    other.keep_tokens(measurement(0.5))
    source = next((tmp_path / "other" / "tokens").iterdir())
    (tmp_path / "tokens" / f"{digest}.npz").write_bytes(source.read_bytes())
    assert store.tokens(digest) is None, "other values under this hash are not believed"


def header(*tensors: tuple[str, str, tuple[int, ...]]) -> GgufFile:
    """Return a header of some tensors."""
    made = tuple(
        Tensor(name=name, type=TENSOR_TYPES[kind], shape=shape, offset_bytes=0, file=Path("x"))
        for name, kind, shape in tensors
    )
    return GgufFile(files=(Path("x"),), metadata={}, tensors=made, n_bytes=123_456)


def test_a_size_counts_bytes_bits_and_types() -> None:
    size = measure_size(
        header(("a", "Q4_K", (256, 4)), ("b", "Q6_K", (256, 2)), ("n", "F32", (256,))),
        find_format("Q4_K_M"),
    )
    assert size.file_bytes == 123_456
    assert size.bytes_by_type == {"F32": 1024, "Q4_K": 4 * 144, "Q6_K": 2 * 210}
    assert size.tensors_by_type == {"F32": 1, "Q4_K": 1, "Q6_K": 1}
    assert size.n_weights == 1024 + 512 + 256
    assert size.bits_per_weight == pytest.approx(8 * (1024 + 576 + 420) / 1792)
    assert size.tensor_types["b"] == "Q6_K"
    assert size.fallbacks == ()
    assert not size.no_effect


def test_rows_that_do_not_fit_the_block_fell_back() -> None:
    """As with a hidden size of 576; a norm is F32 by design."""
    size = measure_size(
        header(("q", "Q5_0", (576, 8)), ("d", "Q6_K", (1536, 8)), ("n", "F32", (576,))),
        find_format("Q4_K_M"),
    )
    assert size.fallbacks == ("q",)
    assert size.fallback_fraction == pytest.approx(
        (576 * 8 // 32 * 22) / (576 * 8 // 32 * 22 + 1536 * 8 // 256 * 210 + 576 * 4)
    )


def test_what_an_override_asks_for_falls_back_too() -> None:
    """The base's blocks are small enough, the override's are not."""
    tensors = header(("attn", "Q8_0", (576, 8)), ("ffn", "Q5_0", (576, 8)), ("o", "Q8_0", (576, 8)))
    recipe = make_recipe("r", "Q8_0", {"attn": "Q6_K", "ffn": "Q4_K"})
    assert measure_size(tensors, recipe).fallbacks == ("attn", "ffn")
    assert measure_size(tensors, find_format("Q8_0")).fallbacks == ()
    kept = make_recipe("r", "Q4_K_M", {"attn": "Q8_0", "ffn": "Q5_0"})
    assert measure_size(tensors, kept).fallbacks == ("o",)


def test_a_format_without_its_main_type_had_no_effect() -> None:
    dense = header(("q", "Q8_0", (256, 8)))
    assert measure_size(dense, find_format("MXFP4_MOE")).no_effect
    assert not measure_size(dense, find_format("Q8_0")).no_effect
    recipe = make_recipe("r", "MXFP4_MOE", {"q": "Q8_0"})
    assert not measure_size(dense, recipe).no_effect
