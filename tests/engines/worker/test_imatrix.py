"""Importance matrices in the worker: what goes into each weight, by expert."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from pytest_quantgate.engines.llama_cpp_python import LlamaCppPython
from pytest_quantgate.engines.messages import (
    CollectImatrix,
    ImatrixCollected,
    ImportanceRow,
    Message,
    Progress,
)
from pytest_quantgate.engines.worker.errors import EngineRefusal
from pytest_quantgate.engines.worker.imatrix import expert_sums, weight_name
from pytest_quantgate.engines.worker.quantizing import importance_weights
from pytest_quantgate.errors import CellUnsupported
from tests.tiny_model import Shape, write_tiny_model

N_CTX = 64


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LlamaCppPython]:
    """The installed llama-cpp-python in a worker."""
    log = tmp_path_factory.mktemp("log") / "worker.log"
    made = LlamaCppPython(python=None, log=log, stall_s=60)
    yield made
    made.close()


def collect(
    engine: LlamaCppPython, model: Path, text: Path, folder: Path, max_chunks: int = 3
) -> tuple[ImatrixCollected, dict[str, np.ndarray], list[Message]]:
    """Collect over chunks of 64 tokens."""
    replies: list[Message] = []
    destination = folder / "sums"
    request = CollectImatrix(
        model=str(model),
        device="cpu",
        text=str(text),
        destination=str(destination),
        max_chunks=max_chunks,
        n_ctx=N_CTX,
        n_threads=1,
        flash_attention=True,
    )
    reply = engine.ask(request, replies.append)
    with np.load(destination) as arrays:
        return reply, dict(arrays), replies


@pytest.mark.parametrize(
    ("node", "weight"),
    [
        ("blk.0.attn_k.weight", "blk.0.attn_k.weight"),
        ("CUDA0#blk.0.attn_k.weight#0", "blk.0.attn_k.weight"),
        ("CUDA0#blk.0.attn_k.weight", "blk.0.attn_k.weight"),
    ],
)
def test_what_a_backend_adds_to_a_name_is_stripped(node: str, weight: str) -> None:
    assert weight_name(node) == weight


@pytest.mark.parametrize("rows_a_token", [1, 3])
def test_each_expert_gets_the_rows_that_were_sent_to_it(rows_a_token: int) -> None:
    random = np.random.default_rng(1)
    rows = random.standard_normal((11, rows_a_token, 5)).astype(np.float32)
    # Expert 4 is never chosen.
    ids = np.array([random.permutation([0, 1, 2, 3, 5])[:3] for _ in range(11)], dtype=np.int32)
    sums, counts = expert_sums(rows, ids, 6)
    wanted = np.zeros((6, 5))
    for token, chosen in enumerate(ids):
        for place, expert in enumerate(chosen):
            wanted[expert] += rows[token, place % rows_a_token].astype(np.float64) ** 2
    np.testing.assert_allclose(sums, wanted, rtol=1e-12)
    assert counts.tolist() == [int((ids == expert).sum()) for expert in range(6)]
    assert counts[4] == 0
    assert not sums[4].any()


def test_an_expert_that_does_not_exist_is_refused() -> None:
    with pytest.raises(EngineRefusal, match="not among the 4"):
        expert_sums(np.ones((1, 1, 2), np.float32), np.array([[4]], dtype=np.int32), 4)


@pytest.mark.parametrize("experts", [0, 8], ids=["llama", "olmoe"])
def test_every_weight_of_the_blocks_is_collected(
    engine: LlamaCppPython, story: Path, tmp_path: Path, experts: int
) -> None:
    shape = Shape(experts=experts, experts_used=2, layers=2)
    model = write_tiny_model(tmp_path / "m.gguf", shape)
    reply, arrays, replies = collect(engine, model, story, tmp_path)
    assert reply.n_chunks == 3
    assert [r.done for r in replies if isinstance(r, Progress) and r.what == "imatrix"] == [1, 2, 3]
    names = {name.removesuffix(".in_sum2") for name in arrays if name.endswith(".in_sum2")}
    parts = ["attn_q", "attn_k", "attn_v", "attn_output"]
    feed_forward = ["ffn_gate", "ffn_up", "ffn_down"]
    parts += [f"{p}_exps" for p in feed_forward] + ["ffn_gate_inp"] if experts else feed_forward
    assert names == {f"blk.{layer}.{part}.weight" for layer in (0, 1) for part in parts}
    n_tokens = 3 * N_CTX
    for layer in (0, 1):
        # The last layer too: it is cut to the rows whose logits are wanted.
        assert arrays[f"blk.{layer}.attn_output.weight.counts"].tolist() == [n_tokens]
        # After a norm whose weights are one, a row's squares have the mean one.
        for part in ("attn_q", parts[4]):
            sums = arrays[f"blk.{layer}.{part}.weight.in_sum2"]
            rows = n_tokens * (2 if experts and part != "attn_q" else 1)
            assert sums.dtype == np.float32
            assert sums.sum() == pytest.approx(rows * shape.hidden, rel=2e-3)
        if experts:
            counts = arrays[f"blk.{layer}.ffn_down_exps.weight.counts"]
            assert counts.shape == (8,)
            assert counts.sum() == 2 * n_tokens
            assert arrays[f"blk.{layer}.ffn_down_exps.weight.in_sum2"].shape == (8, 256)


def test_the_sums_of_two_chunks_are_those_of_each(
    engine: LlamaCppPython, tiny_model: Path, tmp_path: Path
) -> None:
    letters = np.random.default_rng(2).choice(list(b"abcdefg "), 2 * N_CTX).astype(np.uint8)
    text, rest = tmp_path / "text.txt", tmp_path / "rest.txt"
    text.write_bytes(letters.tobytes())  # a token a byte: none of the vocabulary's pairs
    rest.write_bytes(letters[N_CTX:].tobytes())
    _, both, _ = collect(engine, tiny_model, text, tmp_path)
    _, first, _ = collect(engine, tiny_model, text, tmp_path, max_chunks=1)
    _, second, _ = collect(engine, tiny_model, rest, tmp_path)
    for name, values in both.items():
        np.testing.assert_allclose(values, first[name] + second[name], rtol=1e-6)
    assert both["blk.0.attn_q.weight.counts"] == 2 * N_CTX


def test_a_text_shorter_than_a_chunk_is_refused(
    engine: LlamaCppPython, tiny_model: Path, tmp_path: Path
) -> None:
    short = tmp_path / "short.txt"
    short.write_bytes(b"too short")
    with pytest.raises(CellUnsupported, match=r"less than one chunk of n_ctx = 64; take a longer"):
        collect(engine, tiny_model, short, tmp_path)


def test_weights_are_mean_squares_and_one_where_nothing_was_seen(tmp_path: Path) -> None:
    """As llama-quantize reads a matrix: a count of 0 gives the weight 1."""
    path = tmp_path / "m.bin"
    sums = np.array([2, 4, 0, 0, 9, 3], dtype=np.float32)
    counts = np.array([2, 0, 3], dtype=np.float32)
    path.write_bytes(b"head" + sums.tobytes() + counts.tobytes())
    row = ImportanceRow(
        name="blk.0.ffn_up_exps.weight",
        path=str(path),
        sums_offset_bytes=4,
        counts_offset_bytes=4 + 24,
        n_sums=6,
        n_counts=3,
    )
    found = importance_weights([row])
    assert found["blk.0.ffn_up_exps.weight"].dtype == np.float32
    assert found["blk.0.ffn_up_exps.weight"].tolist() == [1, 2, 1, 1, 3, 1]
