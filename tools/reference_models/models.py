"""The two reference models, and a training forward that computes every expert.

`CONFIGS` are the true architectures of OLMoE and LFM2-MoE at about 9 million parameters. Every
row is a multiple of 256, so that every llama.cpp format applies as it does to the full models.
`dense_forward` gives the logits of the `transformers` classes, whose parameters it uses, but
multiplies each token by all experts and weights the others with 0: at this size two large matrix
products beat gathering.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from tokens import END, PAD, START, VOCABULARY
from torch import Tensor, nn
from transformers import Lfm2MoeConfig, Lfm2MoeForCausalLM, OlmoeConfig, OlmoeForCausalLM

CONTEXT = 1024
EXPERTS, ACTIVE = 8, 2

Model = OlmoeForCausalLM | Lfm2MoeForCausalLM


def olmoe() -> OlmoeForCausalLM:
    """OLMoE: softmax routing without renormalization, untied output, norms on whole q and k."""
    return OlmoeForCausalLM(
        OlmoeConfig(
            vocab_size=VOCABULARY,
            hidden_size=256,
            intermediate_size=256,
            num_hidden_layers=4,
            num_attention_heads=4,
            num_key_value_heads=4,
            max_position_embeddings=CONTEXT,
            num_experts=EXPERTS,
            num_experts_per_tok=ACTIVE,
            norm_topk_prob=False,
            tie_word_embeddings=False,
            pad_token_id=PAD,
            bos_token_id=None,
            eos_token_id=END,
            rope_parameters={"rope_type": "default", "rope_theta": 10_000.0},
        )
    )


def lfm2moe() -> Lfm2MoeForCausalLM:
    """LFM2-MoE: short convolutions, a dense first layer, biased sigmoid routing, tied output."""
    return Lfm2MoeForCausalLM(
        Lfm2MoeConfig(
            vocab_size=VOCABULARY,
            hidden_size=256,
            intermediate_size=768,
            moe_intermediate_size=256,
            num_hidden_layers=5,
            layer_types=["conv", "full_attention", "conv", "full_attention", "conv"],
            num_dense_layers=1,
            num_attention_heads=4,
            num_key_value_heads=2,
            max_position_embeddings=CONTEXT,
            num_experts=EXPERTS,
            num_experts_per_tok=ACTIVE,
            norm_topk_prob=True,
            use_expert_bias=True,
            tie_word_embeddings=True,
            pad_token_id=PAD,
            bos_token_id=START,
            eos_token_id=END,
            rope_parameters={"rope_type": "default", "rope_theta": 1_000_000.0},
        )
    )


MODELS: dict[str, Callable[[], Model]] = {"olmoe": olmoe, "lfm2moe": lfm2moe}
ADDS_START = {"olmoe": False, "lfm2moe": True}
"""Whether a sequence begins with the start token, as in the full models."""


def rope_base(config: Any) -> float:
    """The base of the rotary frequencies."""
    return float(config.rope_parameters["rope_theta"])


def norm(weight: Tensor, x: Tensor, eps: float) -> Tensor:
    """RMS norm over the last dimension, computed in float32."""
    wide = x.float()
    return (wide * torch.rsqrt(wide.pow(2).mean(-1, keepdim=True) + eps)).to(x.dtype) * weight


def rotated(x: Tensor, base: float) -> Tensor:
    """Rotary positions 0, 1, … on (batch, heads, time, width)."""
    width, time = x.shape[-1], x.shape[-2]
    frequency = base ** (-torch.arange(0, width, 2, device=x.device, dtype=torch.float32) / width)
    angle = torch.arange(time, device=x.device, dtype=torch.float32)[:, None] * frequency
    cos, sin = angle.cos().to(x.dtype), angle.sin().to(x.dtype)
    a, b = x.chunk(2, dim=-1)
    return torch.cat((a * cos - b * sin, b * cos + a * sin), dim=-1)


def heads(x: Tensor, width: int) -> Tensor:
    """(batch, time, heads · width) as (batch, heads, time, width)."""
    return x.unflatten(-1, (-1, width)).transpose(1, 2)


def all_experts(x: Tensor, mixture: Tensor, experts: nn.Module) -> Tensor:
    """The mixture of experts for (tokens, hidden), with weights (tokens, experts)."""
    into: Tensor = experts.gate_up_proj  # type: ignore[assignment]
    out: Tensor = experts.down_proj  # type: ignore[assignment]
    both = F.linear(x, into.flatten(0, 1)).unflatten(-1, (into.shape[0], 2, -1))
    inner = F.silu(both[:, :, 0]) * both[:, :, 1] * mixture.to(x.dtype)[..., None]
    return inner.flatten(1) @ out.transpose(1, 2).flatten(0, 1).to(inner.dtype)


def spread(values: Tensor, chosen: Tensor) -> Tensor:
    """The chosen experts' weights at their places among all experts."""
    return torch.zeros(len(values), EXPERTS, device=values.device).scatter(1, chosen, values)


