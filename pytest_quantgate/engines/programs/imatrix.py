"""Collects an importance matrix with llama-imatrix."""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np

from pytest_quantgate.engines.messages import CollectImatrix, ImatrixCollected, Tokenize
from pytest_quantgate.engines.programs.folder import IMATRIX, Argument, ProgramFolder
from pytest_quantgate.engines.programs.tokens import TextCutter
from pytest_quantgate.errors import CellUnsupported, ModelFileError
from pytest_quantgate.gguf.reader import GgufFile, read_gguf
from pytest_quantgate.storage.environment import environment

_COUNTS, _SUMS = ".counts", ".in_sum2"


def collect_imatrix(
    programs: ProgramFolder, cutter: TextCutter, request: CollectImatrix
) -> ImatrixCollected:
    """Collect over the first chunks of a text and write the request's ``.npz``.

    Raises:
        CellCrashed: llama-imatrix did not write a matrix of all the chunks.
        CellUnsupported: llama.cpp refused, or the text is shorter than a chunk.
        CellError: the program is not there or hung.
        EnvironmentProblem: the disk is full.

    """
    cut = cutter.cut(Tokenize(model=request.model, text=request.text, n_ctx=request.n_ctx))
    if cut.n_tokens < request.n_ctx:
        raise CellUnsupported(
            f"the text of an importance matrix has {cut.n_tokens:,} tokens, less than one chunk of"
            f" n_ctx = {request.n_ctx}; take a longer text"
        )
    n_requested = min(cut.n_tokens // request.n_ctx, request.max_chunks or cut.n_tokens)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "imatrix.gguf"
        arguments: list[Argument] = ["-m", request.model, "-f", request.text, "-o", path]
        n_ctx = request.n_ctx
        arguments += ["-c", n_ctx, "-b", n_ctx, "-ub", min(512, n_ctx)]
        arguments += ["-t", request.n_threads, "-fa", "on" if request.flash_attention else "off"]
        arguments += ["--chunks", n_requested, "--no-ppl", "--device", "none", "-ngl", 0]
        code = programs.run(IMATRIX, arguments)
        try:
            matrix = read_gguf(path)
        except (OSError, ModelFileError):
            raise programs.failure(IMATRIX, code) from None
        # It also writes every few chunks: a file alone does not tell that it came to the end.
        n_chunks = matrix.metadata.get("imatrix.chunk_count")
        if n_chunks != n_requested:
            what = f"wrote a matrix of {n_chunks} of {n_requested} chunks"
            raise programs.crash(IMATRIX, code, what)
        arrays = _arrays(matrix)
    destination = Path(request.destination)
    with environment("cannot write", destination), destination.open("wb") as stream:
        np.savez(stream, **arrays)  # type: ignore[arg-type] # numpy's stub takes no mapping
    return ImatrixCollected(n_chunks=n_requested)


def _arrays(file: GgufFile) -> dict[str, np.ndarray]:
    """Return the float32 arrays, sums of shape (n, columns) and counts of shape (n,)."""
    arrays = {}
    for tensor in file.tensors:
        if tensor.name.endswith((_COUNTS, _SUMS)):
            values = np.fromfile(
                tensor.file, np.float32, tensor.n_elements, offset=tensor.offset_bytes
            )
            is_sums = tensor.name.endswith(_SUMS)
            arrays[tensor.name] = values.reshape(-1, tensor.shape[0]) if is_sums else values
    return arrays
