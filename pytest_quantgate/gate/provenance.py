"""What made a run's figures: its settings and its engines, for the record."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from pytest_quantgate import stats
from pytest_quantgate.artifacts.support import find_support
from pytest_quantgate.errors import CellError
from pytest_quantgate.matrix.run import Run


def settings_used(run: Run) -> dict[str, Any]:
    """Return the settings that shape the figures, for the record."""
    profile = run.settings.profile
    return {
        "n_ctx": profile.n_ctx,
        "n_batch": run.n_batch,
        "n_ubatch": run.n_ubatch,
        "n_threads": run.n_threads,
        "flash_attention": profile.flash_attention,
        "type_k": profile.type_k,
        "type_v": profile.type_v,
        "chunks": profile.chunks,
        "looks": list(profile.looks or (stats.FIRST_LOOK,)),
        "chunk_order": profile.chunk_order,
        "seed": profile.seed,
        "texts": {name: run.text(name).sha256 for name in profile.texts},
        **{
            name: value
            for name, value in profile.model_dump().items()
            if profile.speed and name.startswith("speed_")
        },
    }


def engine_facts(run: Run, name: str) -> dict[str, Any]:
    """Return an engine's identity, for the record; with its formats where two are compared."""
    try:
        facts = asdict(run.engine(name).identity())
        if run.settings.profile.against is not None:
            facts["formats"] = asdict(find_support(run.cache, run.engine(name)))
    except CellError as error:
        return {"error": str(error).splitlines()[0]}
    return facts
