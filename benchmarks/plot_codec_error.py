"""Draw the error of each format against the magnitude of the weight, with its proved bound.

``python benchmarks/plot_codec_error.py [FOLDER]`` writes ``codec-error.svg`` (docs/images). Needs
matplotlib. The sample is the golden one: standard normal weights (``codecs/golden.py``).
"""

from __future__ import annotations

import sys
from pathlib import Path

import matplotlib as mpl
import numpy as np

from pytest_quantgate.codecs.bounds import BOUNDS
from pytest_quantgate.codecs.golden import normal_sample
from pytest_quantgate.engines.worker.native import NativeCodecs

mpl.use("svg")

from matplotlib import pyplot as plt

BINS = np.linspace(0, 3.5, 36)


def main(folder: Path) -> None:
    """Write the figure into ``folder``."""
    sample = normal_sample()
    magnitude = np.abs(sample).ravel()
    place = np.digitize(magnitude, BINS) - 1
    inside = (place >= 0) & (place < BINS.size - 1)
    middle = (BINS[:-1] + BINS[1:]) / 2
    codecs = NativeCodecs()
    mpl.rcParams["svg.hashsalt"] = "codec-error"
    figure, axes = plt.subplots(3, 6, figsize=(14, 7), sharex=True, layout="constrained")
    for axis, name in zip(axes.ravel(), BOUNDS, strict=True):
        decoded = codecs.dequantize(name, codecs.quantize(name, sample))
        error = np.abs(sample.astype(np.float64) - decoded).ravel()
        bound = np.concatenate([BOUNDS[name](row[None, :]).ravel() for row in sample])

        def per_bin(values: np.ndarray[tuple[int], np.dtype[np.float64]], q: float) -> list[float]:
            return [
                float(np.quantile(values[inside & (place == index)], q, method="lower"))
                for index in range(BINS.size - 1)
            ]

        axis.fill_between(middle, per_bin(error, 0.0), per_bin(error, 1.0), alpha=0.25, lw=0)
        axis.plot(middle, per_bin(error, 0.5), label="median error")
        axis.plot(middle, per_bin(bound, 0.5), "--", color="tab:red", label="median bound")
        rms = float(np.sqrt((error**2).mean()))
        axis.set_title(f"{name}, RMS {rms:.4f}", fontsize=9)
        axis.set_ylim(bottom=0)
        axis.tick_params(labelsize=7)
    for axis in axes.ravel()[len(BOUNDS) :]:
        axis.axis("off")
    axes[0, 0].legend(fontsize=7)
    figure.supxlabel("magnitude of the weight, in standard deviations")
    figure.supylabel("absolute error (shaded: its whole range)")
    folder.mkdir(parents=True, exist_ok=True)
    figure.savefig(folder / "codec-error.svg", metadata={"Date": None})
    print(f"wrote {folder / 'codec-error.svg'}")


if __name__ == "__main__":
    main(Path(sys.argv[1] if len(sys.argv) > 1 else "docs/images"))
