"""Damaged headers of real models and matrices: benchmarks/gguf_mutations.py, a short run."""

from __future__ import annotations

from pathlib import Path

import gguf_mutations


def test_any_damage_is_refused_in_one_line(tmp_path: Path) -> None:
    """Some files are still read: the fault is in what nobody reads, or it is another number."""
    outcomes = gguf_mutations.run(300, 7, tmp_path)
    assert set(outcomes) == {"olmoe-mini", "lfm2moe-mini", "importance matrix", "quantized"}
    for name, counts in outcomes.items():
        assert counts["ModelFileError"] > 10, name
        assert counts["read"] > 0, name
    assert outcomes["importance matrix"]["CellInvalid"] > 0
