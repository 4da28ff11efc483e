"""The reference's distribution: kept small, checked, and compared with."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from pytest_quantgate.engines.llama_cpp_python import LlamaCppPython
from pytest_quantgate.engines.messages import (
    BatchSizeCompared,
    CompareBatches,
    MatrixPlace,
    Message,
    Progress,
    Quantize,
    Score,
    ScoredChunk,
)
from pytest_quantgate.engines.worker import output_matrix as matrices
from pytest_quantgate.engines.worker.output_matrix import DeviceMatrix, OutputMatrix
from pytest_quantgate.engines.worker.reference import FLOOR_LIMIT_NATS, ReferenceStore
from pytest_quantgate.engines.worker.rows import score_rows
from pytest_quantgate.engines.worker.threads import Threads
from pytest_quantgate.errors import CellCrashed
from pytest_quantgate.gguf.formats import FILE_TYPES
from pytest_quantgate.gguf.reader import read_gguf
from tests.tiny_model import Shape, write_tiny_model


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LlamaCppPython]:
    """The installed llama-cpp-python in a worker."""
    log = tmp_path_factory.mktemp("log") / "worker.log"
    made = LlamaCppPython(python=None, log=log, stall_s=60)
    yield made
    made.close()


def output_matrix(path: Path) -> MatrixPlace:
    """Return where a model's output matrix is."""
    tensors = {tensor.name: tensor for tensor in read_gguf(path).tensors}
    found = tensors.get("output.weight") or tensors["token_embd.weight"]
    n_embd, n_vocab = found.shape
    return MatrixPlace(
        path=str(found.file),
        offset_bytes=found.offset_bytes,
        tensor_type=found.type.number,
        n_vocab=n_vocab,
        n_embd=n_embd,
    )


def score(
    engine: LlamaCppPython,
    model: Path,
    text: Path,
    *,
    folder: Path | None = None,
    captures: bool = False,
    matrix: MatrixPlace | None = None,
    n_ubatch: int = 64,
) -> list[ScoredChunk]:
    """Score three chunks of 64 tokens."""
    replies: list[Message] = []
    request = Score(
        model=str(model),
        text=str(text),
        device="cpu",
        chunks=(0, 1, 2),
        n_ctx=64,
        n_batch=64,
        n_ubatch=n_ubatch,
        n_threads=1,
        flash_attention=True,
        type_k=1,
        type_v=1,
        reference="" if folder is None else str(folder),
        captures=captures,
        output_matrix=matrix,
    )
    engine.ask(request, replies.append)
    return [reply for reply in replies if isinstance(reply, ScoredChunk)]


@pytest.mark.parametrize("experts", [0, 8], ids=["llama", "olmoe"])
def test_hidden_states_give_the_distribution_back(
    engine: LlamaCppPython, tmp_path: Path, story: Path, experts: int
) -> None:
    shape = Shape(experts=experts, experts_used=2) if experts else Shape()
    model = write_tiny_model(tmp_path / "m.gguf", shape)
    matrix, folder = output_matrix(model), tmp_path / "reference"
    folder.mkdir()
    plain = score(engine, model, story)
    kept = score(engine, model, story, folder=folder, captures=True, matrix=matrix)
    assert [c.nll_nats for c in kept] == [c.nll_nats for c in plain], "looking changed a value"
    facts = json.loads((folder / "facts.json").read_text())
    assert facts["mode"] == "hidden"
    assert 0 <= facts["floor_nats"] <= FLOOR_LIMIT_NATS
    chunk = np.load(folder / "chunk-0.npy")
    assert chunk.dtype == np.float16
    assert chunk.shape == (31, matrix.n_embd)
    again = score(engine, model, story, folder=folder, matrix=matrix)
    assert all(abs(c.kld_sum_nats) / 31 <= FLOOR_LIMIT_NATS for c in again)
    assert not list(folder.glob("*.partial"))


