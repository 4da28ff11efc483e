"""Write a trained reference model as a GGUF file.

``python convert.py olmoe FOLDER tokenizer.json OUT.gguf``; the names and the metadata are those
of llama.cpp's own conversion (``conversion/olmo.py``, ``conversion/lfm2.py``). Matrices are F16;
norms, routers, expert biases and convolution taps stay F32.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np
from gguf import ExpertGatingFuncType, GGUFWriter, LlamaFileType, TokenType
from models import ADDS_START, MODELS, rope_base
from tokens import END, PAD, PRE_TYPE, SPECIALS, START
from transformers import Lfm2MoeConfig, OlmoeConfig

Array = np.ndarray[Any, Any]

NAMES = {
    "olmoe": {
        "input_layernorm": "attn_norm",
        "self_attn.q_proj": "attn_q",
        "self_attn.k_proj": "attn_k",
        "self_attn.v_proj": "attn_v",
        "self_attn.o_proj": "attn_output",
        "self_attn.q_norm": "attn_q_norm",
        "self_attn.k_norm": "attn_k_norm",
        "post_attention_layernorm": "ffn_norm",
        "mlp.gate": "ffn_gate_inp",
    },
    "lfm2moe": {
        "operator_norm": "attn_norm",
        "self_attn.q_proj": "attn_q",
        "self_attn.k_proj": "attn_k",
        "self_attn.v_proj": "attn_v",
        "self_attn.out_proj": "attn_output",
        "self_attn.q_layernorm": "attn_q_norm",
        "self_attn.k_layernorm": "attn_k_norm",
        "conv.conv": "shortconv.conv",
        "conv.in_proj": "shortconv.in_proj",
        "conv.out_proj": "shortconv.out_proj",
        "ffn_norm": "ffn_norm",
        "feed_forward.w1": "ffn_gate",
        "feed_forward.w2": "ffn_down",
        "feed_forward.w3": "ffn_up",
        "feed_forward.gate": "ffn_gate_inp",
    },
}
LICENCE_NAME = (
    "MIT: the weights, this project's own work. The licences of the training text, GPL and"
    " CC-BY-SA among them, stand in tools/reference_models/README.md"
)

OUTSIDE = {
    "olmoe": {
        "model.embed_tokens.weight": "token_embd.weight",
        "model.norm.weight": "output_norm.weight",
        "lm_head.weight": "output.weight",
    },
    "lfm2moe": {
        "model.embed_tokens.weight": "token_embd.weight",
        # llama.cpp's name for the last norm of this family
        "model.embedding_norm.weight": "token_embd_norm.weight",
    },
}


def tensors(architecture: str, weights: dict[str, Array]) -> dict[str, Array]:
    """The tensors under llama.cpp's names, the fused gate and up projections apart."""
    out = {}
    for name, value in weights.items():
        if name in OUTSIDE[architecture]:
            out[OUTSIDE[architecture][name]] = value
            continue
        _, _, layer, inner = name.split(".", 3)
        block = f"blk.{layer}"
        if inner.endswith("experts.gate_up_proj"):
            gate, up = np.split(value, 2, axis=1)
            out[f"{block}.ffn_gate_exps.weight"] = np.ascontiguousarray(gate)
            out[f"{block}.ffn_up_exps.weight"] = np.ascontiguousarray(up)
        elif inner.endswith("experts.down_proj"):
            out[f"{block}.ffn_down_exps.weight"] = value
        elif inner.endswith("expert_bias"):
            out[f"{block}.exp_probs_b.bias"] = value
        else:
            short = NAMES[architecture][inner.removesuffix(".weight")]
            squeezed = value[:, 0] if short == "shortconv.conv" else value
            out[f"{block}.{short}.weight"] = np.ascontiguousarray(squeezed)
    return out


def add_tokenizer(writer: GGUFWriter, tokenizer: Path, adds_start: bool) -> None:
    """The vocabulary and merges of a byte-level BPE."""
    model = json.loads(tokenizer.read_text("utf-8"))["model"]
    vocabulary = sorted(model["vocab"], key=model["vocab"].__getitem__)
    merges = [m if isinstance(m, str) else " ".join(m) for m in model["merges"]]
    kinds = [TokenType.CONTROL if t in SPECIALS else TokenType.NORMAL for t in vocabulary]
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(PRE_TYPE)
    writer.add_token_list(vocabulary)
    writer.add_token_types(kinds)
    writer.add_token_merges(merges)
    writer.add_bos_token_id(START)
    writer.add_eos_token_id(END)
    writer.add_pad_token_id(PAD)
    writer.add_add_bos_token(adds_start)


def convert(architecture: str, weights: dict[str, Array], tokenizer: Path, out: Path) -> None:
    """Write the file."""
    config = MODELS[architecture]().config
    writer = GGUFWriter(out, architecture)
    writer.add_name(f"{architecture}-mini")
    writer.add_description("A reference model of pytest-quantgate: a fault detector, no assistant")
    writer.add_license("mit")
    writer.add_license_name(LICENCE_NAME)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_rope_freq_base(rope_base(config))
    writer.add_expert_count(config.num_experts)
    writer.add_expert_used_count(config.num_experts_per_tok)
    writer.add_vocab_size(config.vocab_size)
    halves = any(value.dtype == np.float16 for value in weights.values())
    writer.add_file_type(LlamaFileType.MOSTLY_F16 if halves else LlamaFileType.ALL_F32)
    if isinstance(config, OlmoeConfig):
        writer.add_head_count_kv(int(config.num_key_value_heads or 0))
        writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    else:
        assert isinstance(config, Lfm2MoeConfig)
        kinds = config.layer_types or []
        writer.add_head_count_kv(
            [config.num_key_value_heads if kind == "full_attention" else 0 for kind in kinds]
        )
        writer.add_layer_norm_rms_eps(config.norm_eps)
        writer.add_expert_feed_forward_length(config.moe_intermediate_size)
        writer.add_leading_dense_block_count(config.num_dense_layers)
        writer.add_expert_gating_func(ExpertGatingFuncType.SIGMOID)
        writer.add_shortconv_l_cache(config.conv_L_cache)
    add_tokenizer(writer, tokenizer, ADDS_START[architecture])
    for name, value in tensors(architecture, weights).items():
        writer.add_tensor(name, value)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def main() -> None:
    """Convert one model."""
    parser = argparse.ArgumentParser()
    parser.add_argument("model", choices=[*MODELS])
    parser.add_argument("folder", type=Path, help="where train.py wrote the weights")
    parser.add_argument("tokenizer", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--float32", action="store_true", help="the same values, all as F32")
    arguments = parser.parse_args()
    weights: dict[str, Array] = {}
    for part in range(2):
        with np.load(arguments.folder / f"{arguments.model}.{part}.npz") as stored:
            weights |= dict(stored)
    if arguments.float32:
        weights = {name: value.astype(np.float32) for name, value in weights.items()}
    convert(arguments.model, weights, arguments.tokenizer, arguments.out)


if __name__ == "__main__":
    main()
