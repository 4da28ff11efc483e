"""What looks save: a profile with its looks, and with its full budget for every cell.

    python benchmarks/looks.py [--profile NAME] [--looks LIST] [--formats LIST] [--accept]

Measures and judges every cell of a built-in profile twice, once with each, against the baselines
that ship with the package; ``--accept`` measures baselines of this machine first and takes those.
It prints a Markdown table of decoded tokens, wall time and verdicts. The reference of each model
is measured beforehand and not counted: it is needed in both cases and kept over runs.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections import Counter
from dataclasses import dataclass, replace
from pathlib import Path

from pytest_quantgate import stats
from pytest_quantgate.config.options import Overrides
from pytest_quantgate.config.settings import Settings, load_settings
from pytest_quantgate.gate.loop import answer
from pytest_quantgate.gate.question import Question
from pytest_quantgate.matrix.session import Session
from pytest_quantgate.metrics.scoring import measure_perplexity
from pytest_quantgate.results.baseline_file import dump

QUESTIONS = [Question(metric=name, limits=None) for name in ("perplexity", "divergence", "size")]


@dataclass(frozen=True, kw_only=True)
class Pass:
    """One pass over a profile; ``verdicts`` by cell."""

    verdicts: dict[str, str]
    tokens: int
    chunks: Counter[int]
    wall_s: float


def prepare(settings: Settings, *, accept: bool) -> None:
    """Make the files and measure the references; store baselines if that is asked for."""
    run = Session(settings, "prepare")
    try:
        for cell in run.matrix.cells:
            run.artifacts.file(run.resolve(cell))
            measure_perplexity(
                run,
                run.resolve(run.matrix.reference(cell)),
                run.artifacts.looks(run.resolve(cell))[-1],
            )
            if not accept:
                continue
            candidate = answer(run, cell, [], full=True).candidate
            assert candidate is not None
            path = run.store.path(candidate.key)
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(dump(candidate), encoding="utf-8")
    finally:
        run.close()


def one_pass(settings: Settings, name: str) -> Pass:
    """Measure and judge every cell in fresh worker processes."""
    run = Session(settings, name)
    verdicts: dict[str, str] = {}
    used: Counter[int] = Counter()
    started = time.perf_counter()
    try:
        for cell in run.matrix.cells:
            record = answer(run, cell, QUESTIONS).record
            verdicts[cell.id] = record.verdict
            if not record.is_reference:
                used[len(record.chunks)] += 1
    finally:
        run.close()
    return Pass(
        verdicts=verdicts,
        tokens=settings.profile.n_ctx[0] * sum(chunks * count for chunks, count in used.items()),
        chunks=used,
        wall_s=time.perf_counter() - started,
    )


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--profile", default="default")
    parser.add_argument("--looks", help="other looks than the profile's")
    parser.add_argument("--formats", help="other formats than the profile's")
    parser.add_argument("--accept", action="store_true", help="measure this machine's baselines")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        formats = None if arguments.formats is None else tuple(arguments.formats.split(","))
        overrides = Overrides(profile=arguments.profile, formats=formats, cache_dir="cache")
        settings = load_settings(folder, overrides)
        if arguments.looks is not None:
            looks = tuple(map(int, arguments.looks.split(",")))
            profile = settings.profile.model_copy(update={"looks": looks})
            settings = replace(settings, profile=profile)
        if arguments.accept:  # the anchor too is then this machine's, not the shipped one
            settings = replace(settings, uses_built_in_profile=False)
        whole = settings.profile.model_copy(update={"looks": (settings.profile.chunks,)})
        prepare(settings, accept=arguments.accept)
        with_looks = one_pass(settings, "looks")
        full = one_pass(replace(settings, profile=whole), "full")
    print(f"profile {arguments.profile}: {len(full.verdicts)} cells\n")
    print("| | tokens decoded | wall s | chunks used: cells | verdicts |")
    print("|---|--:|--:|---|---|")
    declared = ", ".join(map(str, settings.profile.looks or (stats.FIRST_LOOK,)))
    for label, done in ((f"looks {declared}", with_looks), ("full budget", full)):
        used = ", ".join(f"{chunks}: {count}" for chunks, count in sorted(done.chunks.items()))
        verdicts = ", ".join(f"{n} {kind}" for kind, n in Counter(done.verdicts.values()).items())
        print(f"| {label} | {done.tokens:,} | {done.wall_s:.0f} | {used} | {verdicts} |")
    other = [cell for cell, kind in full.verdicts.items() if with_looks.verdicts[cell] != kind]
    print(f"\nCells with another verdict: {', '.join(other) or 'none'}")


if __name__ == "__main__":
    main()
