"""Importance matrices as files: what is refused, and what llama.cpp would silently leave out."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import gguf
import numpy as np
import pytest

from pytest_quantgate.artifacts.imatrix import (
    Imatrices,
    Imatrix,
    dropped_weights,
    read_header,
    read_imatrix,
    write_imatrix,
)
from pytest_quantgate.artifacts.texts import make_text
from pytest_quantgate.config.schema import ImatrixSettings
from pytest_quantgate.engines.engine import Engine
from pytest_quantgate.engines.messages import CollectImatrix, ImatrixCollected
from pytest_quantgate.errors import CellInvalid, ConfigError
from pytest_quantgate.gguf.reader import GgufFile, read_gguf
from pytest_quantgate.storage.cache import Cache
from tests.tiny_model import Shape, finish, write_tiny_model

EXPERTS = 4
DOWN = "blk.1.ffn_down_exps.weight"
Arrays = dict[str, np.ndarray]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> GgufFile:
    """An olmoe of two layers with four experts."""
    path = tmp_path_factory.mktemp("model") / "m.gguf"
    return read_gguf(write_tiny_model(path, Shape(experts=EXPERTS, layers=2)))


@pytest.fixture
def arrays(model: GgufFile) -> Arrays:
    """A matrix of every weight of the blocks."""
    found: Arrays = {}
    for tensor in model.tensors:
        if tensor.name.startswith("blk.") and len(tensor.shape) > 1:
            n = EXPERTS if "_exps" in tensor.name else 1
            found[f"{tensor.name}.in_sum2"] = np.full((n, tensor.shape[0]), 2.0, dtype=np.float32)
            found[f"{tensor.name}.counts"] = np.full(n, 3.0, dtype=np.float32)
    return found


def written(folder: Path, arrays: Arrays) -> Path:
    """Write a matrix's file."""
    path = folder / "im.gguf"
    write_imatrix(path, arrays, "sha256:0", 5, 512)
    return path


def test_a_file_says_what_llama_imatrix_writes(
    model: GgufFile, arrays: Arrays, tmp_path: Path
) -> None:
    arrays[f"{DOWN}.counts"] = np.array([7, 0, 3, 1], dtype=np.float32)
    path = written(tmp_path, arrays)
    reader = gguf.GGUFReader(path)
    assert reader.fields["general.type"].contents() == "imatrix"
    assert reader.fields["imatrix.chunk_count"].contents() == 5
    assert reader.fields["imatrix.chunk_size"].contents() == 512
    (dataset,) = reader.fields["imatrix.datasets"].contents()
    assert dataset.startswith("sha256:")
    shapes = {tensor.name: tensor.shape.tolist() for tensor in reader.tensors}
    assert shapes[f"{DOWN}.in_sum2"] == [256, EXPERTS]
    assert shapes[f"{DOWN}.counts"] == [1, EXPERTS]
    found = read_imatrix("im", path, "hash", model)
    assert found.entries[DOWN].counts == (7, 0, 3, 1)
    assert len(found.rows()) == len(arrays) // 2
    row = next(row for row in found.rows() if row.name == DOWN)
    sums = np.fromfile(row.path, np.float32, row.n_sums, offset=row.sums_offset_bytes)
    counts = np.fromfile(row.path, np.float32, row.n_counts, offset=row.counts_offset_bytes)
    assert sums.tolist() == [2.0] * 256 * EXPERTS
    assert counts.tolist() == [7, 0, 3, 1]


def set_value(value: float, part: str = "in_sum2") -> Callable[[Arrays], None]:
    """Return what plants one value."""

    def change(arrays: Arrays) -> None:
        arrays[f"{DOWN}.{part}"].reshape(-1)[1] = value

    return change


def shorten(arrays: Arrays) -> None:
    arrays[f"{DOWN}.in_sum2"] = arrays[f"{DOWN}.in_sum2"][:, :128]


def without_counts(arrays: Arrays) -> None:
    del arrays[f"{DOWN}.counts"]


