"""Older releases of llama-cpp-python: what each makes and measures, and what it refuses.

``QUANTGATE_OLD_PYTHON`` names their interpreters, separated as a PATH is. An embedded model is
quantized to every file type and measured in every way; what a release cannot do must be refused
with the reason, and nothing may crash.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from pytest_quantgate.engines.llama_cpp_python import LlamaCppPython
from pytest_quantgate.engines.messages import (
    CollectImatrix,
    CompareBatches,
    ListCodecs,
    MeasureMemory,
    MeasureSpeed,
    Message,
    PlanQuantization,
    Quantize,
    Request,
    Score,
    ScoredChunk,
    Tokenize,
)
from pytest_quantgate.errors import CellUnsupported
from pytest_quantgate.gguf.embedded import EMBEDDED
from pytest_quantgate.gguf.formats import FILE_TYPES, TENSOR_TYPES, FileType
from pytest_quantgate.gguf.reader import read_gguf

pytestmark = [pytest.mark.crosscheck, pytest.mark.slow]

OLD = [path for path in os.environ.get("QUANTGATE_OLD_PYTHON", "").split(os.pathsep) if path]
MODEL = str(EMBEDDED / "olmoe-mini.gguf")
CHANCE_NATS = math.log(4096)  # its vocabulary
F16 = 1
N_CTX = 64
PLACE: dict[str, Any] = {"n_threads": 2, "flash_attention": True, "type_k": F16, "type_v": F16}


@pytest.fixture(scope="module", params=OLD or [""])
def old(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[LlamaCppPython]:
    """The engine of an older release."""
    if not request.param:
        pytest.skip("QUANTGATE_OLD_PYTHON does not name interpreters of older releases")
    log = tmp_path_factory.mktemp("log") / "worker.log"
    engine = LlamaCppPython(python=request.param, log=log, stall_s=300)
    yield engine
    engine.close()


@pytest.fixture(scope="module")
def own(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LlamaCppPython]:
    """The engine of this interpreter."""
    log = tmp_path_factory.mktemp("log") / "worker.log"
    engine = LlamaCppPython(python=None, log=log, stall_s=300)
    yield engine
    engine.close()


@pytest.fixture(scope="module")
def text(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A text of some chunks."""
    path = tmp_path_factory.mktemp("text") / "text.txt"
    path.write_text("The river runs past the old mill, and the miller counts the sacks. " * 60)
    return str(path)


def refusal(engine: LlamaCppPython, request: Request[Any]) -> tuple[Any, str]:
    """Return the answer and "", or None and why the engine refuses."""
    try:
        return engine.ask(request), ""
    except CellUnsupported as error:
        return None, str(error)


def quantizing(
    file_type: FileType, destination: Path, overrides: tuple[tuple[str, int], ...] = ()
) -> Quantize:
    return Quantize(
        source=MODEL,
        destination=str(destination),
        file_type=file_type.number,
        overrides=overrides,
        allow_requantize=True,
        n_threads=2,
    )


