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

    from pytest_quantgate.gate import Question

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


@dataclass(frozen=True, kw_only=True)
class Marker:
    """One marker; ``keywords`` maps each keyword to the name of a limit."""

    name: str
    metric: str
    keywords: Mapping[str, str]
    help: str

    @property
    def signature(self) -> str:
        """The keywords, as ``pytest --markers`` shows them."""
        return f"({', '.join(f'{keyword}=None' for keyword in self.keywords)})"


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
                },
                help="limits on the cell's file; without keywords the profile's limits",
            ),
        )
    }
)


def read_marker(mark: pytest.Mark) -> Question:
    """Turn a marker into a question.

    Raises:
        ConfigError: a positional argument, an unknown keyword, a value that is no limit.

    """
    from pydantic import ValidationError

    from pytest_quantgate.errors import ConfigError
    from pytest_quantgate.gate import Question
    from pytest_quantgate.tables import Limits

    marker = MARKERS[mark.name]
    valid = ", ".join(marker.keywords)
    if mark.args:
        raise ConfigError(
            f"@{mark.name} takes no positional argument {mark.args[0]!r}; use {valid}"
        )
    values = {}
    for keyword, value in mark.kwargs.items():
        if keyword not in marker.keywords:
            raise ConfigError(f"@{mark.name} has the unknown keyword {keyword!r}; valid: {valid}")
        if value is None:
            raise ConfigError(f"@{mark.name}({keyword}=None) sets no limit; leave it out")
        try:
            Limits.model_validate({marker.keywords[keyword]: value})
        except ValidationError as error:
            message = error.errors()[0]["msg"].removeprefix("Value error, ")
            raise ConfigError(f"@{mark.name}({keyword}={value!r}): {message}") from error
        values[marker.keywords[keyword]] = value
    return Question(metric=marker.metric, limits=Limits.model_validate(values) if values else None)