def other_counts(arrays: Arrays) -> None:
    arrays[f"{DOWN}.counts"] = np.ones(2, dtype=np.float32)


def odd_counts(arrays: Arrays) -> None:
    arrays[f"{DOWN}.counts"] = np.ones(3, dtype=np.float32)


def without_sums(arrays: Arrays) -> None:
    arrays[f"{DOWN}.counts"][:] = 12
    arrays[f"{DOWN}.in_sum2"][1] = 0


def as_halves(arrays: Arrays) -> None:
    arrays[f"{DOWN}.in_sum2"] = arrays[f"{DOWN}.in_sum2"].astype(np.float16)


def of_another_model(arrays: Arrays) -> None:
    for name in list(arrays):
        arrays[name.replace("blk.", "enc.")] = arrays.pop(name)


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (set_value(np.nan), f"{DOWN}: sum 1 is nan, not finite (1 of 1024)"),
        (set_value(np.inf), f"{DOWN}: sum 1 is inf, not finite"),
        (set_value(-1), f"{DOWN}: sum 1 is -1.0, negative"),
        (set_value(np.nan, "counts"), f"{DOWN}: count 1 is nan, not finite (1 of 4)"),
        (set_value(-2, "counts"), f"{DOWN}: count 1 is -2.0, negative"),
        (shorten, f"{DOWN} has 512 sums and 4 counts, the model's weight takes 1024 and 4"),
        (without_counts, f"{DOWN} has sums and no counts"),
        (other_counts, f"{DOWN} has 1024 sums and 2 counts"),
        (odd_counts, f"{DOWN} has 1024 sums for 3 counts, no multiple"),
        (without_sums, f"{DOWN}: expert 1 saw 12 tokens and its sums are all 0 (1 of 4)"),
        (as_halves, f"{DOWN} is F16 with counts F32, not F32"),
        (of_another_model, "is of another model: none of its 16 weights is in m.gguf"),
    ],
)
def test_a_matrix_that_would_spoil_the_model_is_invalid(
    model: GgufFile, arrays: Arrays, tmp_path: Path, change: Callable[[Arrays], None], told: str
) -> None:
    change(arrays)
    path = written(tmp_path, arrays)
    with pytest.raises(CellInvalid) as caught:
        read_imatrix("im", path, "hash", model)
    assert "importance matrix 'im'" in str(caught.value)
    assert told in str(caught.value)
    assert "\n" not in str(caught.value)


def test_one_count_for_all_experts_is_as_older_files_have_it(
    model: GgufFile, arrays: Arrays, tmp_path: Path
) -> None:
    arrays[f"{DOWN}.counts"] = np.array([12], dtype=np.float32)
    arrays[f"{DOWN}.in_sum2"] = arrays[f"{DOWN}.in_sum2"].reshape(1, -1)
    found = read_imatrix("im", written(tmp_path, arrays), "hash", model)
    assert found.entries[DOWN].counts == (12,)


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (None, "cannot be read (No such file or directory)"),
        (b"\x05\x00\x00\x00legacy", "llama-imatrix --in-file im.dat -o im.gguf"),
        ("model", "is no importance matrix: general.type is None"),
    ],
)
def test_a_file_that_is_no_matrix_is_a_mistake_of_the_configuration(
    tmp_path: Path, model: GgufFile, content: bytes | str | None, told: str
) -> None:
    path = tmp_path / "im.dat"
    if isinstance(content, bytes):
        path.write_bytes(content)
    elif content is not None:
        path = model.files[0]
    with pytest.raises(ConfigError) as caught:
        read_header("im", path)
    assert told in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("gone", "missed"),
    [
        ((DOWN,), (DOWN,)),
        (("blk.0.ffn_down_exps.weight", DOWN), ("blk.0.ffn_down_exps.weight", DOWN)),
        (("blk.1.attn_k.weight",), ("blk.1.attn_k.weight",)),
        # A whole layer, or one weight of all layers that is no expert's: not part of the graph.
        (("blk.0.attn_k.weight", "blk.1.attn_k.weight"), ()),
        (("blk.1.",), ()),
        ((), ()),
    ],
)
def test_a_weight_that_was_dropped_is_missed(
    model: GgufFile,
    arrays: Arrays,
    tmp_path: Path,
    gone: tuple[str, ...],
    missed: tuple[str, ...],
) -> None:
    for name in list(arrays):
        if name.startswith(gone):
            del arrays[name]
    found = read_imatrix("im", written(tmp_path, arrays), "hash", model)
    assert dropped_weights(found.entries, model) == missed