def nll_nats(engine: LlamaCppPython, model: str, text: str) -> float:
    """Return a model's mean negative log-likelihood of two chunks."""
    chunks: list[ScoredChunk] = []

    def take(reply: Message) -> None:
        if isinstance(reply, ScoredChunk):
            chunks.append(reply)

    engine.ask(
        Score(
            model=model,
            device="cpu",
            text=text,
            chunks=(0, 1),
            n_ctx=N_CTX,
            n_batch=N_CTX,
            n_ubatch=N_CTX,
            route_chunks=(0,),
            **PLACE,
        ),
        take,
    )
    assert chunks[0].route_layers, "the chosen experts were recorded"
    return sum(chunk.nll_sum_nats for chunk in chunks) / (2 * (N_CTX - 1 - N_CTX // 2))


def test_it_is_another_engine(old: LlamaCppPython, own: LlamaCppPython) -> None:
    theirs, ours = old.identity(), own.identity()
    assert theirs.version != ours.version
    assert theirs.library_sha256 != ours.library_sha256
    assert theirs.quantizer_sha256 != ours.quantizer_sha256
    assert theirs.commit != ours.commit
    assert theirs.llama_cpp_version
    assert theirs.devices == ours.devices


def test_the_text_is_cut_alike(old: LlamaCppPython, own: LlamaCppPython, text: str) -> None:
    request = Tokenize(model=MODEL, text=text, n_ctx=N_CTX)
    assert old.ask(request) == own.ask(request)


@pytest.mark.parametrize("name", FILE_TYPES)
def test_a_file_type_is_made_as_planned_and_measured_or_refused(
    old: LlamaCppPython, own: LlamaCppPython, text: str, tmp_path: Path, name: str
) -> None:
    """What two releases compute for one file is less than 1 % of a perplexity apart.

    That is the widest of the gate's own limits; only kernels are between them. What a model that is
    worse than guessing computes (TQ1_0 and TQ2_0 leave one) is worse than guessing for both.
    """
    made, row = tmp_path / "made.gguf", FILE_TYPES[name]
    _, reason = refusal(old, quantizing(row, made))
    if reason:
        assert "llama.cpp cannot quantize" in reason
        assert not made.exists()
        if not row.needs_imatrix:
            own.ask(quantizing(row, made))
            with pytest.raises(CellUnsupported, match="llama.cpp cannot load the model"):
                nll_nats(old, str(made), text)
        return
    request = PlanQuantization(
        source=MODEL, file_type=row.number, overrides=(), allow_requantize=True
    )
    plan, reason = refusal(old, request)
    if plan is None:
        assert "it has no dry run" in reason
    else:
        written = [(tensor.name, tensor.type.name) for tensor in read_gguf(made).tensors]
        assert list(plan.types) == written
    theirs, ours = nll_nats(old, str(made), text), nll_nats(own, str(made), text)
    if ours < CHANCE_NATS:
        assert theirs == pytest.approx(ours, abs=0.01)
    else:
        assert theirs > CHANCE_NATS


def test_single_tensors_get_their_types_or_that_is_refused(
    old: LlamaCppPython, tmp_path: Path
) -> None:
    made = tmp_path / "made.gguf"
    overrides = (("ffn_down_exps", TENSOR_TYPES["Q8_0"].number),)
    _, reason = refusal(old, quantizing(FILE_TYPES["Q4_0"], made, overrides))
    if reason:
        assert "too old to take the types of single tensors" in reason
        return
    types = {tensor.name: tensor.type.name for tensor in read_gguf(made).tensors}
    assert types["blk.0.ffn_down_exps.weight"] == "Q8_0"
    assert types["blk.0.ffn_up_exps.weight"] == "Q4_0"


def test_everything_else_is_measured_or_refused(
    old: LlamaCppPython, text: str, tmp_path: Path
) -> None:
    """An importance matrix, batches of other sizes, memory, speed and the codecs."""
    place: dict[str, Any] = {"model": MODEL, "device": "cpu", **PLACE}
    batched: dict[str, Any] = {**place, "n_batch": N_CTX, "n_ubatch": N_CTX}
    matrix = tmp_path / "imatrix.npz"
    collected = old.ask(
        CollectImatrix(
            model=MODEL,
            device="cpu",
            n_threads=2,
            flash_attention=True,
            text=text,
            destination=str(matrix),
            max_chunks=2,
            n_ctx=N_CTX,
        )
    )
    assert collected.n_chunks == 2
    assert matrix.stat().st_size > 0
    batches = old.ask(
        CompareBatches(
            text=text,
            chunk=0,
            n_ctx=N_CTX,
            n_tokens=32,
            n_ubatches=(0, 3),
            **place,
        )
    )
    assert all(row.mean_kld_nats < 1e-3 for row in batches.rows)
    memory = old.ask(MeasureMemory(n_ctx=N_CTX, **batched))
    assert {row.kind for row in memory.buffers} >= {"model", "compute"}
    speed = old.ask(MeasureSpeed(n_prompt=32, n_decode=8, n_depth=0, repetitions=1, **batched))
    assert min(*speed.prefill_ns, *speed.decode_ns) > 0
    assert {row.name for row in old.ask(ListCodecs()).types} >= {"Q4_0", "Q8_0", "Q4_K", "IQ4_XS"}
