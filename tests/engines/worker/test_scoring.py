"""Scoring and quantizing in a real worker, on a tiny model."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from pytest_quantgate.engines.llama_cpp_python import LlamaCppPython
from pytest_quantgate.engines.messages import (
    Message,
    Progress,
    Quantize,
    Score,
    ScoredChunk,
    Tokenize,
)
from pytest_quantgate.engines.worker import scoring
from pytest_quantgate.engines.worker.llama import LogTap
from pytest_quantgate.engines.worker.scoring import Scorer, read_text
from pytest_quantgate.errors import CellCrashed, CellUnsupported
from pytest_quantgate.gguf.digests import digest_tensors
from pytest_quantgate.gguf.formats import FILE_TYPES, TENSOR_TYPES
from pytest_quantgate.gguf.reader import read_gguf
from tests.engines.worker.test_reference import output_matrix
from tests.tiny_model import Shape, write_tiny_model


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LlamaCppPython]:
    """The installed llama-cpp-python in a worker."""
    log = tmp_path_factory.mktemp("log") / "worker.log"
    made = LlamaCppPython(python=None, log=log, stall_s=60)
    yield made
    made.close()


def score(engine: LlamaCppPython, model: Path, text: Path, **changes: object) -> list[ScoredChunk]:
    """Score the first two chunks of 64 tokens, or as changed."""
    settings: dict[str, object] = {
        "chunks": (0, 1),
        "n_ctx": 64,
        "n_batch": 64,
        "n_ubatch": 64,
        "n_threads": 1,
        "device": "cpu",
        "flash_attention": True,
        "type_k": TENSOR_TYPES["F16"].number,
        "type_v": TENSOR_TYPES["F16"].number,
    }
    replies: list[Message] = []
    request = Score(model=str(model), text=str(text), **(settings | changes))  # type: ignore[arg-type]
    engine.ask(request, replies.append)
    return [reply for reply in replies if isinstance(reply, ScoredChunk)]


def test_the_engine_says_what_it_is(engine: LlamaCppPython) -> None:
    identity = engine.identity()
    assert identity.kind == "llama-cpp-python"
    assert len(identity.library_sha256) == len(identity.quantizer_sha256) == 64
    assert identity.system_info
    assert "CPU" in identity.devices


def test_a_text_is_cut_as_its_bytes_are(
    engine: LlamaCppPython, tiny_model: Path, story: Path
) -> None:
    """A byte-level vocabulary with the merges t h, th e: every other token is a byte."""
    reply = engine.ask(Tokenize(model=str(tiny_model), text=str(story), n_ctx=64))
    text = read_text(str(story))
    assert reply.bos is None
    merged = text.count(b"the") * 2 + (text.count(b"th") - text.count(b"the"))
    assert reply.n_tokens == len(text) - merged
    assert len(reply.scored_bytes) == len(reply.token_ids_sha256) == reply.n_tokens // 64
    starts = [start for start, _ in reply.scored_bytes]
    assert starts == sorted(starts)
    assert all(31 <= end - start <= 3 * 31 for start, end in reply.scored_bytes)


def test_bos_takes_the_first_place_of_each_chunk(
    engine: LlamaCppPython, tmp_path: Path, story: Path
) -> None:
    """Where the vocabulary adds one; the hashes tell."""
    model = write_tiny_model(tmp_path / "bos.gguf", Shape(layers=1, adds_bos=True, merges=("Q Z",)))
    reply = engine.ask(Tokenize(model=str(model), text=str(story), n_ctx=64))
    bos = reply.bos
    assert bos == 257
    ids = np.frombuffer(read_text(str(story)), np.uint8)
    second = np.concatenate([[bos], ids]).astype(np.int32)[64:128]
    second[0] = bos
    assert reply.token_ids_sha256[1] == hashlib.sha256(second.tobytes()).hexdigest()


def test_only_one_trailing_newline_is_dropped(tmp_path: Path) -> None:
    path = tmp_path / "x"
    for data, kept in ((b"a\n\n", b"a\n"), (b"a\r\n", b"a\r"), (b"a", b"a"), (b"", b"")):
        path.write_bytes(data)
        assert read_text(str(path)) == kept


def test_a_chunk_has_its_sums_tokens_and_hashes(
    engine: LlamaCppPython, tiny_model: Path, story: Path
) -> None:
    cut = engine.ask(Tokenize(model=str(tiny_model), text=str(story), n_ctx=64))
    chunks = score(engine, tiny_model, story, chunks=(3, 0))
    assert [chunk.index for chunk in chunks] == [3, 0]
    for chunk in chunks:
        nll = np.frombuffer(chunk.nll_nats, np.float32)
        assert nll.shape == (31,)
        assert np.frombuffer(chunk.top_tokens, np.int32).shape == (31,)
        assert math.isclose(chunk.nll_sum_nats, float(nll.sum(dtype=np.float64)), rel_tol=1e-6)
        assert chunk.token_ids_sha256 == cut.token_ids_sha256[chunk.index]


def test_values_do_not_depend_on_order_or_threads(
    engine: LlamaCppPython, tiny_model: Path, story: Path
) -> None:
    """Bit for bit on a CPU in F16."""
    expected = {chunk.index: chunk.nll_nats for chunk in score(engine, tiny_model, story)}
    for changes in ({"chunks": (1, 0)}, {"n_threads": 2}):
        seen = {c.index: c.nll_nats for c in score(engine, tiny_model, story, **changes)}
        assert seen == expected, changes


def test_a_chunk_may_take_several_batches(
    engine: LlamaCppPython, tiny_model: Path, story: Path
) -> None:
    """Other kernels round otherwise; a row of logits in the wrong place would be nats away."""
    whole = score(engine, tiny_model, story)
    for batch in (32, 24):
        parts = score(engine, tiny_model, story, n_batch=batch, n_ubatch=batch)
        for one, other in zip(whole, parts, strict=True):
            values = np.frombuffer(other.nll_nats, np.float32)
            np.testing.assert_allclose(values, np.frombuffer(one.nll_nats, np.float32), atol=0.05)


def quantize(
    engine: LlamaCppPython, source: Path, destination: Path, name: str, **changes: object
) -> list[Message]:
    """Quantize a file and return the replies on the way."""
    replies: list[Message] = []
    fields: dict[str, object] = {"overrides": (), "allow_requantize": False, "n_threads": 1}
    request = Quantize(
        source=str(source),
        destination=str(destination),
        file_type=FILE_TYPES[name].number,
        **(fields | changes),  # type: ignore[arg-type]
    )
    engine.ask(request, replies.append)
    return replies


def test_quantizing_tells_its_progress_and_is_repeatable(
    engine: LlamaCppPython, tiny_model: Path, tmp_path: Path
) -> None:
    first, second = tmp_path / "1.gguf", tmp_path / "2.gguf"
    replies = quantize(engine, tiny_model, first, "Q4_K_M")
    quantize(engine, tiny_model, second, "Q4_K_M", n_threads=2)
    header = read_gguf(first)
    progress = [(r.done, r.total) for r in replies if isinstance(r, Progress)]
    assert progress[-1] == (len(header.tensors), len(header.tensors))
    assert digest_tensors(header) == digest_tensors(read_gguf(second))
    types = {tensor.name: tensor.type.name for tensor in header.tensors}
    assert types["blk.0.attn_q.weight"] == "Q4_K"
    assert types["output.weight"] == "Q6_K"


def test_overrides_reach_the_tensors(
    engine: LlamaCppPython, tiny_model: Path, tmp_path: Path
) -> None:
    path = tmp_path / "mixed.gguf"
    overrides = ((r"attn_v\.weight$", TENSOR_TYPES["Q6_K"].number),)
    quantize(engine, tiny_model, path, "Q4_0", overrides=overrides)
    types = {tensor.name: tensor.type.name for tensor in read_gguf(path).tensors}
    assert types["blk.1.attn_v.weight"] == "Q6_K"
    assert types["blk.1.attn_q.weight"] == "Q4_0"


def test_a_format_without_its_matrix_is_refused_and_leaves_nothing(
    engine: LlamaCppPython, tiny_model: Path, tmp_path: Path
) -> None:
    path = tmp_path / "x.gguf"
    with pytest.raises(
        CellUnsupported, match="llama.cpp cannot quantize: .*requires an importance"
    ):
        quantize(engine, tiny_model, path, "IQ2_XXS")
    assert not list(tmp_path.iterdir())


def test_every_file_type_is_as_the_table_says(
    engine: LlamaCppPython, tiny_model: Path, tmp_path: Path
) -> None:
    """Refused without a matrix or written with tensors of its main type; no third way."""
    refused = set()
    for name, row in FILE_TYPES.items():
        path = tmp_path / f"{name}.gguf"
        try:
            quantize(engine, tiny_model, path, name, n_threads=2)
        except CellUnsupported:
            refused.add(name)
            continue
        types = {tensor.type.name for tensor in read_gguf(path).tensors}
        assert row.main_type in types or name == "MXFP4_MOE", name
    assert refused == {name for name, row in FILE_TYPES.items() if row.needs_imatrix}


def test_a_chunk_that_the_text_does_not_have_is_refused(
    engine: LlamaCppPython, tiny_model: Path, story: Path
) -> None:
    with pytest.raises(CellUnsupported, match="chunks, not a chunk 5000"):
        score(engine, tiny_model, story, chunks=(5000,))


def test_a_device_that_is_not_there_is_refused(
    engine: LlamaCppPython, tiny_model: Path, story: Path
) -> None:
    with pytest.raises(CellUnsupported, match="no device 'CUDA7'; there are: cpu, CPU"):
        score(engine, tiny_model, story, device="CUDA7")


def test_a_file_that_is_no_model_is_refused_and_the_next_request_works(
    engine: LlamaCppPython, tiny_model: Path, story: Path, tmp_path: Path
) -> None:
    bad = tmp_path / "bad.gguf"
    bad.write_bytes(tiny_model.read_bytes()[:5000])
    with pytest.raises(
        CellUnsupported, match="llama.cpp cannot load the model: .*failed to read tensor info$"
    ):
        score(engine, bad, story)
    assert len(score(engine, tiny_model, story)) == 2


def test_a_real_abort_names_its_assertion_and_the_next_request_works(
    engine: LlamaCppPython, aborting_model: Path, tiny_model: Path, story: Path
) -> None:
    with pytest.raises(CellCrashed) as caught:
        score(engine, aborting_model, story)
    assert "killed by SIGABRT" in str(caught.value)
    assert "GGML_ASSERT(n_expert_used_max <= hparams.n_expert) failed" in str(caught.value)
    assert len(score(engine, tiny_model, story)) == 2


def test_scoring_behind_the_decoder_gives_the_same(
    tiny_model: Path, tmp_path: Path, story: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As on a GPU: a chunk's logits are kept while the next chunk is decoded."""
    folder = tmp_path / "reference"
    folder.mkdir()
    request = Score(
        model=str(tiny_model),
        text=str(story),
        chunks=(3, 0, 1, 4, 2),
        n_ctx=64,
        n_batch=64,
        n_ubatch=32,
        n_threads=1,
        device="cpu",
        flash_attention=True,
        type_k=TENSOR_TYPES["F16"].number,
        type_v=TENSOR_TYPES["F16"].number,
        reference=str(folder),
        output_matrix=output_matrix(tiny_model),
    )
    log = LogTap()

    def run(asked: Score) -> list[ScoredChunk]:
        replies: list[Message] = []
        scorer = Scorer(replies.append, log)
        scorer.score(asked)
        scorer.close()
        chunks = [reply for reply in replies if isinstance(reply, ScoredChunk)]
        assert tuple(chunk.index for chunk in chunks) == asked.chunks
        return [replace(chunk, seconds_s=0) for chunk in chunks]

    run(replace(request, captures=True))
    stored = {path.name: path.read_bytes() for path in folder.iterdir()}
    alone = run(request)
    assert abs(sum(chunk.kld_sum_nats for chunk in alone)) < 1e-4
    monkeypatch.setattr(scoring, "computes_here", lambda _device: False)
    assert run(request) == alone
    run(replace(request, captures=True))
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == stored


def test_a_model_is_loaded_once_for_its_scores_and_its_routes(
    engine: LlamaCppPython, tmp_path: Path, story: Path
) -> None:
    """Nor again for other threads and batches, but for weights that are not repacked."""
    model = write_tiny_model(tmp_path / "experts.gguf", Shape(experts=8, layers=1))
    base = Score(
        model=str(model),
        text=str(story),
        chunks=(0,),
        n_ctx=64,
        n_batch=64,
        n_ubatch=64,
        n_threads=1,
        device="cpu",
        flash_attention=True,
        type_k=TENSOR_TYPES["F16"].number,
        type_v=TENSOR_TYPES["F16"].number,
    )

    def loads(request: Score) -> bool:
        replies: list[Message] = []
        engine.ask(request, replies.append)
        return any(isinstance(reply, Progress) for reply in replies)

    assert loads(base)
    assert not loads(replace(base, route_chunks=(0,)))
    assert not loads(replace(base, n_threads=2, n_batch=32, n_ubatch=32))
    assert loads(replace(base, repack=False))
