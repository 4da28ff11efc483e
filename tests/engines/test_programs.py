"""An engine of programs: what it computes, quantizes and collects."""

from __future__ import annotations

import hashlib
import math
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from pytest_quantgate.engines.messages import (
    CollectImatrix,
    DivergenceSummary,
    Identify,
    ImportanceRow,
    ListCodecs,
    Message,
    Progress,
    Quantize,
    Quantized,
    Tokenize,
)
from pytest_quantgate.engines.programs.scores import BASE_FILE
from pytest_quantgate.errors import CellCrashed, CellError, CellUnsupported
from tests.engines.conftest import N_CTX, TOKENS, RequestOf, Start, score, sums, true_nll
from tests.engines.fake_programs import calls, set_faults

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="the fakes are scripts")


def test_the_identity_tells_version_devices_and_hashes(start: Start, folder: Path) -> None:
    found = start().identity()
    assert (found.kind, found.version) == ("llama.cpp's programs", "9999 (abcdef0)")
    assert found.system_info == "CPU : FAKE = 1 |"
    assert found.devices == ("CUDA0", "CUDA1")
    assert (found.commit, found.build_options) == ("abcdef0", "nothing for nowhere")
    assert start().identity() == found == start().ask(Identify())
    other = start(("-ngl", "99")).identity()
    assert other.library_sha256 != found.library_sha256, "arguments change what is computed"
    assert other.quantizer_sha256 == found.quantizer_sha256
    (folder / "libggml-base.so").write_bytes(b"a library beside them")
    assert start().identity().quantizer_sha256 != found.quantizer_sha256
    (folder / "CMakeCache.txt").write_text("GGML_NATIVE:BOOL=OFF\n")
    assert start().identity().build_options == "GGML_NATIVE=OFF | nothing for nowhere"


@pytest.mark.parametrize("chunks", [range(4), range(2, 5)])
def test_chunk_sums_come_from_running_means(
    start: Start, request_of: RequestOf, text: Path, chunks: range
) -> None:
    told = sums(score(start(), request_of(chunks)))
    assert [chunk.index for chunk in told] == list(chunks)
    for chunk in told:
        assert chunk.tokens == TOKENS
        # The logarithm has 6 decimals, and as many chunks before it as its number says.
        assert chunk.nll_sum_nats == pytest.approx(true_nll(chunk.index), abs=1e-4)
        assert chunk.kld_sum_nats is chunk.same_top is None
        ids = np.frombuffer(text.read_bytes(), np.uint8)[chunk.index * N_CTX :][:N_CTX]
        expected = hashlib.sha256(ids.astype(np.int32).tobytes()).hexdigest()
        assert chunk.token_ids_sha256 == expected


def test_a_model_is_compared_with_the_references_base_file(
    start: Start, request_of: RequestOf, tmp_path: Path
) -> None:
    engine, reference = start(), str(tmp_path / "reference")
    score(engine, request_of(range(6), reference=reference, captures=True))
    assert sorted(path.name for path in Path(reference).iterdir()) == [BASE_FILE, "facts.json"]
    told = score(engine, request_of(range(6), reference=reference))
    for chunk in sums(told):
        true_kld = TOKENS * (0.05 + 0.01 * math.cos(chunk.index))
        assert chunk.kld_sum_nats == pytest.approx(true_kld, abs=6 * TOKENS * 1e-5)
        assert chunk.same_top == TOKENS - 1 - chunk.index % 3
        assert chunk.nll_sum_nats == pytest.approx(true_nll(chunk.index), abs=1e-2)
    assert [chunk.index for chunk in sums(told)] == list(range(6))
    (summary,) = (reply for reply in told if isinstance(reply, DivergenceSummary))
    assert (summary.max_kld_nats, summary.min_kld_nats) == (0.9, -1e-6)
    assert dict(summary.kld_percentiles_nats)["99"] == 0.43
    assert dict(summary.kld_percentiles_nats)["50"] == 0.04
    assert summary.kld_percentiles_nats[-1] == ("0.1", 3e-6)
    assert summary.rms_delta_p == pytest.approx(0.06526)
    assert dict(summary.delta_p_percentiles)["75"] == pytest.approx(0.00471)