@pytest.mark.parametrize("place", [200, -1, -30], ids=["states", "checksum", "last states"])
def test_a_reference_of_which_a_bit_changed_is_one_line(
    engine: LlamaCppPython, tiny_model: Path, tmp_path: Path, story: Path, place: int
) -> None:
    """A divergence from it would be another model's."""
    matrix, folder = output_matrix(tiny_model), tmp_path / "reference"
    folder.mkdir()
    score(engine, tiny_model, story, folder=folder, captures=True, matrix=matrix)
    path = folder / "chunk-0.npy"
    whole = path.read_bytes()
    data = bytearray(whole)
    data[place] ^= 4
    for damaged in (bytes(data), whole[:place]):
        path.write_bytes(damaged)
        with pytest.raises(CellCrashed, match=r"chunk-0.npy are not what was written; delete "):
            score(engine, tiny_model, story, folder=folder, matrix=matrix)


def test_physical_batches_without_a_scored_token_are_no_trouble(
    engine: LlamaCppPython, tiny_model: Path, tmp_path: Path, story: Path
) -> None:
    """The first half of a chunk is not scored: small physical batches of it give no rows."""
    matrix, folder = output_matrix(tiny_model), tmp_path / "reference"
    folder.mkdir()
    score(engine, tiny_model, story, folder=folder, captures=True, matrix=matrix, n_ubatch=8)
    assert json.loads((folder / "facts.json").read_text())["mode"] == "hidden"
    assert np.load(folder / "chunk-0.npy").shape == (31, matrix.n_embd)
    compared = score(engine, tiny_model, story, folder=folder, matrix=matrix, n_ubatch=8)
    assert all(abs(chunk.kld_sum_nats) / 31 <= FLOOR_LIMIT_NATS for chunk in compared)


def test_the_divergence_through_the_cache_is_that_of_the_logits(
    engine: LlamaCppPython, tiny_model: Path, tmp_path: Path, story: Path
) -> None:
    """Hidden states, and logits where these are kept instead, give the same figure."""
    worse = tmp_path / "q4.gguf"
    request = Quantize(
        source=str(tiny_model),
        destination=str(worse),
        file_type=FILE_TYPES["Q4_0"].number,
        overrides=(),
        allow_requantize=False,
        n_threads=1,
    )
    engine.ask(request)
    matrix = output_matrix(tiny_model)
    figures = []
    for name, place in (("hidden", matrix), ("logits", replace(matrix, tensor_type=2))):
        folder = tmp_path / name
        folder.mkdir()
        score(engine, tiny_model, story, folder=folder, captures=True, matrix=place)
        assert json.loads((folder / "facts.json").read_text())["mode"] == name
        compared = score(engine, worse, story, folder=folder, matrix=matrix)
        figures.append([chunk.kld_sum_nats for chunk in compared])
        per_token = np.frombuffer(compared[0].kld_nats, dtype=np.float32)
        assert per_token.sum(dtype=np.float64) == pytest.approx(figures[-1][0], rel=1e-5)
    assert min(figures[0]) > 0.01
    np.testing.assert_allclose(figures[0], figures[1], rtol=1e-4, atol=1e-5)


def test_a_matrix_that_is_not_the_models_is_noticed(tmp_path: Path) -> None:
    """A soft cap, a bias or a scale on the logits has the same effect."""
    random = np.random.default_rng(3)
    weights = random.normal(size=(40, 16)).astype(np.float16)
    path = tmp_path / "w.bin"
    path.write_bytes(weights.tobytes())
    hidden = random.normal(size=(5, 16)).astype(np.float32)
    logits = 3 * np.tanh(
        hidden.astype(np.float16).astype(np.float32) @ weights.T.astype(np.float32)
    )
    store = ReferenceStore(
        str(tmp_path),
        MatrixPlace(path=str(path), offset_bytes=0, tensor_type=1, n_vocab=40, n_embd=16),
        Threads(2),
    )
    store.write(0, hidden, logits)
    assert store.facts() == {"mode": "logits", "floor_nats": 0, "device": ""}
    normalizer = score_rows(logits, np.zeros(5, dtype=int)).normalizer
    np.testing.assert_allclose(store.divergence(0, logits, normalizer), 0, atol=1e-6)


