"""How often the gate says PASS and REGRESSED when the true change of perplexity is known.

    python benchmarks/gate_power_simulation.py [FILE.npz|FILE.json] [--simulations N] …

FILE holds `sums_a`, `sums_b` (nats per chunk), `tokens` and `documents` (an integer per chunk, -1
or null where none is declared) of two models on one text. Their differences are recentred, so that
the true change is zero, whole documents are drawn with replacement to make a new text, a true
change is added, and the gate's own functions look at 16, 32 and 64 chunks of it. Without a file
the differences are synthetic: skewed, heavy-tailed and correlated within documents.

Prints a Markdown table; shares are cumulative over the looks.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from pytest_quantgate.statistics import (
    BLOCK_CHUNKS,
    Outcome,
    compare_paired,
    decide,
    ppl_limit_nats,
    spending,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy.typing as npt

    FloatArray = npt.NDArray[np.float64]
    IntArray = npt.NDArray[np.int64]


@dataclass(frozen=True, kw_only=True)
class Chunks:
    """Per-chunk differences of one comparison: nats, tokens and the cluster of each chunk."""

    nats: FloatArray
    tokens: IntArray
    clusters: IntArray

    def per_token_nats(self) -> FloatArray:
        """Each chunk's mean difference."""
        return self.nats / self.tokens


def load(path: Path) -> Chunks:
    """Read a JSON or NPZ of per-chunk sums."""
    if path.suffix == ".json":
        raw = json.loads(path.read_text(encoding="utf-8"))
    else:
        with np.load(path, allow_pickle=False) as archive:
            raw = {key: archive[key].tolist() for key in archive.files}
    nats = np.asarray(raw["sums_b"], dtype=np.float64) - np.asarray(raw["sums_a"], dtype=np.float64)
    declared = raw.get("documents")
    documents = [-1] * nats.size if declared is None else declared
    clusters = [
        -1 - chunk // BLOCK_CHUNKS if document is None or document < 0 else int(document)
        for chunk, document in enumerate(documents)
    ]
    return Chunks(
        nats=nats,
        tokens=np.asarray(raw["tokens"], dtype=np.int64),
        clusters=np.asarray(clusters, dtype=np.int64),
    )


def synthetic(
    rng: np.random.Generator, *, chunk_sd_nats: float, skewed: float, documents: int = 62
) -> Chunks:
    """Draw gamma-distributed chunk differences with a fifth of the variance between documents.

    A gamma of shape k has skewness 2/√k; `skewed` is the sign and size of the skewness of both
    parts. Documents have a geometric number of chunks, 5 on average.
    """
    sizes = rng.geometric(0.2, documents)
    clusters = np.repeat(np.arange(documents), sizes)

    def part(size: int, sd_nats: float) -> FloatArray:
        if skewed == 0:
            return np.asarray(rng.standard_t(5, size) * (sd_nats / np.sqrt(5 / 3)), np.float64)
        shape = 4 / skewed**2
        drawn = rng.gamma(shape, size=size) - shape
        return np.asarray(drawn * (np.sign(skewed) * sd_nats / np.sqrt(shape)), np.float64)

    per_token = part(clusters.size, chunk_sd_nats * np.sqrt(0.8))
    per_token += part(documents, chunk_sd_nats * np.sqrt(0.2))[clusters]
    tokens = np.full(clusters.size, 256)
    return Chunks(nats=per_token * tokens, tokens=tokens, clusters=clusters)


class Text:
    """A population of documents to draw texts from, in either order of chunks."""

    def __init__(self, chunks: Chunks, order: str) -> None:
        self.tokens = chunks.tokens
        self.members = [np.flatnonzero(chunks.clusters == c) for c in np.unique(chunks.clusters)]
        self.seeded = order == "seeded"
        per_token = chunks.per_token_nats()
        if self.seeded:  # the first round visits each document once, whatever its length
            centre = float(np.mean([per_token[m].mean() for m in self.members]))
        else:
            centre = float(chunks.nats.sum() / chunks.tokens.sum())
        self.null_nats = (per_token - centre) * chunks.tokens

    def draw(self, rng: np.random.Generator, budget: int) -> tuple[IntArray, list[int | None]]:
        """Draw `budget` chunks of documents drawn with replacement, and their new labels."""
        picked: list[int] = []
        labels: list[int | None] = []
        drawn = [
            rng.permutation(self.members[d]) if self.seeded else self.members[d]
            for d in rng.integers(len(self.members), size=len(self.members))
        ]
        if self.seeded:
            for turn in range(max(map(len, drawn))):
                for label, members in enumerate(drawn):
                    if turn < len(members):
                        picked.append(int(members[turn]))
                        labels.append(label)
                if len(picked) >= budget:
                    break
        else:
            for label, members in enumerate(drawn):
                picked.extend(map(int, members))
                labels.extend([label] * len(members))
        return np.asarray(picked[:budget], dtype=np.int64), labels[:budget]


