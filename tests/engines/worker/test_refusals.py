"""What llama.cpp only logs, and what it would die of, is said in one line."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from pathlib import Path

import pytest

from pytest_quantgate.engines.llama_cpp_python import LlamaCppPython
from pytest_quantgate.engines.messages import Quantize, Tokenize
from pytest_quantgate.engines.worker.errors import join_reasons
from pytest_quantgate.errors import CellUnsupported
from pytest_quantgate.gguf.formats import CACHE_TYPES, FILE_TYPES, TENSOR_TYPES
from tests.engines.worker.test_scoring import score

NAME = b"blk.0.attn_k.weight"
LONG_NAME = NAME + 64 * b"x"  # the data stay aligned


def text_of(value: bytes) -> bytes:
    """Return a text as GGUF stores it."""
    return struct.pack("<Q", len(value)) + value


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LlamaCppPython]:
    log = tmp_path_factory.mktemp("log") / "worker.log"
    made = LlamaCppPython(python=None, log=log, stall_s=60)
    yield made
    made.close()


@pytest.mark.parametrize(
    ("before", "after", "reason"),
    [
        (NAME, b"blk.0.attn_q.weight", "duplicate tensor name 'blk.0.attn_q.weight'"),
        (text_of(NAME), text_of(LONG_NAME), "is too long: 83 >= 64"),
        (b"llama.context_length", b"general.architecture", "duplicate key 'general.architecture'"),
        (
            b"llama.block_count" + struct.pack("<I", 4),
            b"llama.block_count" + struct.pack("<I", 6),
            "key llama.block_count has wrong type f32 but expected type u32",
        ),
        (b"GGUF" + struct.pack("<I", 3), b"GGUF" + struct.pack(">I", 3), "endianness"),
        (b"GGUF", b"FUGG", "magic"),
    ],
    ids=["a tensor twice", "a long name", "a key twice", "a key's type", "big-endian", "magic"],
)
def test_a_model_that_cannot_be_loaded_has_its_reason(
    engine: LlamaCppPython,
    tiny_model: Path,
    tmp_path: Path,
    story: Path,
    before: bytes,
    after: bytes,
    reason: str,
) -> None:
    path = tmp_path / "model.gguf"
    data = tiny_model.read_bytes()
    assert before in data
    path.write_bytes(data.replace(before, after, 1))
    with pytest.raises(CellUnsupported) as caught:
        score(engine, path, story)
    (line,) = str(caught.value).splitlines()
    assert line.startswith("llama.cpp cannot load the model: ")
    assert reason in line


@pytest.mark.parametrize("which", ["type_k", "type_v"])
@pytest.mark.parametrize("name", ["I8", "Q8_1", "Q4_K"])
def test_a_type_that_keys_and_values_cannot_have(
    engine: LlamaCppPython, tiny_model: Path, story: Path, which: str, name: str
) -> None:
    with pytest.raises(CellUnsupported, match=r"cannot be of ggml type \d+; valid: F32 \(0\), F16"):
        score(engine, tiny_model, story, **{which: TENSOR_TYPES[name].number})


@pytest.mark.parametrize("name", CACHE_TYPES)
def test_each_type_that_a_profile_may_name_for_them_computes(
    engine: LlamaCppPython, tiny_model: Path, story: Path, name: str
) -> None:
    number = TENSOR_TYPES[name].number
    assert len(score(engine, tiny_model, story, type_k=number, type_v=number)) == 2


@pytest.mark.parametrize("name", ["Q8_K", "Q8_1", "I8", "F64"])
def test_a_type_that_llama_cpp_cannot_write(
    engine: LlamaCppPython, tiny_model: Path, tmp_path: Path, name: str
) -> None:
    request = Quantize(
        source=str(tiny_model),
        destination=str(tmp_path / "q.gguf"),
        file_type=FILE_TYPES["Q8_0"].number,
        overrides=(("ffn_down", TENSOR_TYPES[name].number),),
        allow_requantize=True,
        n_threads=1,
    )
    with pytest.raises(CellUnsupported, match=r"\('ffn_down'\); valid: Q4_0, Q4_1, .*BF16$"):
        engine.ask(request)
    assert not (tmp_path / "q.gguf").exists()


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "utf-16-be", "utf-32"])
def test_a_text_that_is_not_utf_8(
    engine: LlamaCppPython, tiny_model: Path, tmp_path: Path, story: Path, encoding: str
) -> None:
    text = tmp_path / "text.txt"
    text.write_bytes(story.read_text(encoding="utf-8").encode(encoding))
    with pytest.raises(CellUnsupported, match="looks like UTF-16 .*; save it as UTF-8: iconv"):
        engine.ask(Tokenize(model=str(tiny_model), text=str(text), n_ctx=64))


@pytest.mark.parametrize(
    ("lines", "reason"),
    [
        ([], ""),
        (["", "===="], ""),
        (["f: duplicate key", "g: failed to read key-value pairs"], "f: duplicate key"),
        (["x: failed to read header", "y: failed to load model"], "x: failed to read header"),
        (["a", "b", "a", "c"], "a; b"),
    ],
)
def test_the_lines_that_give_a_reason(lines: list[str], reason: str) -> None:
    assert join_reasons(lines) == reason