def test_a_base_file_with_more_chunks_is_cut(
    start: Start, request_of: RequestOf, tmp_path: Path
) -> None:
    engine, reference = start(), str(tmp_path / "reference")
    score(engine, request_of(range(6), reference=reference, captures=True))
    told = sums(score(engine, request_of(range(2), reference=reference)))
    assert [chunk.index for chunk in told] == [0, 1]
    # Fewer than 100 tokens: llama-perplexity prints no statistics then.
    assert told[1].same_top == TOKENS - 2
    assert sorted(path.name for path in Path(reference).iterdir()) == [BASE_FILE, "facts.json"]


def test_what_a_killed_process_left_of_a_base_file_is_removed(
    start: Start, request_of: RequestOf, tmp_path: Path
) -> None:
    engine, reference = start(), tmp_path / "reference"
    reference.mkdir()
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    leftover, part = (reference / f"{BASE_FILE}.{n}.partial" for n in (ended.pid, f"2.{ended.pid}"))
    others = reference / f"{BASE_FILE}.2.{os.getppid()}.partial"
    for path in (leftover, others):
        path.write_bytes(b"rows")
    score(engine, request_of(range(6), reference=str(reference), captures=True))
    assert not leftover.exists()
    part.write_bytes(b"rows")
    score(engine, request_of(range(2), reference=str(reference)))
    assert not part.exists()
    assert others.exists()


def test_another_vocabulary_is_scored_on_its_own_tokens(
    start: Start, request_of: RequestOf, folder: Path, tmp_path: Path
) -> None:
    """Against a base file the program would decode the reference's tokens."""
    reference = str(tmp_path / "reference")
    score(start(), request_of(reference=reference, captures=True))
    (folder / "bos").touch()
    told = sums(score(start(), request_of(reference=reference)))
    assert all(chunk.kld_sum_nats is None for chunk in told)
    assert "--kl-divergence" not in calls(folder, "llama-perplexity")[-1]


