"""The parts of a model: which tensors are experts, attention, router and so on."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from types import MappingProxyType

PARTS: Mapping[str, str] = MappingProxyType(
    {
        "experts": r"ffn_(up|gate|down|gate_up)_exps\.weight$",
        "router": r"ffn_gate_inp\.weight$|exp_probs_b",
        "attention": r"attn_[a-z_]+\.weight$|shortconv\.[a-z]+_proj\.weight$",
        "feed_forward": r"ffn_(up|gate|down)(_shexp)?\.weight$",
        "embedding_output": r"^(token_embd|output)\.weight$",
    }
)
"""Each part and the names of its tensors, the first that fits; a hybrid model has short
convolutions where other layers have their attention."""

REST = "norms"
"""What is in no other part: norms, biases, the convolutions' kernels; llama.cpp keeps them F32."""

QUANTIZED_PARTS = tuple(name for name in PARTS if name != "router")
"""llama.cpp quantizes no router, whatever a format or an override says."""

_NORM = re.compile(r"_norm\.weight$")


def part_of(tensor_name: str) -> str:
    """Return the part that a tensor belongs to."""
    if not _NORM.search(tensor_name):
        for name, pattern in PARTS.items():
            if re.search(pattern, tensor_name):
                return name
    return REST


def quantized_parts(tensor_names: Iterable[str]) -> tuple[str, ...]:
    """Return the parts of a model that llama.cpp quantizes, in the table's order."""
    present = {part_of(name) for name in tensor_names}
    return tuple(name for name in QUANTIZED_PARTS if name in present)
