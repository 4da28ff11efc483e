"""Where the reference's output matrix is, in files that have one and in damaged ones."""

from __future__ import annotations

from pathlib import Path

import gguf
import numpy as np
import pytest

from pytest_quantgate.gguf.reader import read_gguf
from pytest_quantgate.metrics.scoring import output_matrix
from tests.tiny_model import finish


@pytest.mark.parametrize(
    ("name", "shape", "expected"),
    [
        ("output.weight", (3, 32), (3, 32)),
        ("token_embd.weight", (3, 32), (3, 32)),
        ("output.weight", (96,), None),
        ("token_embd.weight", (1, 3, 32), None),
        ("other", (3, 32), None),
    ],
)
def test_it_is_a_matrix(
    tmp_path: Path, name: str, shape: tuple[int, ...], expected: tuple[int, int] | None
) -> None:
    path = tmp_path / "model.gguf"
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_tensor(name, np.zeros(shape, np.float32))
    finish(writer)
    place = output_matrix(read_gguf(path))
    assert (None if place is None else (place.n_vocab, place.n_embd)) == expected
