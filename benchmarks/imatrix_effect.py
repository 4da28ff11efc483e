"""What an importance matrix brings to a format: in the domain of the scored text and out of it.

    QUANTGATE_WIKITEXT=PATH python benchmarks/imatrix_effect.py [--models LIST] [--format Q4_K_M] …

Two texts are scored: documents of the second half of WikiText-2's test text (encyclopedic), and
the domains code and mathematics of the text that ships with the package (technical). A format is
made without a matrix and with matrices of three texts, none of which has a document of the scored
one: of the same domains, of the other ones, and the calibration text that ships. The first two are
collected over the same number of chunks.

Prints a Markdown row a matrix: the mean KL divergence from F16 without and with it, and the
difference, paired chunk by chunk, with its interval of 95 % clustered by document, in per cent of
the divergence without (taken as fixed). A run that was ended goes on with what is missing.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from pytest_quantgate import stats
from pytest_quantgate.artifacts.texts import Text, built_in_text, make_text
from pytest_quantgate.config.options import Overrides
from pytest_quantgate.config.settings import load_settings
from pytest_quantgate.matrix.cells import Cell
from pytest_quantgate.matrix.resolved import ResolvedCell
from pytest_quantgate.matrix.session import Session
from pytest_quantgate.metrics.scoring import measure_perplexity
from pytest_quantgate.results.measurements.perplexity import PerplexityMeasurement

TECHNICAL = ("code", "mathematics")


@dataclass(frozen=True, kw_only=True)
class Question:
    """A scored text, and the text of each matrix; None for the whole calibration text.

    ``chunks`` of 512 tokens go into the matrices in and out of the domain.
    """

    scored: str
    matrices: dict[str, str | None]
    chunks: int


@dataclass(frozen=True, kw_only=True)
class Options:
    """What the command line says."""

    models: tuple[str, ...]
    format: str
    chunks: int
    threads: int
    cache: Path | None


QUESTIONS = (
    Question(
        scored="encyclopedic",
        matrices={"same": "encyclopedic-other", "other": "technical", "shipped": None},
        chunks=24,
    ),
    Question(
        scored="technical",
        matrices={"same": "technical-other", "other": "encyclopedic-other", "shipped": None},
        chunks=8,
    ),
)


def halves(text: Text) -> tuple[bytes, bytes]:
    """Cut a text between two documents near its middle."""
    middle = len(text.data) // 2
    cut = min((span.start for span in text.documents), key=lambda start: abs(start - middle))
    return text.data[:cut], text.data[cut:]


def domains(text: Text, names: tuple[str, ...]) -> bytes:
    """Return some domains of a text."""
    return b"".join(text.data[s.start : s.end] for s in text.domains if s.name in names)


def write_project(folder: Path, wikitext: Path, question: Question, options: Options) -> None:
    """Write the texts and a configuration of one question."""
    other, scored = halves(make_text("wikitext", {"wikitext": wikitext.read_bytes()}))
    for name, data in {
        "encyclopedic": scored,
        "encyclopedic-other": other,
        "technical": domains(built_in_text("evaluation"), TECHNICAL),
        "technical-other": domains(built_in_text("calibration"), TECHNICAL),
    }.items():
        (folder / f"{name}.txt").write_bytes(data)
    matrices = [
        f'[tool.quantgate.imatrices.{name}]\ntext = "{text}"\nchunks = {question.chunks}'
        if text is not None
        else f'[tool.quantgate.imatrices.{name}]\ntext = "calibration"'
        for name, text in question.matrices.items()
    ]
    used = {question.scored, *(text for text in question.matrices.values() if text is not None)}
    texts = [f'[tool.quantgate.texts.{name}]\nsource = "{name}.txt"' for name in sorted(used)]
    profile = f"""
    [tool.quantgate.profiles.default]
    models = {list(options.models)}
    formats = ["F16", "{options.format}"]
    imatrices = {["none", *question.matrices]}
    texts = ["{question.scored}"]
    chunks = {options.chunks}
    n_threads = {options.threads}
    """
    (folder / "pyproject.toml").write_text("\n".join([*matrices, *texts, profile]))


def mean_kld_nats(scores: PerplexityMeasurement) -> float:
    """Return the mean divergence from the reference in nats a token."""
    return sum(scores.chunks.kld_sums or ()) / scores.chunks.n_tokens


def whole_text(run: Session, cell: ResolvedCell) -> PerplexityMeasurement:
    """Score the whole budget of chunks."""
    return measure_perplexity(run, cell, run.artifacts.looks(cell)[-1])


def row(cell: Cell, without: PerplexityMeasurement, scores: PerplexityMeasurement) -> str:
    """Compare a matrix with none, chunk by chunk."""
    chunks = scores.chunks
    estimate = chunks.difference(without.chunks.kld_sums or (), chunks.kld_sums or ())
    before = mean_kld_nats(without)
    low, high = (100 * bound / before for bound in stats.interval(estimate))
    after = mean_kld_nats(scores)
    ppl = 100 * (scores.perplexity / without.perplexity - 1)
    return (
        f"| {cell.model} | {cell.text} | {cell.imatrix} | {before:.4f} | {after:.4f}"
        f" | {100 * estimate.mean / before:+.1f} % [{low:+.1f}, {high:+.1f}] | {ppl:+.2f} %"
        f" | {estimate.chunks} in {estimate.clusters} |"
    )


def rows(wikitext: Path, question: Question, options: Options) -> Iterator[str]:
    """Answer one question for all models."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_project(folder, wikitext, question, options)
        cache = None if options.cache is None else str(options.cache.resolve())
        run = Session(load_settings(folder, Overrides(cache_dir=cache)), "imatrix-effect")
        try:
            for model in options.models:
                scored = {
                    cell.imatrix: (cell, whole_text(run, run.resolve(cell)))
                    for cell in run.matrix.cells
                    if cell.model == model and cell.format.name == options.format
                }
                _, without = scored.pop(None)
                for cell, scores in scored.values():
                    yield row(cell, without, scores)
        finally:
            run.close()


def main() -> None:
    """Measure and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--models", default="smollm2,olmoe-mini,lfm2moe-mini")
    parser.add_argument("--format", default="Q4_K_M")
    parser.add_argument("--scored", default="encyclopedic,technical")
    parser.add_argument("--chunks", type=int, default=32, help="scored chunks a text")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--cache", type=Path, help="the cache's folder, instead of the user's")
    arguments = parser.parse_args()
    given = os.environ.get("QUANTGATE_WIKITEXT")
    if given is None or not Path(given).is_file():
        parser.error("set QUANTGATE_WIKITEXT to WikiText-2's wiki.test.raw")
    options = Options(
        models=tuple(arguments.models.split(",")),
        format=arguments.format,
        chunks=arguments.chunks,
        threads=arguments.threads,
        cache=arguments.cache,
    )
    print("| model | scored | matrix | KLD without | KLD with | change [95 %] | ΔPPL | chunks |")
    print("|---|---|---|--:|--:|--:|--:|--:|")
    for question in QUESTIONS:
        if question.scored not in arguments.scored.split(","):
            continue
        for line in rows(Path(given), question, options):
            print(line)
            sys.stdout.flush()


if __name__ == "__main__":
    main()
