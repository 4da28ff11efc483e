"""A model's quality on one device beside another: the same files, tokens and settings.

    python benchmarks/device_quality.py --devices cpu,CUDA0 --out quality.jsonl

Each format's perplexity and its divergence from full precision are measured on both devices, each
against the reference that the same device gives. The difference of perplexity is paired token by
token on the same chunks, with its interval of 95 %. Then both devices decode the same 256 tokens,
the second one in several batch sizes, and their distributions are compared.

Each format is one line of the file, so that several processes may share the formats
(``--formats``); with ``--table`` the script only prints the lines of a file as Markdown.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import uuid
from dataclasses import asdict
from pathlib import Path
from typing import Any

from pytest_quantgate.config.settings import load_settings
from pytest_quantgate.engines.devices import default_threads
from pytest_quantgate.gate.recording import perplexity_shift
from pytest_quantgate.gguf.formats import DEFAULT_FORMATS
from pytest_quantgate.matrix.session import Session
from pytest_quantgate.metrics.devices import measure_devices
from pytest_quantgate.metrics.divergence import measure_divergence
from pytest_quantgate.metrics.scoring import measure_perplexity
from pytest_quantgate.results.measurements.devices import DeviceMeasurement

DEVICES = ("first", "second")

SETTINGS = """
[tool.quantgate]
cache_dir = {cache!r}
profile = "quality"
[tool.quantgate.devices.first]
backend = {first!r}
[tool.quantgate.devices.second]
backend = {second!r}
[tool.quantgate.profiles.quality]
models = [{model!r}]
formats = {formats!r}
devices = ["first", "second"]
texts = [{text!r}]
chunks = {chunks}
looks = [{chunks}]
n_threads = {threads}
routing = false
"""


def measure(run: Session, format_name: str, chunks: int) -> dict[str, Any]:
    """Measure one format on both devices."""
    row: dict[str, Any] = {"format": format_name, "chunks": chunks}
    kept = {}
    cells = {cell.device: cell for cell in run.matrix.cells if cell.format.name == format_name}
    for device in DEVICES:
        cell = run.resolve(cells[device])
        kept[device] = seen = measure_perplexity(run, cell, chunks)
        divergence = None
        if not cell.is_reference:
            reference = measure_perplexity(run, run.reference(cell), chunks)
            divergence = measure_divergence(seen, reference)
        row[device] = {
            "backend": run.settings.devices[device].backend,
            "ppl": seen.perplexity,
            "mean_kld_nats": divergence and divergence.mean_kld_nats,
            "mean_kld_error_nats": divergence and divergence.mean_kld_error_nats,
            "same_top": divergence and divergence.same_top,
            "decoding_s": seen.seconds_s,
        }
    shift = perplexity_shift(kept["second"], kept["first"])
    assert shift is not None
    row["ppl_change"] = asdict(shift)
    compared = measure_devices(run, run.resolve(cells["second"]))
    assert isinstance(compared, DeviceMeasurement), compared.reason
    row["between"] = [asdict(item) for item in compared.differences]
    return row


def print_table(rows: list[dict[str, Any]]) -> None:
    """Print a Markdown row a format, the most precise first as they stand in the file."""
    first, second = (rows[0][name]["backend"] for name in DEVICES)
    batches = [item["n_ubatch"] for item in rows[0]["between"]]
    heads = ["format", f"PPL {first}", f"PPL {second}", "change [95 %]"]
    heads += [f"mean KLD {first}", f"mean KLD {second}"]
    heads += [f"between, n_ubatch {n}" for n in batches]
    print(f"| {' | '.join(heads)} |\n|---|{'--:|' * (len(heads) - 1)}")
    for row in rows:
        change = row["ppl_change"]
        cells = [row["format"], f"{row['first']['ppl']:.4f}", f"{row['second']['ppl']:.4f}"]
        cells.append("{change:+.3%} [{low:+.3%}, {high:+.3%}]".format(**change))
        for name in DEVICES:
            kld = row[name]["mean_kld_nats"]
            cells.append("" if kld is None else f"{kld:.5f}")
        cells += [f"{item['mean_kld_nats']:.1e}" for item in row["between"]]
        print(f"| {' | '.join(cells)} |")
    print(f"\n{rows[0]['chunks']} chunks, {rows[0]['ppl_change']['tokens']:,} scored tokens")


def main() -> None:
    """Read the options, measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, required=True, help="file of one line a format")
    parser.add_argument("--table", action="store_true", help="only print the file")
    parser.add_argument("--devices", default="cpu,CUDA0", help="two backends")
    parser.add_argument("--model", default="smollm2")
    parser.add_argument("--formats", default=",".join(DEFAULT_FORMATS))
    parser.add_argument("--text", default="evaluation", help="a text's name, or a file")
    parser.add_argument("--chunks", type=int, default=16)
    parser.add_argument("--threads", type=int, default=default_threads())
    parser.add_argument("--cache", type=Path, default=Path(tempfile.gettempdir()) / "quality")
    options = parser.parse_args()
    if not options.table:
        first, second = options.devices.split(",")
        text, named = options.text, ""
        if Path(text).is_file():
            named = f"[tool.quantgate.texts.file]\nsource = {str(Path(text).resolve())!r}\n"
            text = "file"
        with tempfile.TemporaryDirectory() as folder:
            settings = SETTINGS.format(
                cache=str(options.cache.resolve()),
                first=first,
                second=second,
                model=options.model,
                formats=options.formats.split(","),
                text=text,
                chunks=options.chunks,
                threads=options.threads,
            )
            (Path(folder) / "pyproject.toml").write_text(named + settings, encoding="utf-8")
            run = Session(load_settings(Path(folder)), uuid.uuid4().hex)
            try:
                for name in options.formats.split(","):
                    row = measure(run, name, options.chunks)
                    with options.out.open("a", encoding="utf-8") as stream:
                        stream.write(json.dumps(row) + "\n")
            finally:
                run.close()
    lines = options.out.read_text(encoding="utf-8").splitlines()
    print_table([json.loads(line) for line in lines])


if __name__ == "__main__":
    main()
