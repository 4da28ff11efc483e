"""Shapes: models of a true architecture and size whose weights are pseudo-random.

Size and speed do not depend on the weights' values, so a shape stands for a model where only
these are asked for. Names of fields and tensors are llama.cpp's (``src/models/llama.cpp``,
``olmoe.cpp``, ``lfm2moe.cpp`` and its conversion scripts). The tensors stand in the order in which
``llama_model_quantize`` writes them, and the two fields that it sets stand last, where it puts
them: so a shape in full precision and a quantized one have the layout that quantizing gives.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache, cached_property
from pathlib import Path
from types import MappingProxyType

from pytest_quantgate.config.shape import ShapeSettings
from pytest_quantgate.gguf.formats import FILE_TYPES, TENSOR_TYPES, FileType
from pytest_quantgate.gguf.reader import GgufFile, Tensor, Value
from pytest_quantgate.gguf.writer import (
    FieldValue,
    NewTensor,
    data_bytes,
    encode_field,
    encode_header,
    padded,
)

SHAPES: Mapping[str, ShapeSettings] = MappingProxyType(
    {
        "smollm2-135m": ShapeSettings(
            architecture="llama",
            layers=30,
            hidden=576,
            feed_forward=1536,
            heads=9,
            kv_heads=3,
            vocabulary=49_152,
            tied=True,
            context=8192,
            rope_base=1e5,
        ),
        "olmoe-1b-7b": ShapeSettings(
            architecture="olmoe",
            layers=16,
            hidden=2048,
            feed_forward=1024,
            heads=16,
            kv_heads=16,
            vocabulary=50_304,
            experts=64,
            experts_used=8,
        ),
        "lfm2-8b-a1b": ShapeSettings(
            architecture="lfm2moe",
            layers=24,
            hidden=2048,
            feed_forward=7168,
            heads=32,
            kv_heads=8,
            vocabulary=65_536,
            tied=True,
            context=128_000,
            rope_base=1e6,
            experts=32,
            experts_used=4,
            expert_feed_forward=1792,
            dense_layers=2,
            attention_layers=(2, 6, 10, 14, 18, 21),
        ),
    }
)
"""The shapes that a source ``shape:NAME`` may name."""

_WEIGHTS_VERSION = 1  # raised when the pseudo-random weights of a shape change
_QUANTIZATION_VERSION = 2  # GGML_QNT_VERSION
_SIGMOID = 2  # LLAMA_EXPERT_GATING_FUNC_TYPE_SIGMOID
_CONV_TAPS = 3  # lfm2moe's shortconv.l_cache
_PRE_TYPES = {"llama": "smollm", "olmoe": "olmo", "lfm2moe": "lfm2"}


@cache
def _vocabulary(n_tokens: int) -> tuple[bytes, ...]:
    """Return the tokenizer's fields: a byte-level BPE whose tokens are merges of bytes.

    After the 256 bytes each token is an earlier one and a byte, with the merge that makes it; the
    last token is the end of text.
    """
    plain = [*range(ord("!"), ord("~") + 1), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    rest = [byte for byte in range(256) if byte not in plain]
    letters = {byte: chr(byte) for byte in plain}
    letters |= {byte: chr(256 + place) for place, byte in enumerate(rest)}
    tokens = [letters[byte] for byte in range(256)]
    merges = []
    for number in range(n_tokens - 257):
        before, letter = tokens[number // 256], tokens[number % 256]
        merges.append(f"{before} {letter}")
        tokens.append(before + letter)
    tokens.append("<|end|>")
    normal, control = 1, 3
    return (
        encode_field("tokenizer.ggml.tokens", tokens),
        encode_field("tokenizer.ggml.token_type", [normal] * (n_tokens - 1) + [control]),
        encode_field("tokenizer.ggml.merges", merges),
        encode_field("tokenizer.ggml.bos_token_id", n_tokens - 1),
        encode_field("tokenizer.ggml.eos_token_id", n_tokens - 1),
        encode_field("tokenizer.ggml.add_bos_token", False),
    )


@dataclass(frozen=True, kw_only=True)
class Shape:
    """A model's shape under a name."""

    name: str
    settings: ShapeSettings

    @cached_property
    def metadata(self) -> dict[str, Value]:
        """The fields that are no array, but for the file's type."""
        return {key: value for key, value in self._fields.items() if not isinstance(value, list)}

    @cached_property
    def _fields(self) -> dict[str, Value | list[int]]:
        shape, prefix = self.settings, self.settings.architecture
        kv_heads: int | list[int] = shape.kv_heads
        if prefix == "lfm2moe":
            attends = shape.attention_layers
            kv_heads = [shape.kv_heads if i in attends else 0 for i in range(shape.layers)]
        fields: dict[str, Value | list[int]] = {
            "general.architecture": prefix,
            "general.type": "model",
            "general.name": self.name,
            f"{prefix}.block_count": shape.layers,
            f"{prefix}.context_length": shape.context,
            f"{prefix}.embedding_length": shape.hidden,
            f"{prefix}.feed_forward_length": shape.feed_forward,
            f"{prefix}.attention.head_count": shape.heads,
            f"{prefix}.attention.head_count_kv": kv_heads,
            f"{prefix}.attention.layer_norm_rms_epsilon": 1e-5,
            f"{prefix}.rope.freq_base": shape.rope_base,
            f"{prefix}.rope.dimension_count": shape.hidden // shape.heads,
            f"{prefix}.vocab_size": shape.vocabulary,
        }
        if shape.experts:
            fields |= {
                f"{prefix}.expert_count": shape.experts,
                f"{prefix}.expert_used_count": shape.experts_used,
            }
        if shape.expert_feed_forward is not None:
            fields |= {
                f"{prefix}.expert_feed_forward_length": shape.expert_feed_forward,
                f"{prefix}.leading_dense_block_count": shape.dense_layers,
                f"{prefix}.expert_gating_func": _SIGMOID,
                f"{prefix}.shortconv.l_cache": _CONV_TAPS,
            }
        return fields | {
            "tokenizer.ggml.model": "gpt2",
            "tokenizer.ggml.pre": _PRE_TYPES[prefix],
        }

    @cached_property
    def tensors(self) -> tuple[tuple[str, str, tuple[int, ...]], ...]:
        """Name, type in full precision, and shape of each tensor, in the file's order."""
        shape = self.settings
        table: dict[str, tuple[int, ...]] = {
            "token_embd.weight": (shape.hidden, shape.vocabulary),
            # llama.cpp's name for the last norm of this family.
            ("token_embd_norm" if shape.architecture == "lfm2moe" else "output_norm") + ".weight": (
                shape.hidden,
            ),
        }
        if not shape.tied:
            table["output.weight"] = (shape.hidden, shape.vocabulary)
        ordered = sorted(table.items())
        for layer in range(shape.layers):
            rows = {**_mixer(shape, layer), **_feed_forward(shape, layer)}
            ordered += sorted((f"blk.{layer}.{name}", sizes) for name, sizes in rows.items())
        return tuple((name, _full_type(name, sizes), sizes) for name, sizes in ordered)

    def file(self, types: Mapping[str, str] | None = None) -> GgufFile:
        """Return what the header of the whole file says, with or without such a file.

        Args:
            types: the tensors' types where they are not those of full precision.

        """
        offset_bytes = len(self.header(FILE_TYPES["F16"]))
        path, tensors = Path(f"shape:{self.name}"), []
        for name, kind, shape in self._typed(types):
            tensors.append(
                Tensor(name=name, type=kind, shape=shape, offset_bytes=offset_bytes, file=path)
            )
            offset_bytes += padded(data_bytes(kind, shape))
        return GgufFile(
            files=(path,), metadata=self.metadata, tensors=tuple(tensors), n_bytes=offset_bytes
        )

    def header(self, file_type: FileType, types: Mapping[str, str] | None = None) -> bytes:
        """Return the header's bytes; its length is the same for all types."""
        settings = self.settings
        fields = [encode_field(key, value) for key, value in self._fields.items()]
        last: dict[str, FieldValue] = {
            "general.quantization_version": _QUANTIZATION_VERSION,
            "general.file_type": file_type.number,
        }
        fields += _vocabulary(settings.vocabulary)
        fields += [encode_field(key, value) for key, value in last.items()]
        return encode_header(fields, self._typed(types))

    def _typed(self, types: Mapping[str, str] | None) -> list[NewTensor]:
        return [
            (name, TENSOR_TYPES[full if types is None else types[name]], shape)
            for name, full, shape in self.tensors
        ]

    @cached_property
    def sha256(self) -> str:
        """What identifies the shape in full precision: its header and how its weights are made."""
        digest = hashlib.sha256(self.header(FILE_TYPES["F16"]))
        digest.update(_WEIGHTS_VERSION.to_bytes(4, "little"))
        return digest.hexdigest()