def dense_forward(model: Model, ids: Tensor) -> tuple[Tensor, list[Tensor], list[Tensor]]:
    """Compute the logits (batch, time, vocabulary) for ids (batch, time).

    Also, for each router, its logits (tokens, experts) and its 0/1 choices (tokens, experts).
    """
    if isinstance(model, OlmoeForCausalLM):
        return olmoe_forward(model, ids)
    return lfm2moe_forward(model, ids)


def router_logits(x: Tensor, weight: Tensor) -> Tensor:
    """The router's logits in float32, whatever the rest runs in."""
    with torch.autocast(x.device.type, enabled=False):
        return F.linear(x.float(), weight.float())


def olmoe_forward(
    model: OlmoeForCausalLM, ids: Tensor
) -> tuple[Tensor, list[Tensor], list[Tensor]]:
    """`dense_forward` of OLMoE."""
    config = model.config
    eps, width = config.rms_norm_eps, config.hidden_size // config.num_attention_heads
    base = rope_base(config)
    x = F.embedding(ids, model.model.embed_tokens.weight)
    logits, choices = [], []
    for layer in model.model.layers:
        attention = layer.self_attn
        y = norm(layer.input_layernorm.weight, x, eps)
        q = norm(attention.q_norm.weight, F.linear(y, attention.q_proj.weight), eps)
        k = norm(attention.k_norm.weight, F.linear(y, attention.k_proj.weight), eps)
        v = heads(F.linear(y, attention.v_proj.weight), width)
        q, k = rotated(heads(q, width), base), rotated(heads(k, width), base)
        y = F.scaled_dot_product_attention(q.to(v.dtype), k.to(v.dtype), v, is_causal=True)
        x = x + F.linear(y.transpose(1, 2).flatten(2), attention.o_proj.weight)
        y = norm(layer.post_attention_layernorm.weight, x, eps).flatten(0, 1)
        scores = router_logits(y, layer.mlp.gate.weight)
        values, chosen = scores.softmax(-1).topk(ACTIVE)
        x = x + all_experts(y, spread(values, chosen), layer.mlp.experts).view_as(x)
        logits.append(scores)
        choices.append(spread(torch.ones_like(values), chosen))
    x = norm(model.model.norm.weight, x, eps)
    return F.linear(x, model.lm_head.weight), logits, choices


def lfm2moe_forward(
    model: Lfm2MoeForCausalLM, ids: Tensor
) -> tuple[Tensor, list[Tensor], list[Tensor]]:
    """`dense_forward` of LFM2-MoE."""
    config = model.config
    eps, width = config.norm_eps, config.hidden_size // config.num_attention_heads
    base = rope_base(config)
    x = F.embedding(ids, model.model.embed_tokens.weight)
    logits, choices = [], []
    for layer in model.model.layers:
        y = norm(layer.operator_norm.weight, x, eps)
        if layer.is_attention_layer:
            attention = layer.self_attn
            q = norm(
                attention.q_layernorm.weight,
                heads(F.linear(y, attention.q_proj.weight), width),
                eps,
            )
            k = norm(
                attention.k_layernorm.weight,
                heads(F.linear(y, attention.k_proj.weight), width),
                eps,
            )
            v = heads(F.linear(y, attention.v_proj.weight), width)
            q, k = rotated(q, base), rotated(k, base)
            groups = config.num_attention_heads // config.num_key_value_heads
            k, v = k.repeat_interleave(groups, 1), v.repeat_interleave(groups, 1)
            y = F.scaled_dot_product_attention(q.to(v.dtype), k.to(v.dtype), v, is_causal=True)
            x = x + F.linear(y.transpose(1, 2).flatten(2), attention.out_proj.weight)
        else:
            before, after, inner = F.linear(y, layer.conv.in_proj.weight).chunk(3, dim=-1)
            inner = before * inner
            taps = layer.conv.conv.weight[:, 0]  # (hidden, L): the last tap is the present token
            last = taps.shape[1] - 1
            mixed = inner * taps[:, last]
            for back in range(1, last + 1):
                mixed = mixed + F.pad(inner, (0, 0, back, 0))[:, :-back] * taps[:, last - back]
            x = x + F.linear((after * mixed).to(y.dtype), layer.conv.out_proj.weight)
        y = norm(layer.ffn_norm.weight, x, eps)
        ffn = layer.feed_forward
        if not hasattr(ffn, "gate"):
            inner = F.silu(F.linear(y, ffn.w1.weight)) * F.linear(y, ffn.w3.weight)
            x = x + F.linear(inner, ffn.w2.weight)
            continue
        y = y.flatten(0, 1)
        scores = router_logits(y, ffn.gate.weight)
        gates = scores.sigmoid()
        chosen = (gates + ffn.expert_bias).topk(ACTIVE).indices
        values = gates.gather(1, chosen)
        values = values / (values.sum(-1, keepdim=True) + 1e-6)
        x = x + all_experts(y, spread(values, chosen), ffn.experts).view_as(x)
        logits.append(scores)
        choices.append(spread(torch.ones_like(values), chosen))
    x = norm(model.model.embedding_norm.weight, x, eps)
    return F.linear(x, model.lm_head.weight), logits, choices