@dataclass(frozen=True, kw_only=True)
class Settings:
    """The gate's settings in a simulation."""

    looks: Sequence[int]
    limit_nats: float
    alpha_pass: float
    alpha_regressed: float
    simulations: int


def simulate(
    text: Text, effect_nats: float, settings: Settings, rng: np.random.Generator
) -> tuple[FloatArray, FloatArray, float]:
    """Run the gate on simulated texts.

    Returns:
        (looks,) cumulative shares of PASS and of REGRESSED, and the mean number of chunks used.

    """
    alphas_pass = spending(settings.looks, settings.alpha_pass)
    alphas_regressed = spending(settings.looks, settings.alpha_regressed)
    counts = {outcome: np.zeros(len(settings.looks)) for outcome in Outcome}
    used_chunks = 0
    for _ in range(settings.simulations):
        picked, labels = text.draw(rng, settings.looks[-1])
        tokens = text.tokens[picked]
        sums = text.null_nats[picked] + effect_nats * tokens
        for look, chunks in enumerate(settings.looks):
            head = slice(min(chunks, picked.size))
            estimate = compare_paired(
                np.zeros_like(sums[head]), sums[head], tokens[head], labels[head]
            )
            outcome = decide(
                estimate,
                settings.limit_nats,
                alpha_pass=alphas_pass[look],
                alpha_regressed=alphas_regressed[look],
                identical=False,
                last_look=chunks == settings.looks[-1],
            ).outcome
            if outcome is not Outcome.UNDECIDED:
                counts[outcome][look:] += 1
                break
        used_chunks += chunks
    shares = {outcome: count / settings.simulations for outcome, count in counts.items()}
    return shares[Outcome.INSIDE], shares[Outcome.OUTSIDE], used_chunks / settings.simulations


def _percent(shares: FloatArray) -> str:
    return " | ".join(f"{100 * share:.2f}" for share in shares)


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description="Simulate the gate's levels and power.")
    parser.add_argument("file", nargs="?", type=Path, help="per-chunk sums (NPZ or JSON)")
    parser.add_argument("--simulations", type=int, default=2000, help="for each row")
    parser.add_argument("--looks", type=int, nargs="+", default=[16, 32, 64])
    parser.add_argument("--limit", type=float, default=0.0025, help="relative change of PPL")
    parser.add_argument("--changes", type=float, nargs="+", default=[0, 0.0025, 0.005, 0.01])
    parser.add_argument("--alpha-pass", type=float, default=0.05)
    parser.add_argument("--alpha-regressed", type=float, default=0.001)
    parser.add_argument("--order", choices=["seeded", "text"], nargs="+", default=["seeded"])
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--chunk-sd", type=float, default=0.01, help="synthetic, nats per token")
    parser.add_argument("--skewness", type=float, nargs="+", default=[0, 1, -1], help="synthetic")
    arguments = parser.parse_args()
    rng = np.random.default_rng(arguments.seed)
    if arguments.file is not None:
        populations = {arguments.file.stem: load(arguments.file)}
    else:
        populations = {
            f"synthetic, skewness {skewed:+g}": synthetic(
                rng, chunk_sd_nats=arguments.chunk_sd, skewed=skewed
            )
            for skewed in arguments.skewness
        }
    settings = Settings(
        looks=arguments.looks,
        limit_nats=ppl_limit_nats(arguments.limit),
        alpha_pass=arguments.alpha_pass,
        alpha_regressed=arguments.alpha_regressed,
        simulations=arguments.simulations,
    )
    looks = " | ".join(f"by {look}" for look in settings.looks)
    print(
        f"limit {100 * arguments.limit:+g} %, α {settings.alpha_pass} for PASS and "
        f"{settings.alpha_regressed} for REGRESSED, {settings.simulations} simulations a row\n"
    )
    print(f"| differences | order | true change | PASS % {looks} | REGRESSED % {looks} | chunks |")
    print("|---|---|---|" + "---|" * (2 * len(settings.looks) + 1))
    for name, chunks in populations.items():
        for order in arguments.order:
            text = Text(chunks, order)
            for change in arguments.changes:
                passed, regressed, used_chunks = simulate(
                    text, ppl_limit_nats(change), settings, rng
                )
                print(
                    f"| {name} | {order} | {100 * change:+g} % | {_percent(passed)} | "
                    f"{_percent(regressed)} | {used_chunks:.0f} |",
                    flush=True,
                )


if __name__ == "__main__":
    main()
