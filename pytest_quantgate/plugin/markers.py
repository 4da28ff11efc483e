"""The markers: which there are, their keywords, and the limit that each keyword sets.

Loaded in every pytest run, so what checks the values is imported when a marker is used.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING

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


@dataclass(frozen=True, kw_only=True)
class Marker:
    """One marker; ``keywords`` maps each keyword to the name of a limit.

    Where a metric has several ``parts``, such as the two phases of a speed, the keyword
    ``part_keyword`` says of which one the limits are, and their names begin with it.
    """

    name: str
    metric: str
    keywords: Mapping[str, str]
    help: str
    part_keyword: str | None = None
    parts: tuple[str, ...] = ()

    @property
    def limits(self) -> frozenset[str]:
        """The names of all limits that the keywords may set."""
        return frozenset(
            limit.format(part=part)
            for limit in self.keywords.values()
            for part in self.parts or ("",)
        )

    @property
    def signature(self) -> str:
        """The keywords, as ``pytest --markers`` shows them."""
        keywords = [self.part_keyword] if self.part_keyword else []
        return f"({', '.join(f'{keyword}=None' for keyword in [*keywords, *self.keywords])})"


MARKERS: Mapping[str, Marker] = MappingProxyType(
    {
        marker.name: marker
        for marker in (
            Marker(
                name="quant_ppl",
                metric="perplexity",
                keywords={
                    "max": "ppl_max",
                    "max_vs_reference": "ppl_vs_reference",
                    "max_vs_baseline": "ppl_vs_baseline",
                    "max_vs_anchor": "ppl_vs_anchor",
                },
                help="limits on the cell's perplexity; without keywords the profile's limits",
            ),
            Marker(
                name="quant_kld",
                metric="divergence",
                keywords={
                    "max_mean": "kld_mean_max",
                    "max_p99": "kld_p99_max",
                    "min_same_top": "same_top_min",
                    "max_vs_baseline": "kld_vs_baseline",
                },
                help="limits on the divergence from the reference, in nats a token",
            ),
            Marker(
                name="quant_batches",
                metric="batches",
                keywords={"max_mean_kld": "batch_kld_max"},
                help="limit on the divergence between batch sizes, in nats a token",
            ),
            Marker(
                name="quant_noise",
                metric="noise",
                keywords={
                    "max_mean_kld": "kld_mean_max",
                    "max_kld_vs_baseline": "kld_vs_baseline",
                    "max_ppl_vs_baseline": "ppl_vs_baseline",
                },
                help="settings that should not matter; limits below their noise are warned about",
            ),
            Marker(
                name="quant_devices",
                metric="devices",
                keywords={"max_mean_kld": "device_kld_max"},
                help="limit on the divergence from the profile's first device, in nats a token",
            ),
            Marker(
                name="quant_oracle",
                metric="oracle",
                keywords={"max_mean_kld": "oracle_kld_max"},
                help="limit on an embedded model's divergence from transformers, in nats a token",
            ),
            Marker(
                name="quant_imatrix",
                metric="imatrix",
                keywords={"min_tokens_per_expert": "imatrix_min_tokens_per_expert"},
                help="limit on the tokens that an expert saw in the cell's importance matrix",
            ),
            Marker(
                name="quant_routing",
                metric="routing",
                keywords={
                    "min_same_experts": "same_experts_min",
                    "min_same_top_expert": "same_top_expert_min",
                    "min_shared_weight": "shared_weight_min",
                    "max_load_share": "expert_load_max",
                    "max_vs_baseline": "routing_vs_baseline",
                },
                help="limits on where a mixture of experts sends its tokens",
            ),
            Marker(
                name="quant_size",
                metric="size",
                keywords={
                    "max_bits_per_weight": "bits_per_weight_max",
                    "max_bytes": "size_max_bytes",
                    "max_vs_reference": "size_vs_reference",
                    "max_vs_baseline": "size_vs_baseline",
                    "max_fallback_fraction": "fallback_max",
                },
                help="limits on the cell's file; without keywords the profile's limits",
            ),
            Marker(
                name="quant_speed",
                metric="speed",
                part_keyword="phase",
                parts=("prefill", "decode"),
                keywords={
                    "min_vs_reference": "{part}_vs_reference",
                    "min_vs_baseline": "{part}_vs_baseline",
                    "min_tokens_per_s": "{part}_tokens_per_s_min",
                },
                help=(
                    "limits on the speed of phase 'prefill' or 'decode': a ratio to the"
                    " reference, a relative change, a floor; without keywords the profile's limits"
                ),
            ),
            Marker(
                name="quant_memory",
                metric="memory",
                keywords={
                    "max_resident_bytes": "resident_max_bytes",
                    "max_vs_baseline": "resident_vs_baseline",
                },
                help="limits on the peak memory of a fresh process",
            ),
        )
    }
)


def quant_marks(item: pytest.Item) -> list[pytest.Mark]:
    """Return a test's markers that are ours, or look like it."""
    return [mark for mark in item.iter_markers() if mark.name.startswith("quant_")]


def _part(marker: Marker, given: Mapping[str, object]) -> str:
    """Return which part of a metric a marker's limits are of; empty where there are no parts."""
    from pytest_quantgate.errors import ConfigError

    keyword = marker.part_keyword
    if keyword is None or not given:
        return ""
    choices = " or ".join(f"{keyword}={part!r}" for part in marker.parts)
    if keyword not in given:
        raise ConfigError(f"@{marker.name} needs {choices} to say what its limits are of")
    value = given[keyword]
    if value not in marker.parts:
        raise ConfigError(f"@{marker.name}({keyword}={value!r}) is unknown; use {choices}")
    if len(given) == 1:
        limits = ", ".join(marker.keywords)
        raise ConfigError(
            f"@{marker.name}({keyword}={value!r}) sets no limit; add one of {limits},"
            " or leave all out for the profile's limits"
        )
    return str(value)


def read_marker(mark: pytest.Mark) -> Question:
    """Turn a marker into a question.

    Raises:
        ConfigError: a positional argument, an unknown keyword, a value that is no limit.

    """
    from pydantic import ValidationError

    from pytest_quantgate.config.schema import Limits
    from pytest_quantgate.errors import ConfigError
    from pytest_quantgate.gate.question import Question

    marker = MARKERS[mark.name]
    valid = ", ".join([*([marker.part_keyword] if marker.part_keyword else []), *marker.keywords])
    if mark.args:
        raise ConfigError(
            f"@{mark.name} takes no positional argument {mark.args[0]!r}; use {valid}"
        )
    for keyword in mark.kwargs:
        if keyword not in marker.keywords and keyword != marker.part_keyword:
            raise ConfigError(f"@{mark.name} has the unknown keyword {keyword!r}; valid: {valid}")
    values = {}
    part = _part(marker, mark.kwargs)
    for keyword, value in mark.kwargs.items():
        if keyword == marker.part_keyword:
            continue
        if value is None:
            raise ConfigError(f"@{mark.name}({keyword}=None) sets no limit; leave it out")
        limit = marker.keywords[keyword].format(part=part)
        try:
            Limits.model_validate({limit: value})
        except ValidationError as error:
            message = error.errors()[0]["msg"].removeprefix("Value error, ")
            raise ConfigError(f"@{mark.name}({keyword}={value!r}): {message}") from error
        values[limit] = value
    return Question(metric=marker.metric, limits=Limits.model_validate(values) if values else None)
