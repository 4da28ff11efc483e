"""How often the gate says PASS and REGRESSED when the true change of perplexity is known.

    python benchmarks/gate_power_simulation.py [BEFORE.json AFTER.json] [--simulations N] …

The files are baselines (docs/how-to/baselines.md) of two formats of one model on one text. The
differences of their chunks are recentred, so that the true change is zero, whole documents are
drawn with replacement to make a new text, a true change is added, and the gate's own functions look
at 16, 32 and 64 chunks of it, and further where there are more (``--available``,
``--text-chunks``). Without files the differences are synthetic: skewed, heavy-tailed and correlated
within documents.

With ``--joint`` the real damage is scaled instead: a change by f of the mean comes with √f of the
scatter, and the change of the KL divergence scales likewise, because a small perturbation of the
weights moves single tokens in its first order and means in its second. Both metrics are then
judged, as the gate judges them: REGRESSED where one is.

Prints a Markdown table; shares are cumulative over the looks.
"""

from __future__ import annotations

import argparse
import math
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from pytest_quantgate.config.limit import MIN_KLD_INCREASE_NATS
from pytest_quantgate.config.limits import default_limits
from pytest_quantgate.gguf.formats import find_format
from pytest_quantgate.results.baseline_file import parse
from pytest_quantgate.stats import (
    Look,
    Outcome,
    cluster_labels,
    compare_paired,
    decide,
    plan_looks,
    ppl_limit_nats,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy.typing as npt

    FloatArray = npt.NDArray[np.float64]
    IntArray = npt.NDArray[np.int64]


@dataclass(frozen=True, kw_only=True)
class Chunks:
    """Per-chunk differences of one comparison: nats, tokens and the cluster of each chunk.

    ``kld_nats`` are those of the divergence from the reference, with the limit of their mean; None
    where there is none.
    """

    nats: FloatArray
    tokens: IntArray
    clusters: IntArray
    kld_nats: FloatArray | None = None
    kld_limit_nats: float = 0.0

    def per_token_nats(self) -> FloatArray:
        """Each chunk's mean difference."""
        return self.nats / self.tokens


def load(before: Path, after: Path) -> Chunks:
    """Read the baselines of two formats; their common chunks are compared."""
    one, other = (parse(path.read_text(encoding="utf-8"), str(path)) for path in (before, after))
    pair = other.scored.chunks.paired(one.scored.chunks)

    def moved(before: Sequence[float], after: Sequence[float]) -> FloatArray:
        return np.subtract(after, before, dtype=np.float64)

    kld, limit = None, 0.0
    before_kld, after_kld = pair.before.kld_sums, pair.after.kld_sums
    if one.divergence is not None and before_kld is not None and after_kld is not None:
        kld = moved(before_kld, after_kld)
        allowed = default_limits(find_format("F16")).kld_vs_baseline or 0.0
        limit = max(allowed * one.divergence.mean_kld_nats, MIN_KLD_INCREASE_NATS)
    return Chunks(
        nats=moved(pair.before.nll_sum_nats, pair.after.nll_sum_nats),
        tokens=np.array(pair.after.tokens, dtype=np.int64),
        clusters=cluster_labels(pair.after.document, pair.after.index),
        kld_nats=kld,
        kld_limit_nats=limit,
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
        self.chunks = chunks
        self.members = [np.flatnonzero(chunks.clusters == c) for c in np.unique(chunks.clusters)]
        self.seeded = order == "seeded"
        self.centre_nats = self.centre(chunks.nats)
        self.scatter_nats = chunks.nats - self.centre_nats * chunks.tokens

    def centre(self, sums: FloatArray) -> float:
        """Return the population's mean a token, as the order weighs documents."""
        if self.seeded:  # the first round visits each document once, whatever its length
            per_token = sums / self.chunks.tokens
            return float(np.mean([per_token[m].mean() for m in self.members]))
        return float(sums.sum() / self.chunks.tokens.sum())

    def shifted(self, effect_nats: float) -> list[tuple[FloatArray, float]]:
        """Return the sums with this true mean, and no limit of their own."""
        return [(self.scatter_nats + effect_nats * self.chunks.tokens, math.nan)]

    def scaled(self, effect_nats: float) -> list[tuple[FloatArray, float]]:
        """Return the sums of the damage scaled to this true mean, and those of its divergence."""
        assert self.chunks.kld_nats is not None
        factor = effect_nats / self.centre_nats
        kld_centre = self.centre(self.chunks.kld_nats)
        kld_scatter = self.chunks.kld_nats - kld_centre * self.chunks.tokens
        root = math.sqrt(factor)
        return [
            (root * self.scatter_nats + effect_nats * self.chunks.tokens, math.nan),
            (
                root * kld_scatter + factor * kld_centre * self.chunks.tokens,
                self.chunks.kld_limit_nats,
            ),
        ]

    def draw(self, rng: np.random.Generator, budget: int) -> tuple[IntArray, list[int | None]]:
        """Draw documents with replacement, and return `budget` chunks of them with new labels."""
        picked: list[int] = []
        labels: list[int | None] = []
        drawn = [
            rng.permutation(self.members[d]) if self.seeded else self.members[d]
            for d in rng.integers(len(self.members), size=max(len(self.members), budget))
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

    looks: Sequence[Look]
    limit_nats: float
    simulations: int


def simulate(
    text: Text,
    columns: list[tuple[FloatArray, float]],
    settings: Settings,
    rng: np.random.Generator,
) -> tuple[FloatArray, FloatArray, float]:
    """Run the gate on simulated texts.

    Args:
        text: what is drawn from.
        columns: per-chunk sums and their limit, NaN for perplexity's; PASS needs all of them.
        settings: the gate's.
        rng: draws the texts.

    Returns:
        (looks,) cumulative shares of PASS and of REGRESSED, and the mean number of chunks used.

    """
    counts = {outcome: np.zeros(len(settings.looks)) for outcome in Outcome}
    used_chunks = 0
    for _ in range(settings.simulations):
        picked, labels = text.draw(rng, settings.looks[-1].chunks)
        tokens = text.chunks.tokens[picked]
        for number, look in enumerate(settings.looks):
            head = slice(min(look.chunks, picked.size))
            outcomes = set()
            for sums, limit in columns:
                drawn = sums[picked][head]
                outcomes.add(
                    decide(
                        compare_paired(np.zeros_like(drawn), drawn, tokens[head], labels[head]),
                        settings.limit_nats if math.isnan(limit) else limit,
                        alpha_pass=look.alpha_pass,
                        alpha_regressed=look.alpha_regressed,
                        identical=False,
                        last_look=look.is_last,
                    ).outcome
                )
            outcome = outcomes.pop() if len(outcomes) == 1 else Outcome.UNDECIDED
            if Outcome.OUTSIDE in outcomes:
                outcome = Outcome.OUTSIDE
            if outcome is not Outcome.UNDECIDED:
                counts[outcome][number:] += 1
                break
        used_chunks += look.chunks
    shares = {outcome: count / settings.simulations for outcome, count in counts.items()}
    return shares[Outcome.INSIDE], shares[Outcome.OUTSIDE], used_chunks / settings.simulations


def _percent(shares: FloatArray) -> str:
    return " | ".join(f"{100 * share:.2f}" for share in shares)


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description="Simulate the gate's levels and power.")
    parser.add_argument("files", nargs="*", type=Path, help="the baselines before and after")
    parser.add_argument("--joint", action="store_true", help="scale the damage, judge both metrics")
    parser.add_argument("--simulations", type=int, default=2000, help="for each row")
    parser.add_argument("--looks", type=int, nargs="+", default=[16], help="the declared ones")
    parser.add_argument("--available", type=int, default=64, help="chunks that both sides have")
    parser.add_argument("--text-chunks", type=int, default=64, help="where the text ends")
    parser.add_argument("--limit", type=float, default=0.0025, help="relative change of PPL")
    parser.add_argument("--changes", type=float, nargs="+", default=[0, 0.0025, 0.005, 0.01])
    parser.add_argument("--order", choices=["seeded", "text"], nargs="+", default=["seeded"])
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--chunk-sd", type=float, nargs="+", default=[0.01], help="synthetic, nats")
    parser.add_argument("--skewness", type=float, nargs="+", default=[0, 1, -1], help="synthetic")
    arguments = parser.parse_args()
    if len(arguments.files) not in {0, 2} or (arguments.joint and not arguments.files):
        parser.error("give the baselines of two formats, or none (and no --joint) for synthetic")
    rng = np.random.default_rng(arguments.seed)
    if arguments.files:
        before, after = arguments.files
        named = f"{before.name.partition('-cpu')[0]} → {after.name.partition('-cpu')[0]}"
        populations = [(named, load(before, after))]
    else:
        populations = [
            (f"synthetic, skewness {skewed:+g}", synthetic(rng, chunk_sd_nats=sd, skewed=skewed))
            for sd in arguments.chunk_sd
            for skewed in arguments.skewness
        ]
    settings = Settings(
        looks=plan_looks(arguments.looks, arguments.available, arguments.text_chunks),
        limit_nats=ppl_limit_nats(arguments.limit),
        simulations=arguments.simulations,
    )
    looks = " | ".join(f"by {look.chunks}" for look in settings.looks)
    print(f"limit {100 * arguments.limit:+g} %, {settings.simulations} simulations a row\n")
    print(
        f"| differences | SD of a chunk | order | true change | PASS % {looks} |"
        f" REGRESSED % {looks} | chunks |"
    )
    print("|---|---|---|---|" + "---|" * (2 * len(settings.looks) + 1))
    for name, chunks in populations:
        spread = float(np.std(chunks.per_token_nats(), ddof=1))
        for order in arguments.order:
            text = Text(chunks, order)
            make = text.scaled if arguments.joint else text.shifted
            for change in arguments.changes:
                columns = make(ppl_limit_nats(change))
                passed, regressed, used_chunks = simulate(text, columns, settings, rng)
                print(
                    f"| {name} | {spread:.4f} | {order} | {100 * change:+g} % |"
                    f" {_percent(passed)} | {_percent(regressed)} | {used_chunks:.0f} |",
                    flush=True,
                )


if __name__ == "__main__":
    main()