@pytest.mark.parametrize(
    ("weight", "counts", "missed"),
    [
        ("blk.1.attn_k.weight", [0], ("blk.1.attn_k.weight",)),
        (DOWN, [0], (DOWN,)),
        # The coverage tells which experts saw none.
        (DOWN, [0, 0, 0, 0], ()),
        (DOWN, [5], ()),
    ],
)
def test_a_weight_without_a_token_is_missed_too(
    model: GgufFile,
    arrays: Arrays,
    tmp_path: Path,
    weight: str,
    counts: list[int],
    missed: tuple[str, ...],
) -> None:
    arrays[f"{weight}.counts"] = np.array(counts, dtype=np.float32)
    found = read_imatrix("im", written(tmp_path, arrays), "hash", model)
    assert dropped_weights(found.entries, model) == missed


@dataclass(frozen=True, kw_only=True)
class Collector:
    """An engine that collects what it is given."""

    arrays: Arrays

    def identity(self) -> SimpleNamespace:
        """Return what a matrix is kept by."""
        return SimpleNamespace(
            library_sha256="l", cpu_name="c", system_info="s", surroundings_sha256="v"
        )

    def ask(self, request: CollectImatrix, _on_reply: object) -> ImatrixCollected:
        """Write the matrix."""
        with Path(request.destination).open("wb") as stream:
            np.savez(stream, **self.arrays)  # type: ignore[arg-type] # numpy's stub takes no mapping
        return ImatrixCollected(n_chunks=1)


@pytest.mark.parametrize("is_whole", [True, False])
def test_a_weight_that_an_engine_dropped_while_collecting_is_missed(
    model: GgufFile, arrays: Arrays, tmp_path: Path, *, is_whole: bool
) -> None:
    """As in a user's file: whether it is gone or has no token."""
    if not is_whole:
        del arrays[f"{DOWN}.in_sum2"]  # counts alone are nothing
        arrays["blk.1.attn_k.weight.counts"][:] = 0
    imatrices = Imatrices(Cache(tmp_path, 1 << 30), tmp_path, 1, nullcontext)

    def collect() -> Imatrix:
        return imatrices.from_text(
            "im",
            ImatrixSettings(text="t"),
            make_text("t", {"t": b"words"}),
            model,
            "hash",
            cast("Engine", Collector(arrays=arrays)),
            True,
            lambda _reply: None,
        )

    if is_whole:
        assert len(collect().entries) == len(arrays) // 2
        return
    with pytest.raises(CellInvalid) as caught:
        collect()
    assert str(caught.value) == (
        "importance matrix 'im' lacks blk.1.attn_k.weight and 1 more: llama.cpp would quantize it"
        " as without a matrix; take a longer text, or another engine"
    )


def test_the_file_is_the_one_that_gguf_writes(arrays: Arrays, tmp_path: Path) -> None:
    writer = gguf.GGUFWriter(tmp_path / "theirs.gguf", arch="")
    writer.add_type(gguf.GGUFType.IMATRIX)
    writer.add_array(gguf.Keys.IMatrix.DATASETS, ["sha256:0"])
    writer.add_uint32(gguf.Keys.IMatrix.CHUNK_COUNT, 5)
    writer.add_uint32(gguf.Keys.IMatrix.CHUNK_SIZE, 512)
    for name, array in sorted(arrays.items()):
        writer.add_tensor(name, array.reshape(-1, 1) if name.endswith(".counts") else array)
    finish(writer)
    assert written(tmp_path, arrays).read_bytes() == (tmp_path / "theirs.gguf").read_bytes()
