"""Write what `transformers` computes from trained weights for given chunks of token ids.

``python expected.py olmoe WEIGHTS_FOLDER CHUNKS.npy LOGITS.npy``: ids (n, time) integers in, logits
(n, time, vocabulary) float32 out. A program of its own, since PyTorch and llama.cpp in one process
wait for each other's threads for ever.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch
from models import MODELS


def main() -> None:
    """Compute and write."""
    architecture, weights, chunks, out = sys.argv[1:]
    model = MODELS[architecture]()
    state: dict[str, Any] = {}
    for part in range(2):
        with np.load(Path(weights) / f"{architecture}.{part}.npz") as stored:
            state |= {name: torch.from_numpy(value).float() for name, value in stored.items()}
    missing = set(model.load_state_dict(state, strict=False).missing_keys)
    if missing - {"lm_head.weight"}:
        message = f"the trained weights lack {sorted(missing)}"
        raise ValueError(message)
    model.tie_weights()
    model.eval()
    with torch.no_grad():
        logits = [
            model(torch.from_numpy(chunk.astype(np.int64))[None]).logits[0].numpy()
            for chunk in np.load(chunks)
        ]
    np.save(out, np.stack(logits))


if __name__ == "__main__":
    main()
