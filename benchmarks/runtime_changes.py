"""What the gate says of a change of the runtime alone, harmless or not.

    python benchmarks/runtime_changes.py --collect runtime_changes.npz NAME=BEFORE:AFTER …
    python benchmarks/runtime_changes.py runtime_changes.npz [--simulations N]

The first form reads the baselines that two runtimes stored for the same files (two folders of
``pytest --quant-matrix --snapshot-update``; one build is two runtimes, with ``GGML_CPU_TILED_MM=0``
set and unset, with ``flash_attention`` on and off, with two values of ``n_ubatch``) and keeps the
differences of each cell's chunks. Where a cell's figures differ they are a harmless change; the
differences between two formats of the folder AFTER are real damage.

The second form recentres a harmless change, draws whole documents with replacement, adds a true
change and lets `decide_runtime_change` look at 16, 32, 64, … chunks. Damage is scaled to a true
change of perplexity, its divergence with it (a factor f on the mean, √f on the scatter). It prints
Markdown tables; shares are cumulative over the looks.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from gate_power_simulation import Chunks, Text

from pytest_quantgate.config.limit import MIN_KLD_INCREASE_NATS
from pytest_quantgate.config.limits import default_limits
from pytest_quantgate.gguf.formats import find_format
from pytest_quantgate.results.baseline_file import parse
from pytest_quantgate.stats import (
    PPL_ALLOWANCE,
    Look,
    Outcome,
    PairedEstimate,
    compare_paired,
    decide,
    decide_runtime_change,
    kld_limit_nats,
    plan_looks,
    ppl_limit_nats,
)

if TYPE_CHECKING:
    import numpy.typing as npt

    FloatArray = npt.NDArray[np.float64]

DAMAGES = (
    ("Q6_K", "Q5_K_M"),
    ("Q5_K_M", "Q4_K_M"),
    ("Q4_K_M", "Q4_K_S"),
    ("Q4_K_M", "IQ4_XS"),
    ("Q4_K_M", "Q3_K_M"),
    ("Q3_K_M", "Q2_K"),
)
KLD_SHARE = 0.03


@dataclass(frozen=True, kw_only=True)
class Change:
    """One cell's differences, and the divergence and limit of perplexity before."""

    name: str
    text: Text
    kld_nats: float
    ppl_limit_nats: float

    @property
    def kld_limit_nats(self) -> float:
        """The limit of the divergence's change."""
        return kld_limit_nats(self.kld_nats, self.ppl_limit_nats, KLD_SHARE)


def _cells(folder: Path) -> dict[tuple[str, str], Path]:
    """Return a folder's baselines by model and format."""
    paths = sorted(folder.glob("baselines/*/*.json"))
    return {(path.parent.name, path.name.partition("-")[0]): path for path in paths}


def _difference(before: Path, after: Path) -> FloatArray | None:
    """Return (6, chunks) tokens, document, and the differences' two sums with KLD before."""
    one, other = (parse(path.read_text(encoding="utf-8"), str(path)) for path in (before, after))
    chunks, moved = one.scored.chunks, other.scored.chunks
    kld_before, kld_after = chunks.kld_sums, moved.kld_sums
    if kld_before is None or kld_after is None:
        return None
    if chunks.index != moved.index or chunks.tokens != moved.tokens:
        raise SystemExit(f"{before} and {after} are of other chunks")
    nll = np.subtract(moved.nll_sum_nats, chunks.nll_sum_nats)
    kld = np.subtract(kld_after, kld_before)
    documents = [-1 - i if d is None else d for i, d in enumerate(chunks.document)]
    return np.array([chunks.tokens, documents, nll, kld, kld_before])


def collect(out: Path, pairs: list[str]) -> None:
    """Keep the differences of every cell that moved, and those between formats."""
    kept: dict[str, FloatArray] = {}
    for pair in pairs:
        name, _, folders = pair.partition("=")
        before, after = (_cells(Path(folder)) for folder in folders.split(":"))
        for model, fmt in sorted(before.keys() & after.keys()):
            found = _difference(before[model, fmt], after[model, fmt])
            if found is not None and np.any(found[2]):
                kept[f"harmless/{model} {fmt}, {name}"] = found
        for model in sorted({model for model, _ in after}):
            for one, other in DAMAGES:
                if (model, one) in after and (model, other) in after:
                    found = _difference(after[model, one], after[model, other])
                    if found is not None:
                        kept[f"damage/{model} {one} → {other}, {name}"] = found
    np.savez_compressed(out, allow_pickle=False, **kept)
    print(f"{len(kept)} changes in {out}, {out.stat().st_size:,} bytes")


