"""Headers of GGUF files: as gguf reads them, and every way in which a file can be damaged."""

from __future__ import annotations

import hashlib
import shutil
import time
import tracemalloc
from pathlib import Path

import gguf
import numpy as np
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from pytest_quantgate.errors import ModelFileError
from pytest_quantgate.gguf.digests import digest_tensors
from pytest_quantgate.gguf.formats import FULL_PRECISION, TENSOR_TYPES, find_format
from pytest_quantgate.gguf.language_model import check_language_model
from pytest_quantgate.gguf.reader import read_gguf, split_files
from pytest_quantgate.gguf.writer import NewTensor, encode_field, encode_header
from pytest_quantgate.results.measurements.size import measure_size
from tests.tiny_model import finish


def write_small(path: Path, architecture: str = "llama", kind: str | None = None) -> Path:
    """Write a file with one field of each kind and two small tensors."""
    writer = gguf.GGUFWriter(path, architecture)
    if kind is not None:
        writer.add_type(kind)
    writer.add_tokenizer_model("gpt2")
    writer.add_token_list(["a", "b", "ü"])
    writer.add_array("some.numbers", [1, 2, 3])
    writer.add_bool("some.bool", True)
    writer.add_float64("some.double", 0.5)
    writer.add_int16("some.short", -7)
    writer.add_uint64("some.long", 1 << 40)
    writer.add_tensor("token_embd.weight", np.arange(64, dtype=np.float16).reshape(2, 32))
    writer.add_tensor("blk.0.attn_norm.weight", np.ones(32, dtype=np.float32))
    finish(writer)
    return path


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file of less than a kilobyte."""
    return write_small(tmp_path_factory.mktemp("gguf") / "small.gguf")


def test_a_header_says_what_gguf_reads(tiny_model: Path) -> None:
    header = read_gguf(tiny_model)
    reader = gguf.GGUFReader(tiny_model)
    assert [tensor.name for tensor in header.tensors] == [t.name for t in reader.tensors]
    for mine, theirs in zip(header.tensors, reader.tensors, strict=True):
        assert mine.type.name == theirs.tensor_type.name
        assert mine.shape == tuple(int(size) for size in theirs.shape)
        assert mine.offset_bytes == theirs.data_offset
        assert mine.n_bytes == theirs.n_bytes
        assert mine.n_elements == theirs.n_elements
    assert header.n_bytes == tiny_model.stat().st_size
    assert header.architecture == "llama"
    assert header.hyperparameter("block_count") == 2
    assert header.hyperparameter("nothing") is None
    assert header.main_type() == "F16"
    assert header.main_type() in FULL_PRECISION
    for name, value in header.metadata.items():
        assert reader.fields[name].contents() == value, name


def test_scalars_are_read_and_arrays_left_out(small: Path) -> None:
    metadata = read_gguf(small).metadata
    assert metadata["some.bool"] is True
    assert metadata["some.double"] == 0.5
    assert metadata["some.short"] == -7
    assert metadata["some.long"] == 1 << 40
    assert "some.numbers" not in metadata
    assert "tokenizer.ggml.tokens" not in metadata


def test_the_settings_are_the_architectures_and_the_tokenizers_scalars(
    tiny_model: Path, small: Path
) -> None:
    settings = read_gguf(tiny_model).settings()
    assert settings["llama.attention.head_count"] == "4"
    assert settings["tokenizer.ggml.pre"] == "gpt-2"
    assert settings["llama.attention.layer_norm_rms_epsilon"].startswith("9.99")
    assert not any(name.startswith("general.") for name in settings)
    assert read_gguf(small).settings() == {"tokenizer.ggml.model": "gpt2"}


def test_the_digest_is_over_names_types_and_bytes(small: Path) -> None:
    digests = digest_tensors(read_gguf(small))
    for tensor, digest in zip(gguf.GGUFReader(small).tensors, digests, strict=True):
        data = tensor.data.tobytes()
        assert digest.sha256 == hashlib.sha256(data).hexdigest()
        assert (digest.name, digest.type) == (tensor.name, tensor.tensor_type.name)


def test_the_digest_does_not_depend_on_metadata(tmp_path: Path, small: Path) -> None:
    other = write_small(tmp_path / "other.gguf", kind="model")
    assert other.read_bytes() != small.read_bytes()
    assert digest_tensors(read_gguf(other)) == digest_tensors(read_gguf(small))


def test_split_files_are_one_model(tmp_path: Path) -> None:
    parts = []
    for number in (1, 2):
        path = tmp_path / f"big-0000{number}-of-00002.gguf"
        writer = gguf.GGUFWriter(path, "llama")
        writer.add_tokenizer_model("gpt2")
        name = "token_embd.weight" if number == 1 else "blk.0.attn_q.weight"
        writer.add_tensor(name, np.full((2, 32), number, dtype=np.float16))
        finish(writer)
        parts.append(path)
    header = read_gguf(parts[0])
    assert header.files == tuple(parts)
    assert [tensor.name for tensor in header.tensors] == [
        "token_embd.weight",
        "blk.0.attn_q.weight",
    ]
    assert header.n_bytes == sum(part.stat().st_size for part in parts)
    digests = digest_tensors(header)
    assert [digest.sha256 for digest in digests] == [
        hashlib.sha256(np.full(64, number, dtype=np.float16).tobytes()).hexdigest()
        for number in (1, 2)
    ]
    with pytest.raises(
        ModelFileError, match="is file 2 of 2 of a split model; name the first: big-00001-of-00002"
    ):
        read_gguf(parts[1])
    parts[1].unlink()
    with pytest.raises(ModelFileError, match="big-00002-of-00002.gguf is missing: one of the 2"):
        read_gguf(parts[0])


def test_a_name_that_only_looks_split_is_one_file(tmp_path: Path) -> None:
    path = tmp_path / "model-1-of-2.gguf"
    assert split_files(path) == (path,)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "is no GGUF file: it begins with b''"),
        (b"PK\3\4zip", "is no GGUF file: it begins with b'PK.*convert_hf_to_gguf.py"),
        (b"GGUF\1\0\0\0" + bytes(16), "is GGUF version 1; valid: 2, 3"),
        (b"GGUF\0\0\0\3" + bytes(16), "is big-endian"),
        (b"GGUF\3\0", "is truncated or damaged: its header ends early; get it again"),
        (b"GGUF\3\0\0\0" + b"\xff" * 16, "is truncated or damaged"),
    ],
)
def test_what_is_no_model_file(tmp_path: Path, data: bytes, message: str) -> None:
    path = tmp_path / "model.gguf"
    path.write_bytes(data)
    with pytest.raises(ModelFileError, match=message) as caught:
        read_gguf(path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_file_that_does_not_exist(tmp_path: Path) -> None:
    with pytest.raises(ModelFileError, match="does not exist"):
        read_gguf(tmp_path / "nothing.gguf")


def test_a_truncated_model_says_how_much_is_missing(tmp_path: Path, tiny_model: Path) -> None:
    path = tmp_path / "half.gguf"
    size = tiny_model.stat().st_size
    shutil.copyfile(tiny_model, path)
    with path.open("r+b") as stream:
        stream.truncate(size - 1)
    with pytest.raises(ModelFileError, match=f"is truncated: {size - 1:,} bytes of {size:,}"):
        read_gguf(path)


@pytest.mark.parametrize("part", [0.0, 0.001, 0.2, 0.5, 0.9, 0.999])
def test_a_truncation_anywhere_is_noticed(tmp_path: Path, tiny_model: Path, part: float) -> None:
    data = tiny_model.read_bytes()
    path = tmp_path / "cut.gguf"
    path.write_bytes(data[: int(part * len(data))])
    with pytest.raises(ModelFileError):
        read_gguf(path)


def _read_or_refuse(path: Path) -> None:
    """Read a damaged file to the end of what is made of a header."""
    try:
        header = read_gguf(path)
        check_language_model(header)
    except ModelFileError as error:
        if "\n" in str(error):
            pytest.fail(f"not one line: {error}")
        return
    digest_tensors(header)
    measure_size(header, find_format("Q4_K_M"))


_SAFE = settings(
    max_examples=300,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)


@_SAFE
@given(length=st.integers(0, 2000))
def test_any_truncation_is_refused_in_words(small: Path, tmp_path: Path, length: int) -> None:
    path = tmp_path / "cut.gguf"
    data = small.read_bytes()
    path.write_bytes(data[:length])
    if length < len(data):
        with pytest.raises(ModelFileError):
            read_gguf(path)
    else:
        _read_or_refuse(path)


@_SAFE
@given(
    changes=st.lists(
        st.tuples(st.integers(0, 700), st.binary(min_size=1, max_size=8)), min_size=1, max_size=3
    )
)
@example(changes=[(8, b"\0" * 8)])  # no tensors
@example(changes=[(16, b"\xff" * 8)])  # very many fields
def test_any_damage_is_refused_in_words_or_harmless(
    small: Path, tmp_path: Path, changes: list[tuple[int, bytes]]
) -> None:
    data = bytearray(small.read_bytes())
    for wanted, replacement in changes:
        place = min(wanted, len(data) - len(replacement))
        data[place : place + len(replacement)] = replacement
    path = tmp_path / "damaged.gguf"
    path.write_bytes(data)
    _read_or_refuse(path)


F16, Q8_0 = TENSOR_TYPES["F16"], TENSOR_TYPES["Q8_0"]
NAMED = encode_field("general.architecture", "llama")


@pytest.mark.parametrize(
    ("fields", "tensors", "message"),
    [
        ([NAMED], [("a", F16, (32,)), ("a", F16, (32,))], "tensor 'a' is in it twice"),
        ([NAMED, NAMED], [], "it has the key 'general.architecture' twice"),
        ([NAMED], [("n" * 63, F16, (32,))], None),
        ([NAMED], [("n" * 64, F16, (32,))], "has a name of 64 bytes, and llama.cpp takes 63"),
        ([NAMED], [("ü" * 32, F16, (32,))], "has a name of 64 bytes"),
        ([NAMED], [("a", Q8_0, (33,))], "rows of 33 weights, no multiple of Q8_0's 32"),
        ([NAMED], [("a", Q8_0, ())], "rows of 1 weights, no multiple of Q8_0's 32"),
    ],
)
def test_what_llama_cpp_refuses_without_a_reason(
    tmp_path: Path, fields: list[bytes], tensors: list[NewTensor], message: str | None
) -> None:
    path = tmp_path / "odd.gguf"
    path.write_bytes(encode_header(fields, tensors) + bytes(256))
    if message is None:
        assert len(read_gguf(path).tensors) == len(tensors)
        return
    with pytest.raises(ModelFileError, match=message) as error:
        read_gguf(path)
    assert "\n" not in str(error.value)


def test_a_big_endian_file_is_called_so(tmp_path: Path) -> None:
    writer = gguf.GGUFWriter(tmp_path / "big.gguf", "llama", endianess=gguf.GGUFEndian.BIG)
    writer.add_tensor("token_embd.weight", np.ones((2, 32), dtype=np.float16))
    finish(writer)
    with pytest.raises(ModelFileError, match="is big-endian, .* convert it: python -m gguf"):
        read_gguf(tmp_path / "big.gguf")


@pytest.mark.parametrize("kind", [8, 9])
def test_a_damaged_length_takes_no_memory_and_no_time(tmp_path: Path, kind: int) -> None:
    """Of a string, and of an array of strings in a file of zeros."""
    path = tmp_path / "long.gguf"
    start = b"GGUF" + (3).to_bytes(4, "little") + bytes(8) + (1).to_bytes(8, "little")
    key = (1).to_bytes(8, "little") + b"k" + kind.to_bytes(4, "little")
    item = (8).to_bytes(4, "little") if kind == 9 else b""
    with path.open("wb") as stream:
        stream.write(start + key + item + (1 << 29).to_bytes(8, "little"))
        stream.truncate(5 << 30)
    began_s = time.perf_counter()
    tracemalloc.start()
    try:
        with pytest.raises(ModelFileError, match="truncated or damaged"):
            read_gguf(path)
        assert tracemalloc.get_traced_memory()[1] < 1 << 20
    finally:
        tracemalloc.stop()
    assert time.perf_counter() - began_s < 1


@pytest.mark.parametrize("value", [0, 7])
def test_an_alignment_that_is_no_power_of_two_is_refused(tmp_path: Path, value: int) -> None:
    writer = gguf.GGUFWriter(tmp_path / "a.gguf", "llama")
    writer.add_uint32("general.alignment", value)
    writer.add_tensor("token_embd.weight", np.ones((2, 32), dtype=np.float16))
    finish(writer)
    with pytest.raises(ModelFileError, match=f"general.alignment is {value}, no power of two"):
        read_gguf(tmp_path / "a.gguf")


def test_an_array_in_an_array_in_an_array_is_refused(tmp_path: Path) -> None:
    """As deep as a file can say it, without exhausting the interpreter's stack."""
    header = b"GGUF" + (3).to_bytes(4, "little") + bytes(8) + (1).to_bytes(8, "little")
    key = (1).to_bytes(8, "little") + b"k" + (9).to_bytes(4, "little")
    nested = ((9).to_bytes(4, "little") + (1).to_bytes(8, "little")) * 20_000
    path = tmp_path / "deep.gguf"
    path.write_bytes(header + key + nested)
    with pytest.raises(ModelFileError):
        read_gguf(path)


