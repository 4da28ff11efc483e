"""What a test's markers ask of its cell.

Loaded in every pytest run, so what checks the values is imported when a marker is used.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from pytest_quantgate.config.metric import Metric
from pytest_quantgate.config.metrics import MARKERS

if TYPE_CHECKING:
    import pytest

    from pytest_quantgate.gate.question import Question

QUANT_FIXTURES = frozenset(
    {
        "quant_model",
        "quant_format",
        "quant_device",
        "quant_imatrix",
        "quant_engine",
        "quant_text",
        "quant_cell",
        "quant_baseline",
    }
)

CODEC_FIXTURES = frozenset({"quant_codec", "quant_codecs", "quant_kernels"})


def quant_marks(item: pytest.Item) -> list[pytest.Mark]:
    """Return a test's markers that are ours, or look like it."""
    return [mark for mark in item.iter_markers() if mark.name.startswith("quant_")]


def _phase(metric: Metric, mark: pytest.Mark) -> str | None:
    """Return which phase a marker's limits are of, None where there is but one figure."""
    from pytest_quantgate.errors import ConfigError

    if not metric.phases or not mark.kwargs:
        return None
    choices = " or ".join(f"phase={phase!r}" for phase in metric.phases)
    if "phase" not in mark.kwargs:
        raise ConfigError(f"@{mark.name} needs {choices} to say what its limits are of")
    phase = mark.kwargs["phase"]
    if phase not in metric.phases:
        raise ConfigError(f"@{mark.name}(phase={phase!r}) is unknown; use {choices}")
    if len(mark.kwargs) == 1:
        raise ConfigError(
            f"@{mark.name}(phase={phase!r}) sets no limit; add one of"
            f" {', '.join(metric.keywords)}, or leave all out for the profile's limits"
        )
    return str(phase)


def read_marker(mark: pytest.Mark) -> Question:
    """Return what a marker asks of a cell.

    Raises:
        ConfigError: a positional argument, an unknown keyword, a value that is no limit.

    """
    from pydantic import ValidationError

    from pytest_quantgate.config.schema import Limits
    from pytest_quantgate.errors import ConfigError
    from pytest_quantgate.gate.question import Question

    metric = MARKERS[mark.name]
    valid = ", ".join(metric.all_keywords)
    if mark.args:
        raise ConfigError(
            f"@{mark.name} takes no positional argument {mark.args[0]!r}; use {valid}"
        )
    for keyword in mark.kwargs:
        if keyword not in metric.all_keywords:
            raise ConfigError(f"@{mark.name} has the unknown keyword {keyword!r}; valid: {valid}")
    phase = _phase(metric, mark)
    values = {}
    for keyword in (keyword for keyword in mark.kwargs if keyword != "phase"):
        value = mark.kwargs[keyword]
        if value is None:
            raise ConfigError(f"@{mark.name}({keyword}=None) sets no limit; leave it out")
        limit = metric.limit_of(keyword, phase)
        try:
            Limits.model_validate({limit: value})
        except ValidationError as error:
            message = error.errors()[0]["msg"].removeprefix("Value error, ")
            raise ConfigError(f"@{mark.name}({keyword}={value!r}): {message}") from error
        values[limit] = value
    return Question(metric=metric.name, limits=Limits.model_validate(values) if values else None)
