"""The same importance matrices as llama-imatrix collects, and the same files made with them."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from pytest_quantgate.artifacts.imatrix import Entry, Imatrix, read_imatrix
from pytest_quantgate.config.settings import load_settings
from pytest_quantgate.gguf.digests import digest_tensors
from pytest_quantgate.gguf.reader import Tensor, read_gguf
from pytest_quantgate.matrix.cells import Cell
from pytest_quantgate.matrix.session import Session

pytestmark = [pytest.mark.crosscheck, pytest.mark.slow]

CHUNKS = 8
MODELS = ("olmoe-mini", "lfm2moe-mini", "smollm2")
FORMATS = ("Q4_K_M", "IQ2_XS")


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory, wikitext: Path) -> Iterator[Session]:
    """A run with a matrix of WikiText-2's first chunks."""
    root = tmp_path_factory.mktemp("imatrix")
    (root / "pyproject.toml").write_text(
        f"""
        [tool.quantgate]
        cache_dir = "cache"
        [tool.quantgate.texts.wikitext2]
        source = "{wikitext}"
        [tool.quantgate.imatrices.wikitext2]
        text = "wikitext2"
        chunks = {CHUNKS}
        [tool.quantgate.profiles.default]
        models = {list(MODELS)}
        formats = {list(FORMATS)}
        imatrices = ["wikitext2"]
        n_threads = 2
        """
    )
    made = Session(load_settings(root), "crosscheck")
    yield made
    made.close()


def cell_of(run: Session, model: str, wanted: str) -> Cell:
    """Return a cell with the matrix."""
    return next(c for c in run.matrix.cells if (c.model, c.format.name) == (model, wanted))


@pytest.fixture(scope="module", params=MODELS)
def both(
    request: pytest.FixtureRequest,
    run: Session,
    llama_programs: Path,
    wikitext: Path,
    tmp_path_factory: pytest.TempPathFactory,
) -> tuple[str, Imatrix, Imatrix, Path]:
    """A model's name, our matrix, the program's, and the model's file in full precision."""
    model = request.param
    cell = cell_of(run, model, FORMATS[0])
    ours = run.artifacts.imatrix(run.resolve(cell))
    assert ours is not None
    source = run.artifacts.file(run.resolve(run.matrix.reference(cell))).header
    path = tmp_path_factory.mktemp("theirs") / f"{model}.gguf"
    subprocess.run(
        [
            str(llama_programs / "llama-imatrix"),
            *("-m", str(source.files[0]), "-f", str(wikitext), "-o", str(path)),
            *("-c", "512", "-b", "512", "-ub", "512", "-t", "2", "--chunks", str(CHUNKS)),
            *("-fa", "on", "-ngl", "0", "--no-ppl"),
        ],
        capture_output=True,
        check=True,
    )
    return model, ours, read_imatrix("theirs", path, "", source), source.files[0]


def sums(entry: Entry) -> np.ndarray:
    """Return an entry's sums in float64."""
    tensor: Tensor = entry.sums
    values = np.fromfile(tensor.file, np.float32, tensor.n_elements, offset=tensor.offset_bytes)
    return values.astype(np.float64)


def test_every_column_agrees_and_every_count_is_equal(
    both: tuple[str, Imatrix, Imatrix, Path],
) -> None:
    _, ours, theirs, _ = both
    assert set(ours.entries) == set(theirs.entries)
    for name, entry in ours.entries.items():
        assert entry.counts == theirs.entries[name].counts, name
        np.testing.assert_allclose(sums(entry), sums(theirs.entries[name]), rtol=1e-4, err_msg=name)


@pytest.mark.parametrize("wanted", FORMATS)
def test_a_file_made_with_it_has_the_tensors_of_llama_quantize(
    both: tuple[str, Imatrix, Imatrix, Path],
    run: Session,
    llama_programs: Path,
    tmp_path: Path,
    wanted: str,
) -> None:
    model, ours, _, source = both
    path = tmp_path / "theirs.gguf"
    subprocess.run(
        [
            str(llama_programs / "llama-quantize"),
            *("--imatrix", str(ours.path), str(source), str(path), wanted, "2"),
        ],
        capture_output=True,
        check=True,
    )
    theirs = digest_tensors(read_gguf(path))
    assert run.artifacts.file(run.resolve(cell_of(run, model, wanted))).tensors == theirs


def test_llama_imatrix_reads_ours(
    both: tuple[str, Imatrix, Imatrix, Path], llama_programs: Path, tmp_path: Path
) -> None:
    """And writes it again with the same sums and counts."""
    _, ours, _, source = both
    path = tmp_path / "again.gguf"
    subprocess.run(
        [
            str(llama_programs / "llama-imatrix"),
            *("-m", str(source), "--in-file", str(ours.path), "-o", str(path)),
        ],
        capture_output=True,
        check=True,
    )
    again = read_imatrix("again", path, "", read_gguf(source))
    for name, entry in ours.entries.items():
        assert again.entries[name].counts == entry.counts
        np.testing.assert_array_equal(sums(again.entries[name]), sums(entry))