def load(path: Path, kind: str) -> Iterator[Change]:
    """Read the changes of a kind."""
    with np.load(path) as kept:
        for key in kept.files:
            of, _, name = key.partition("/")
            if of != kind:
                continue
            tokens, documents, nll, kld, kld_before = kept[key]
            fmt = find_format(name.split()[1].rstrip(","))
            chunks = Chunks(
                nats=nll, tokens=tokens.astype(np.int64), clusters=documents, kld_nats=kld
            )
            yield Change(
                name=name,
                text=Text(chunks, "seeded"),
                kld_nats=float(kld_before.sum() / tokens.sum()),
                ppl_limit_nats=ppl_limit_nats(default_limits(fmt).ppl_vs_baseline or 0.0),
            )


@dataclass(frozen=True, kw_only=True)
class Shares:
    """(looks,) cumulative shares of green and of red."""

    green: FloatArray
    red: FloatArray

    def __str__(self) -> str:
        return " | ".join(
            ", ".join(f"{100 * share:.1f}" for share in shares) for shares in (self.green, self.red)
        )


class Rule(Enum):
    """How a change is judged."""

    PERPLEXITY_ALONE = "by the limit on perplexity"
    ANY_CHANGE = "by each limit by itself, the divergence's with a lower floor"
    RUNTIME = "as a change of the runtime alone"


def outcome_by(
    rule: Rule, change: Change, nll: PairedEstimate, kld: PairedEstimate, look: Look
) -> Outcome:
    """Decide at a look."""
    if rule is Rule.RUNTIME:
        return decide_runtime_change(
            nll,
            kld,
            ppl_limit_nats=change.ppl_limit_nats,
            kld_limit_nats=change.kld_limit_nats,
            look=look,
        ).outcome
    limits = [(nll, change.ppl_limit_nats)]
    if rule is Rule.ANY_CHANGE:
        limits.append((kld, max(KLD_SHARE * change.kld_nats, MIN_KLD_INCREASE_NATS)))
    outcomes = {
        decide(
            estimate,
            limit,
            alpha_pass=look.alpha_pass,
            alpha_regressed=look.alpha_regressed,
            identical=False,
            last_look=look.is_last,
        ).outcome
        for estimate, limit in limits
    }
    if Outcome.OUTSIDE in outcomes:
        return Outcome.OUTSIDE
    return Outcome.INSIDE if outcomes == {Outcome.INSIDE} else Outcome.UNDECIDED


def simulate(
    change: Change,
    nll: FloatArray,
    kld: FloatArray,
    looks: tuple[Look, ...],
    simulations: int,
    rule: Rule,
) -> Shares:
    """Draw texts, and count what is decided of (chunks,) sums of two metrics' differences."""
    rng = np.random.default_rng(7)
    green, red = np.zeros(len(looks)), np.zeros(len(looks))
    for _ in range(simulations):
        picked, labels = change.text.draw(rng, looks[-1].chunks)
        tokens = change.text.chunks.tokens[picked]
        for number, look in enumerate(looks):
            head = picked[: look.chunks]
            estimates = [
                compare_paired(
                    np.zeros(head.size), sums[head], tokens[: head.size], labels[: head.size]
                )
                for sums in (nll, kld)
            ]
            outcome = outcome_by(rule, change, estimates[0], estimates[1], look)
            if outcome is not Outcome.UNDECIDED:
                (green if outcome is Outcome.INSIDE else red)[number:] += 1
                break
    return Shares(green=green / simulations, red=red / simulations)


