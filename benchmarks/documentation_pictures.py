"""Draw the pictures of README and the documentation from the record of a run.

    pytest --quant-matrix --quant-report run.json
    python benchmarks/documentation_pictures.py run.json [FOLDER]

writes into the folder (docs/images) ``report-light.png`` and ``report-dark.png``, the top of the
HTML report as Chromium shows it, and ``terminal.svg``, what the terminal shows in 80 columns.
Needs ``chromium`` in PATH. A picture loads nothing: rich's fonts from the network are left out.
"""

from __future__ import annotations

import io
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from rich import _export_format as export
from rich.console import Console
from rich.terminal_theme import SVG_EXPORT_THEME
from rich.text import Text

from pytest_quantgate.reports.text import WIDTH, text
from pytest_quantgate.reports.write import terminal_blocks, write_report
from pytest_quantgate.results.record import RunRecord
from pytest_quantgate.results.record_file import read_record

SIZE = (1100, 1450)
"""The width and height of the top of the report, in CSS pixels."""

SCALE = 0.75
"""Pixels of the picture to one of CSS, which keeps the file small."""

MAX_BYTES = 200_000
"""What a picture of a page may weigh."""

FONT_FACES = re.compile(r"@font-face \{\{.*?\}\}\s*", re.DOTALL)


def draw_page(record: RunRecord, theme: str, target: Path) -> None:
    """Write a screenshot of the HTML report."""
    with tempfile.TemporaryDirectory() as folder:
        page = Path(folder) / "report.html"
        write_report(page, record)
        html = page.read_text(encoding="utf-8")
        page.write_text(html.replace("<html", f'<html data-theme="{theme}"', 1), encoding="utf-8")
        subprocess.run(
            [
                shutil.which("chromium") or "chromium",
                "--headless",
                "--no-sandbox",
                "--hide-scrollbars",
                f"--force-device-scale-factor={SCALE}",
                f"--window-size={SIZE[0]},{SIZE[1]}",
                "--virtual-time-budget=3000",
                f"--screenshot={target}",
                page.as_uri(),
            ],
            check=True,
            capture_output=True,
            timeout=120,
        )
    size = target.stat().st_size
    if size > MAX_BYTES:
        raise SystemExit(f"{target} has {size:,} bytes, more than {MAX_BYTES:,}")


def draw_terminal(record: RunRecord, target: Path) -> None:
    """Write what the terminal shows at the end of the run."""
    console = Console(record=True, width=WIDTH, file=io.StringIO(), force_terminal=True)
    lines = text(terminal_blocks(record, with_sections=False), WIDTH, colour=True)
    console.print("[bold]$[/] pytest --quant-matrix\n…", highlight=False)
    console.print(Text.from_ansi(lines))
    svg = console.export_svg(
        title="pytest --quant-matrix",
        theme=SVG_EXPORT_THEME,
        code_format=FONT_FACES.sub("", export.CONSOLE_SVG_FORMAT),
        unique_id="quantgate",
    )
    target.write_text(svg, encoding="utf-8")


def main(path: Path, folder: Path) -> None:
    """Write the pictures of a record."""
    record = read_record(path)
    folder.mkdir(parents=True, exist_ok=True)
    for theme in ("light", "dark"):
        draw_page(record, theme, (folder / f"report-{theme}.png").resolve())
    draw_terminal(record, folder / "terminal.svg")


if __name__ == "__main__":
    if len(sys.argv) < 2:
        raise SystemExit(__doc__)
    main(Path(sys.argv[1]), Path(sys.argv[2] if len(sys.argv) > 2 else "docs/images"))