@pytest.mark.parametrize("tensor_type", [0, 1, 30], ids=["F32", "F16", "BF16"])
@pytest.mark.parametrize("kept_bytes", [0, 1 << 20], ids=["converted each time", "kept"])
def test_logits_are_the_product_with_the_output_matrix(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tensor_type: int, kept_bytes: int
) -> None:
    """In slices, which end with a smaller one, and again from what is kept."""
    monkeypatch.setattr(matrices, "_SLICE_BYTES", 4 * 16 * 150)
    monkeypatch.setattr(matrices, "_KEPT_BYTES", kept_bytes)
    random = np.random.default_rng(3)
    weights = random.normal(size=(400, 16)).astype(np.float16).astype(np.float32)
    stored: dict[int, np.ndarray] = {
        0: weights,
        1: weights.astype(np.float16),
        30: weights.view(np.uint32) >> 16,
    }
    if tensor_type == 30:
        weights = ((weights.view(np.uint32) >> 16) << 16).view(np.float32)
        stored[30] = stored[30].astype(np.uint16)
    (tmp_path / "w.bin").write_bytes(bytes(8) + stored[tensor_type].tobytes())
    place = MatrixPlace(
        path=str(tmp_path / "w.bin"),
        offset_bytes=8,
        tensor_type=tensor_type,
        n_vocab=400,
        n_embd=16,
    )
    matrix = OutputMatrix(place, Threads(3))
    for count in (3, 7, 2):
        hidden = random.normal(size=(count, 16)).astype(np.float16)
        expected = hidden.astype(np.float32) @ weights.T
        np.testing.assert_allclose(matrix.logits(hidden), expected, rtol=1e-5, atol=1e-5)


def test_a_devices_own_product_gives_its_logits_back(tmp_path: Path) -> None:
    """What the device's kernel rounds on the way is in the logits that are kept by it too."""
    random = np.random.default_rng(3)
    weights = random.normal(size=(400, 64)).astype(np.float16)
    (tmp_path / "w.bin").write_bytes(weights.tobytes())
    place = MatrixPlace(
        path=str(tmp_path / "w.bin"), offset_bytes=0, tensor_type=1, n_vocab=400, n_embd=64
    )
    hidden = random.normal(size=(6, 64)).astype(np.float32)
    matrix = DeviceMatrix(place, "CPU", 6)
    logits = matrix.logits(hidden)[:5].copy()
    matrix.close()
    expected = hidden[:5] @ weights.astype(np.float32).T
    np.testing.assert_allclose(logits, expected, rtol=1e-2, atol=5e-2)
    assert (logits != expected).any(), "another kernel than numpy's"

    store = ReferenceStore(str(tmp_path), place, Threads(2), "CPU")
    store.write(0, hidden[:5], logits)
    facts = store.facts()
    assert facts is not None
    assert (facts["mode"], facts["device"]) == ("hidden", "CPU")
    normalizer = score_rows(logits, np.zeros(5, dtype=int)).normalizer
    np.testing.assert_allclose(store.divergence(0, logits, normalizer), 0, atol=1e-9)
    store.close()


def test_batches_of_every_size_are_compared(
    engine: LlamaCppPython, tiny_model: Path, story: Path
) -> None:
    replies: list[Message] = []
    request = CompareBatches(
        model=str(tiny_model),
        device="cpu",
        text=str(story),
        chunk=1,
        n_ctx=64,
        n_tokens=48,
        n_ubatches=(0, 1, 5, 32, 48),
        n_threads=1,
        flash_attention=True,
        type_k=1,
        type_v=1,
        repack=True,
    )
    rows = engine.ask(request, replies.append).rows
    assert [row.n_ubatch for row in rows] == [0, 1, 5, 32, 48]
    assert all(-1e-7 < row.mean_kld_nats <= row.max_kld_nats < 1e-3 for row in rows), rows
    same = BatchSizeCompared(n_ubatch=48, mean_kld_nats=0.0, max_kld_nats=0.0, top_tokens_changed=0)
    assert rows[-1] == same, "the same geometry is the same"
    compared = [item for item in replies if isinstance(item, Progress) and item.what == "batches"]
    assert [item.done for item in compared] == [1, 2, 3, 4, 5, 6]
