"""Writes tiny models that llama.cpp really loads: random weights, a byte-level vocabulary."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import gguf
import numpy as np


def finish(writer: gguf.GGUFWriter) -> None:
    """Write what a writer of the gguf package was given."""
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


BYTES = [*range(33, 127), *range(161, 173), *range(174, 256)]
"""Bytes that a byte-level BPE vocabulary writes as themselves; the rest moves above 255."""


def byte_tokens() -> list[str]:
    """Return the 256 one-byte tokens in the alphabet of GPT-2's vocabulary."""
    rest = [byte for byte in range(256) if byte not in BYTES]
    letters = {byte: chr(byte) for byte in BYTES}
    letters |= {byte: chr(256 + place) for place, byte in enumerate(rest)}
    return [letters[byte] for byte in range(256)]


@dataclass(frozen=True, kw_only=True)
class Shape:
    """What a tiny model looks like; ``experts`` 0 is a dense llama, else an olmoe.

    A vocabulary of bytes and merges is filled up to ``n_vocab``.
    """

    hidden: int = 256
    feed_forward: int = 256
    layers: int = 2
    heads: int = 4
    experts: int = 0
    experts_used: int = 2
    seed: int = 7
    dtype: str = "F16"
    merges: tuple[str, ...] = ("t h", "th e")
    n_ctx: int = 2048
    adds_bos: bool = False
    n_vocab: int = 0


def _vocabulary(writer: gguf.GGUFWriter, shape: Shape) -> int:
    tokens = byte_tokens() + [merge.replace(" ", "") for merge in shape.merges]
    tokens += [f"<{number}>" for number in range(len(tokens), shape.n_vocab - 1)] + ["<|end|>"]
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("gpt-2")
    writer.add_token_list(tokens)
    writer.add_token_types([1] * (len(tokens) - 1) + [3])
    writer.add_token_merges(list(shape.merges))
    writer.add_bos_token_id(len(tokens) - 1)
    writer.add_eos_token_id(len(tokens) - 1)
    writer.add_add_bos_token(shape.adds_bos)
    return len(tokens)


def write_tiny_model(path: Path, shape: Shape | None = None) -> Path:
    """Write a model of about 2 MB and return its path."""
    shape = shape or Shape()
    architecture = "olmoe" if shape.experts else "llama"
    writer = gguf.GGUFWriter(path, architecture)
    writer.add_name("tiny")
    writer.add_context_length(shape.n_ctx)
    writer.add_embedding_length(shape.hidden)
    writer.add_feed_forward_length(shape.feed_forward)
    writer.add_block_count(shape.layers)
    writer.add_head_count(shape.heads)
    writer.add_head_count_kv(shape.heads)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_dimension_count(shape.hidden // shape.heads)
    writer.add_file_type(0 if shape.dtype == "F32" else 1)
    if shape.experts:
        writer.add_expert_count(shape.experts)
        writer.add_expert_used_count(shape.experts_used)
    n_tokens = _vocabulary(writer, shape)
    writer.add_vocab_size(n_tokens)
    random = np.random.default_rng(shape.seed)
    dtype = np.float32 if shape.dtype == "F32" else np.float16

    def matrix(name: str, *sizes: int) -> None:
        values = random.standard_normal(sizes, dtype=np.float32) * 1.5 / np.sqrt(sizes[-1])
        writer.add_tensor(name, values.astype(dtype))

    def norm(name: str) -> None:
        writer.add_tensor(name, np.ones(shape.hidden, dtype=np.float32))

    hidden, inner = shape.hidden, shape.feed_forward
    matrix("token_embd.weight", n_tokens, hidden)
    for layer in range(shape.layers):
        block = f"blk.{layer}"
        norm(f"{block}.attn_norm.weight")
        for part in ("attn_q", "attn_k", "attn_v", "attn_output"):
            matrix(f"{block}.{part}.weight", hidden, hidden)
        norm(f"{block}.ffn_norm.weight")
        if shape.experts:
            norm(f"{block}.attn_q_norm.weight")
            norm(f"{block}.attn_k_norm.weight")
            writer.add_tensor(
                f"{block}.ffn_gate_inp.weight",
                random.standard_normal((shape.experts, hidden), dtype=np.float32),
            )
            matrix(f"{block}.ffn_gate_exps.weight", shape.experts, inner, hidden)
            matrix(f"{block}.ffn_down_exps.weight", shape.experts, hidden, inner)
            matrix(f"{block}.ffn_up_exps.weight", shape.experts, inner, hidden)
        else:
            matrix(f"{block}.ffn_gate.weight", inner, hidden)
            matrix(f"{block}.ffn_down.weight", hidden, inner)
            matrix(f"{block}.ffn_up.weight", inner, hidden)
    norm("output_norm.weight")
    matrix("output.weight", n_tokens, hidden)
    finish(writer)
    return path


def write_untrained(source: Path, path: Path, layers: int, seed: int = 7) -> Path:
    """Write a model of another's architecture and vocabulary: fewer layers, random weights."""
    reader = gguf.GGUFReader(source)
    architecture = str(reader.fields["general.architecture"].contents())
    writer = gguf.GGUFWriter(path, architecture)
    for name, field in reader.fields.items():
        if name.startswith("GGUF.") or name == "general.architecture":
            continue
        value = field.contents()
        if name == f"{architecture}.block_count":
            value = layers
        elif name.startswith(f"{architecture}.") and isinstance(value, list):
            value = value[:layers]  # one value a layer
        kind, item = field.types[0], field.types[-1] if len(field.types) > 1 else None
        writer.add_key_value(name, value, kind, item)
    random = np.random.default_rng(seed)
    for tensor in reader.tensors:
        if any(tensor.name.startswith(f"blk.{n}.") for n in range(layers, 1000)):
            continue
        values = np.ones(tensor.data.shape, dtype=tensor.data.dtype)
        if values.ndim > 1:
            spread = 1.5 / np.sqrt(values.shape[-1])
            values[:] = spread * random.standard_normal(values.shape, dtype=np.float32)
        writer.add_tensor(tensor.name, values)
    finish(writer)
    return path


def write_story(path: Path, n_documents: int = 24, sentences: int = 6) -> Path:
    """Write a text of small documents, with LF line ends."""
    random = np.random.default_rng(3)
    vocabulary = "the miller river stone lamp over under walks sings old north rain bread and a"
    words = vocabulary.split()
    lines = []
    for number in range(n_documents):
        lines.append(f" = Story {number} = ")
        for _ in range(sentences):
            picked = [words[i] for i in random.integers(0, len(words), 9)]
            lines.append(" ".join(picked).capitalize() + ".")
    path.write_bytes(("\n".join(lines) + "\n").encode())
    return path
