"""A file's identity: equal for equal bytes, another one for any byte, made in one pass."""

from __future__ import annotations

import hashlib
from pathlib import Path

import gguf
import pytest

from pytest_quantgate.artifacts.file_hashes import FileHashes
from pytest_quantgate.errors import CellUnavailable, ModelFileError
from pytest_quantgate.gguf.digests import (
    IDENTITY_PREFIX,
    FileDigest,
    digest_file,
    digest_header,
    identity_of,
    is_identity,
)
from pytest_quantgate.gguf.reader import read_gguf
from pytest_quantgate.storage.cache import Cache
from tests.gguf.test_reader import write_small


@pytest.fixture
def small(tmp_path: Path) -> Path:
    """A file of less than a kilobyte, with a byte behind its last tensor."""
    path = write_small(tmp_path / "small.gguf")
    path.write_bytes(path.read_bytes() + b"!")
    return path


def test_tensors_and_the_rest_are_hashed_apart(small: Path) -> None:
    data = small.read_bytes()
    outside = data
    digest = digest_file(small)
    for tensor, found in zip(gguf.GGUFReader(small).tensors, digest.tensors, strict=True):
        values = tensor.data.tobytes()
        assert (found.name, found.type) == (tensor.name, tensor.tensor_type.name)
        assert found.sha256 == hashlib.sha256(values).hexdigest()
        assert outside.count(values) == 1
        outside = outside.replace(values, b"")
    assert digest.header_sha256 == hashlib.sha256(outside).hexdigest() == digest_header(small)


@pytest.mark.parametrize("n_threads", [1, 2, 7])
def test_it_is_the_same_in_any_number_of_threads(tiny_model: Path, n_threads: int) -> None:
    assert digest_file(tiny_model, n_threads) == digest_file(tiny_model)


def test_every_byte_counts(small: Path, tmp_path: Path) -> None:
    """A byte that makes no GGUF of it is another matter."""
    data, path = small.read_bytes(), tmp_path / "other.gguf"
    identities = {identity_of([digest_file(small)])}
    n_read = 1
    for place in range(len(data)):
        path.write_bytes(data[:place] + bytes([data[place] ^ 1]) + data[place + 1 :])
        try:
            identities.add(identity_of([digest_file(path)]))
        except ModelFileError:
            continue
        n_read += 1
    path.write_bytes(data + b"\0")
    identities.add(identity_of([digest_file(path)]))
    assert len(identities) == n_read + 1
    assert n_read > len(data) // 2


def test_an_identity_is_told_from_a_plain_hash(small: Path) -> None:
    identity = identity_of([digest_file(small)])
    assert identity.startswith(IDENTITY_PREFIX)
    assert is_identity(identity)
    assert not is_identity(hashlib.sha256(small.read_bytes()).hexdigest())


def test_parts_of_a_split_model_count_in_their_order() -> None:
    one, other = (FileDigest(header_sha256=text, tensors=()) for text in "ab")
    assert len({identity_of(parts) for parts in ([one], [one, other], [other, one])}) == 3


def hashes_in(folder: Path) -> FileHashes:
    return FileHashes(Cache(folder / "cache", 1 << 30).hashes)


def test_a_model_hashed_in_the_background_is_not_hashed_again(
    tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hashes, file = hashes_in(tmp_path), read_gguf(tiny_model)
    hashes.prefetch([file]).join()
    monkeypatch.setattr("pytest_quantgate.artifacts.file_hashes.digest_file", None)
    assert hashes.identity(file) == identity_of([digest_file(tiny_model)])
    assert hashes.is_known(file, "gguf-")
    assert not hashes.is_known(file, "0" * 64)


def test_what_goes_wrong_in_the_background_is_told_to_who_asks(tmp_path: Path) -> None:
    path = write_small(tmp_path / "small.gguf")
    hashes, file = hashes_in(tmp_path), read_gguf(path)
    path.write_bytes(path.read_bytes()[:-200])
    hashes.prefetch([file]).join()
    with pytest.raises(ModelFileError, match="truncated"):
        hashes.identity(file)


def test_a_file_replaced_after_its_header_was_read_is_no_longer_that_model(tmp_path: Path) -> None:
    path = write_small(tmp_path / "small.gguf")
    file = read_gguf(path)
    other = write_small(tmp_path / "other.gguf", architecture="olmoe")
    hashes_in(tmp_path).identity(file)
    path.write_bytes(path.read_bytes())
    hashes_in(tmp_path).identity(file)
    other.replace(path)
    with pytest.raises(CellUnavailable, match="was replaced while it was in use"):
        hashes_in(tmp_path).identity(file)