def skewnesses(change: Change) -> tuple[float, float]:
    """Return the skewness of the chunks' differences a token, of perplexity and divergence."""
    chunks = change.text.chunks
    assert chunks.kld_nats is not None
    columns = [sums / chunks.tokens for sums in (chunks.nats, chunks.kld_nats)]
    nll, kld = (float(np.mean((x - x.mean()) ** 3) / x.std() ** 3) for x in columns)
    return nll, kld


def recentred(change: Change, nll_nats: float, kld_nats: float) -> tuple[FloatArray, FloatArray]:
    """Return the sums of both metrics with these true means."""
    chunks = change.text.chunks
    assert chunks.kld_nats is not None
    kld = chunks.kld_nats - change.text.centre(chunks.kld_nats) * chunks.tokens
    return change.text.scatter_nats + nll_nats * chunks.tokens, kld + kld_nats * chunks.tokens


def scaled(change: Change, relative: float) -> tuple[FloatArray, FloatArray] | None:
    """Return the sums of damage scaled to a relative change of perplexity; None for a gain."""
    if change.text.centre_nats <= 0:
        return None
    (nll, _), (kld, _) = change.text.scaled(ppl_limit_nats(relative))
    return nll, kld


def main() -> None:
    """Collect, or print the tables."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("file", type=Path)
    parser.add_argument("pairs", nargs="*", help="with --collect: NAME=BEFORE:AFTER")
    parser.add_argument("--collect", action="store_true")
    parser.add_argument("--simulations", type=int, default=2000, help="for each row")
    parser.add_argument("--available", type=int, default=64)
    parser.add_argument("--text-chunks", type=int, default=1000, help="where the text would end")
    parser.add_argument("--only", default="", help="rows whose name has this")
    parser.add_argument("--tables", default="harmless,levels,damage")
    arguments = parser.parse_args()
    if arguments.collect:
        collect(arguments.file, arguments.pairs)
        return
    count = arguments.simulations
    looks = plan_looks((), arguments.available, arguments.text_chunks)
    print(f"looks {', '.join(str(look.chunks) for look in looks)}; {count} simulations a row")
    harmless = [c for c in load(arguments.file, "harmless") if arguments.only in c.name]
    if "harmless" in arguments.tables:
        print("\n| harmless change | as any change: green | red | as the runtime's: green | red |")
        print("|---|---|---|---|---|")
        for change in harmless:
            nll, kld = recentred(change, 0, 0)
            rows = [
                simulate(change, nll, kld, looks, count, rule)
                for rule in (Rule.ANY_CHANGE, Rule.RUNTIME)
            ]
            print(f"| {change.name} | {rows[0]} | {rows[1]} |", flush=True)
    if "levels" in arguments.tables:
        # At a limit, at most 5 % may be green and 0.1 % red.
        print(
            "\n| harmless change | skewness: PPL, KLD | PPL at its limit, alone: green | red |"
            " KLD at its limit: green | red | PPL at 4 limits: green |"
        )
        print("|---|---|--:|--:|--:|--:|--:|")
        for change in harmless:
            skewed = ", ".join(f"{value:+.1f}" for value in skewnesses(change))
            cells = []
            for nll_nats, kld_nats, rule in (
                (change.ppl_limit_nats, 0.0, Rule.PERPLEXITY_ALONE),
                (0.0, change.kld_limit_nats, Rule.RUNTIME),
                (PPL_ALLOWANCE * change.ppl_limit_nats, 0.0, Rule.RUNTIME),
            ):
                nll, kld = recentred(change, nll_nats, kld_nats)
                at = simulate(change, nll, kld, looks, count, rule)
                cells += [f"{100 * at.green[-1]:.2f}", f"{100 * at.red[-1]:.3f}"]
            print(f"| {change.name} | {skewed} | {' | '.join(cells[:-1])} |", flush=True)
    if "damage" in arguments.tables:
        print("\n| damage | true change of PPL | green | red |\n|---|---|---|---|")
        for change in load(arguments.file, "damage"):
            for relative in (0.0025, 0.005, 0.01):
                damage = scaled(change, relative)
                if damage is not None and arguments.only in change.name:
                    found = simulate(change, *damage, looks, count, Rule.RUNTIME)
                    print(f"| {change.name} | {100 * relative:+g} % | {found} |", flush=True)


if __name__ == "__main__":
    main()
