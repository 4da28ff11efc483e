"""What recording the routes of a mixture of experts costs while a chunk is scored.

``python benchmarks/route_recording.py`` decodes chunks of 512 tokens of both embedded models on one
thread, with the callback that reads the routes, with the callback idle, and without one, taking
turns, and compares the thread's processor time. Prints a Markdown table.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from pytest_quantgate.engines.messages import Message, ModelRequest
from pytest_quantgate.engines.worker.graph import Nodes, watch_names
from pytest_quantgate.engines.worker.llama import LogTap, Model
from pytest_quantgate.engines.worker.routing import RouteReader
from pytest_quantgate.gguf.embedded import EMBEDDED

N_CTX = 512


def processor_s(work: Callable[[], object]) -> float:
    """Return the processor time that this thread spends on some work."""
    began = time.thread_time()
    work()
    return time.thread_time() - began


def measure(path: Path, rounds: int, log: LogTap) -> tuple[list[float], list[float], list[float]]:
    """Return the times of each round: plain, callback idle, recording."""
    reader = RouteReader(Nodes())
    watch = watch_names(Nodes(), [reader])

    def load(callback: object) -> Model:
        request: ModelRequest[Message] = ModelRequest(
            model=str(path), device="cpu", n_threads=1, flash_attention=True, type_k=1, type_v=1
        )
        model = Model(request, log=log)
        sizes = {"n_ctx": N_CTX, "n_batch": N_CTX, "n_ubatch": N_CTX}
        model.open(request, **sizes, graph_callback=callback)
        return model

    plain, watched = load(None), load(watch.callback)
    tokens = np.random.default_rng(0).integers(5, 4000, N_CTX).astype(np.int32)
    first = N_CTX // 2

    def record() -> None:
        watched.decode(tokens, first)
        reader.take(N_CTX, first, N_CTX - 1 - first)

    times: tuple[list[float], list[float], list[float]] = ([], [], [])
    for _ in range(rounds):
        times[0].append(processor_s(lambda: plain.decode(tokens, first)))
        reader.listening = False
        times[1].append(processor_s(lambda: watched.decode(tokens, first)))
        reader.listening = True
        times[2].append(processor_s(record))
    plain.close()
    watched.close()
    return times


def main() -> None:
    """Read the options and measure."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=16)
    options = parser.parse_args()
    with contextlib.redirect_stderr(io.StringIO()):  # llama.cpp's log
        log = LogTap()
        print("| | plain ms | callback idle | recording |\n|---|--:|--:|--:|")
        for name in ("olmoe-mini", "lfm2moe-mini"):
            path = EMBEDDED / f"{name}.gguf"
            plain, idle, recording = (min(times) for times in measure(path, options.rounds, log))
            print(
                f"| `{name}` | {1e3 * plain:.1f} | {100 * (idle / plain - 1):+.1f} % |"
                f" {100 * (recording / plain - 1):+.1f} % |"
            )


if __name__ == "__main__":
    main()