@pytest.mark.parametrize(
    ("architecture", "kind", "message"),
    [
        ("clip", "mmproj", "general.type is 'mmproj'; name the model"),
        ("llama", "imatrix", "general.type is 'imatrix'"),
        ("llama", "adapter", "general.type is 'adapter'"),
        ("clip", None, "its architecture 'clip' predicts no next token"),
        ("bert", None, "its architecture 'bert' predicts"),
        ("nomic-bert-moe", None, "its architecture 'nomic-bert-moe' predicts"),
        ("t5encoder", None, "its architecture 't5encoder' predicts"),
        ("wavtokenizer-dec", None, "its architecture 'wavtokenizer-dec' predicts"),
    ],
)
def test_what_is_no_language_model(
    tmp_path: Path, architecture: str, kind: str | None, message: str
) -> None:
    path = write_small(tmp_path / "other.gguf", architecture, kind)
    with pytest.raises(ModelFileError, match=f"is no language model: {message}"):
        check_language_model(read_gguf(path))


def test_a_model_without_vocabulary_or_embedding_is_refused(tmp_path: Path) -> None:
    writer = gguf.GGUFWriter(tmp_path / "a.gguf", "llama")
    writer.add_tensor("blk.0.x", np.ones((2, 32), dtype=np.float16))
    finish(writer)
    with pytest.raises(ModelFileError, match="it has no tokenizer"):
        check_language_model(read_gguf(tmp_path / "a.gguf"))


def test_a_file_without_tensors_is_not_called_truncated(tmp_path: Path) -> None:
    """Nothing pads its header: it is a vocabulary alone."""
    writer = gguf.GGUFWriter(tmp_path / "vocabulary.gguf", "llama")
    writer.add_tokenizer_model("gpt2")
    finish(writer)
    header = read_gguf(tmp_path / "vocabulary.gguf")
    assert header.tensors == ()
    with pytest.raises(ModelFileError, match="it has no tensor token_embd.weight"):
        check_language_model(header)


def test_a_real_model_is_a_language_model(tiny_model: Path) -> None:
    check_language_model(read_gguf(tiny_model))