def test_a_bos_token_takes_the_first_place_of_each_chunk(
    start: Start, request_of: RequestOf, folder: Path, text: Path, tmp_path: Path
) -> None:
    (folder / "bos").touch()
    engine = start()
    reply = engine.ask(Tokenize(model="m", text=str(text), n_ctx=N_CTX))
    assert reply.bos == 7
    assert reply.n_tokens == 10 * N_CTX + 31
    ids = np.frombuffer(text.read_bytes(), np.uint8).astype(np.int32)[N_CTX - 1 :][:N_CTX]
    ids[0] = 7
    assert reply.token_ids_sha256[1] == hashlib.sha256(ids.tobytes()).hexdigest()
    # One byte earlier than the token's place: the text has no bytes for BOS.
    assert reply.scored_bytes[0] == (N_CTX // 2, N_CTX - 1)
    request = request_of(reference=str(tmp_path / "reference"), captures=True)
    assert len(sums(score(engine, request))) == 4, "the base file's tokens are the same"


def test_the_settings_are_pinned_and_the_arguments_come_last(
    start: Start, request_of: RequestOf, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LLAMA_ARG_THREADS", "17")
    score(start(("-ngl", "99", "-ts", "1,1")), replace(request_of(), device="CUDA0,CUDA1"))
    *command, from_outside = calls(folder, "llama-perplexity")[-1]
    text = " ".join(command)
    assert "-c 64 -b 64 -ub 64 -t 1 -fa on -ctk f16 -ctv f16 --device CUDA0,CUDA1" in text
    assert "-ngl 999 -sm layer -ngl 99 -ts 1,1" in text
    assert from_outside is None, "a variable would set what the profile pins"
    device = "CUDA0,CUDA1;n_gpu_layers=7;split_mode=row;tensor_split=3/1"
    score(start(), replace(request_of(), device=device))
    text = " ".join(calls(folder, "llama-perplexity")[-1][:-1])
    assert "--device CUDA0,CUDA1 -ngl 7 -sm row -ts 3,1" in text
    score(start(), replace(request_of(), repack=False))
    text = " ".join(calls(folder, "llama-perplexity")[-1][:-1])
    assert "--device none -ngl 0" in text
    assert "--no-repack" in text


def test_other_chunks_than_the_first_ones_are_refused(start: Start, request_of: RequestOf) -> None:
    with pytest.raises(CellUnsupported, match='set chunk_order = "text"'):
        start().ask(replace(request_of(), chunks=(3, 0)))


def test_what_needs_the_library_is_refused(start: Start) -> None:
    with pytest.raises(CellUnsupported, match="cannot answer ListCodecs"):
        start().ask(ListCodecs())


# Quantizing


@pytest.fixture
def quantize(tiny_model: Path, tmp_path: Path) -> Quantize:
    """A request to quantize."""
    return Quantize(
        source=str(tiny_model),
        destination=str(tmp_path / "out.gguf"),
        file_type=7,
        overrides=(("blk\\.0\\.", 8),),
        allow_requantize=True,
        n_threads=1,
    )


def test_quantizing_passes_overrides_and_tells_its_progress(
    start: Start, quantize: Quantize, folder: Path
) -> None:
    told: list[Message] = []
    matrix = ImportanceRow(
        name="blk.0.attn_q.weight",
        path="matrix.gguf",
        sums_offset_bytes=0,
        counts_offset_bytes=0,
        n_sums=1,
        n_counts=1,
    )
    reply = start().ask(replace(quantize, imatrix=(matrix, matrix)), told.append)
    assert isinstance(reply, Quantized)
    assert told == [Progress(what="quantize", done=n, total=2) for n in (1, 2)]
    (command,) = calls(folder, "llama-quantize")
    assert command[:-1] == [
        *("--allow-requantize", "--tensor-type", "blk\\.0\\.=Q8_0", "--imatrix", "matrix.gguf"),
        *(quantize.source, quantize.destination, "7", "1"),
    ]


@pytest.mark.parametrize("pattern", ["blk\\.\\D", "a=b"])
def test_a_pattern_that_llama_quantize_would_change_is_refused(
    start: Start, quantize: Quantize, pattern: str
) -> None:
    with pytest.raises(CellUnsupported, match="cannot take the pattern"):
        start().ask(replace(quantize, overrides=((pattern, 8),)))


@pytest.mark.parametrize(
    ("fault", "kind", "message"),
    [
        ("silent", CellCrashed, "did not print its result (exit status 0)"),
        ("no file", CellCrashed, "left no model"),
        ("garbage", CellCrashed, "did not print its result (exit status 0)"),
        ("abort", CellCrashed, "killed by SIGABRT"),
        ("invalid", CellUnsupported, "invalid ftype '777'"),
    ],
)
def test_a_quantizer_that_breaks_is_a_verdict(
    start: Start, quantize: Quantize, folder: Path, fault: str, kind: type[CellError], message: str
) -> None:
    set_faults(folder, llama_quantize=fault)
    with pytest.raises(kind) as caught:
        start().ask(quantize)
    assert message in str(caught.value)


# Importance matrices


@pytest.fixture
def collect(text: Path, tmp_path: Path) -> CollectImatrix:
    """A request to collect a matrix over all of the text."""
    return CollectImatrix(
        model=str(tmp_path / "model.gguf"),
        device="cpu",
        text=str(text),
        destination=str(tmp_path / "matrix.npz.partial"),
        max_chunks=0,
        n_ctx=N_CTX,
        n_threads=1,
        flash_attention=True,
    )


def test_a_matrix_has_a_row_an_expert(start: Start, collect: CollectImatrix) -> None:
    assert start().ask(collect).n_chunks == 10
    with np.load(collect.destination) as arrays:
        assert set(arrays) == {f"blk.0.ffn_up_exps.weight.{part}" for part in ("in_sum2", "counts")}
        sums = arrays["blk.0.ffn_up_exps.weight.in_sum2"]
        np.testing.assert_array_equal(sums, [[0, 1, 2], [3, 4, 5]])
        np.testing.assert_array_equal(arrays["blk.0.ffn_up_exps.weight.counts"], [5, 9])
    assert start().ask(replace(collect, max_chunks=3)).n_chunks == 3


@pytest.mark.parametrize(
    ("fault", "kind", "message"),
    [
        ("garbage", CellCrashed, "llama-imatrix did not print its result"),
        ("part", CellCrashed, "wrote a matrix of 9 of 10 chunks"),
        ("refuse", CellUnsupported, "unknown model architecture"),
    ],
)
def test_a_matrix_that_is_not_whole_is_a_verdict(
    start: Start,
    collect: CollectImatrix,
    folder: Path,
    fault: str,
    kind: type[CellError],
    message: str,
) -> None:
    set_faults(folder, llama_imatrix=fault)
    with pytest.raises(kind, match=message):
        start().ask(collect)
    set_faults(folder)
    with pytest.raises(CellUnsupported, match="less than one chunk of n_ctx = 4096"):
        start().ask(replace(collect, n_ctx=4096))
