"""Print the tokens that a model writes after some prompts, always the likeliest one, as JSON.

    LLAMA_CPP_LIB_PATH=libraries python benchmarks/greedy_text.py SOURCE.gguf FILE_TYPE

The file is quantized first, with the same libraries, so that a fault of the quantizer shows too.
"""

from __future__ import annotations

import json
import sys
import tempfile
from pathlib import Path

import llama_cpp

PROMPTS = (
    "The river rises in the mountains and",
    "def mean(values):\n    return",
    "In 1871 the government decided that",
)
N_TOKENS = 48


def quantize(source: Path, destination: Path, file_type: int) -> None:
    """Quantize a file."""
    parameters = llama_cpp.llama_model_quantize_default_params()
    parameters.ftype, parameters.nthread = file_type, 1
    status = llama_cpp.llama_model_quantize(
        str(source).encode(), str(destination).encode(), parameters
    )
    if status != 0:
        sys.exit(f"quantizing failed with status {status}")


def texts(path: Path) -> list[list[int]]:
    """Return the tokens that follow each prompt."""
    model = llama_cpp.Llama(str(path), n_ctx=256, n_threads=1, flash_attn=True, verbose=False)
    written = []
    for prompt in PROMPTS:
        tokens = model.generate(model.tokenize(prompt.encode()), temp=0.0)
        written.append([next(tokens) for _ in range(N_TOKENS)])
    return written


def main() -> int:
    """Quantize and write."""
    source, file_type = Path(sys.argv[1]), int(sys.argv[2])
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.gguf"
        quantize(source, path, file_type)
        print(json.dumps(texts(path)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