def _full_type(name: str, shape: tuple[int, ...]) -> str:
    """Return a tensor's type before quantizing: vectors, routers and convolutions stay F32."""
    whole = len(shape) == 1 or name.endswith(("ffn_gate_inp.weight", "shortconv.conv.weight"))
    return "F32" if whole else "F16"


def _mixer(shape: ShapeSettings, layer: int) -> dict[str, tuple[int, ...]]:
    """Return the tensors of a layer's attention or convolution."""
    hidden = shape.hidden
    norm: dict[str, tuple[int, ...]] = {"attn_norm.weight": (hidden,)}
    if shape.architecture == "lfm2moe" and layer not in shape.attention_layers:
        return norm | {
            "shortconv.conv.weight": (_CONV_TAPS, hidden),
            "shortconv.in_proj.weight": (hidden, 3 * hidden),
            "shortconv.out_proj.weight": (hidden, hidden),
        }
    head = hidden // shape.heads
    attention = norm | {
        "attn_q.weight": (hidden, hidden),
        "attn_k.weight": (hidden, head * shape.kv_heads),
        "attn_v.weight": (hidden, head * shape.kv_heads),
        "attn_output.weight": (hidden, hidden),
    }
    normed = {"llama": 0, "olmoe": hidden, "lfm2moe": head}[shape.architecture]
    if normed:
        attention |= {"attn_q_norm.weight": (normed,), "attn_k_norm.weight": (normed,)}
    return attention


def _feed_forward(shape: ShapeSettings, layer: int) -> dict[str, tuple[int, ...]]:
    """Return the tensors of a layer's feed-forward part."""
    hidden, experts = shape.hidden, shape.experts
    norm: dict[str, tuple[int, ...]] = {"ffn_norm.weight": (hidden,)}
    if not experts or layer < shape.dense_layers:
        return norm | {
            "ffn_gate.weight": (hidden, shape.feed_forward),
            "ffn_up.weight": (hidden, shape.feed_forward),
            "ffn_down.weight": (shape.feed_forward, hidden),
        }
    inner = shape.expert_feed_forward or shape.feed_forward
    tensors = norm | {
        "ffn_gate_inp.weight": (hidden, experts),
        "ffn_gate_exps.weight": (hidden, inner, experts),
        "ffn_up_exps.weight": (hidden, inner, experts),
        "ffn_down_exps.weight": (inner, hidden, experts),
    }
    if shape.architecture == "lfm2moe":
        tensors["exp_probs_b.bias"] = (experts,)
    return tensors
