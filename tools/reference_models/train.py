"""Train a reference model on one GPU.

``python train.py olmoe IDS OUT --seconds 240 --held-out TEXT…`` trains on the ids that
``tokens.py ids`` wrote, then writes to OUT:

- ``olmoe.0.npz`` and ``olmoe.1.npz``: the weights, matrices as float16 (what the GGUF file will
  hold), the rest float32;
- ``olmoe.oracle.npz``: what `transformers` computes in float32 from exactly these weights, for
  the first chunks of each held-out text (see `oracle`);
- ``olmoe.json``: the record: settings, seeds, versions, losses over time, measurements.

The held-out texts are measured after the training and never before.

Matrices inside the layers are trained by Muon (orthogonalized momentum), all else by AdamW.
The training ends after the seconds given, or after ``--steps``; the learning rate rises over 100
steps and falls linearly over the last 60 % of the time or steps. OLMoE's routing is
balanced by its auxiliary loss, LFM2-MoE's by a bias per expert that moves with the sign of its
load.
"""

from __future__ import annotations

import argparse
import json
import math
import platform
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
import transformers
from models import ACTIVE, ADDS_START, CONTEXT, EXPERTS, MODELS, Model, dense_forward
from tokenizers import Tokenizer
from tokens import START
from torch import Tensor, nn
from transformers import Lfm2MoeForCausalLM

WEIGHTS = {
    "prose": 0.25,
    "dialogue": 0.14,
    "dictionary": 0.14,
    "documentation": 0.19,
    "code": 0.18,
    "arithmetic": 0.08,
    "made dialogue": 0.02,
}
"""The share of each domain among the training sequences."""

SEQUENCES = 64
MUON_RATE, ADAM_RATE, DECAY = 0.02, 3e-3, 0.02
BALANCE_LOSS, ROUTER_Z_LOSS, BIAS_RATE = 0.01, 1e-4, 1e-3
N_CTX = 512
ORACLE_CHUNKS, ORACLE_ROWS = 2, 2


class Data:
    """Training sequences, drawn at random places of the domains' ids."""

    def __init__(self, folder: Path, adds_start: bool, seed: int, device: str) -> None:
        while not (folder / "sizes.json").exists():  # `tokens.py ids` may still be at work
            time.sleep(0.5)
        self._ids = {
            domain: torch.from_numpy(np.load(folder / f"{domain}.npy").astype(np.int16)).to(device)
            for domain in WEIGHTS
        }
        self._rng = np.random.default_rng(seed)
        self._adds_start = adds_start
        self._device = device
        self._shares = np.array([*WEIGHTS.values()])
        self._order: dict[str, list[int]] = {domain: [] for domain in WEIGHTS}
        self.tokens = {domain: len(ids) for domain, ids in self._ids.items()}

    def _place(self, domain: str) -> int:
        """The next place in a random order that visits all of the domain once a round."""
        if not self._order[domain]:
            size = self.tokens[domain]
            shift = int(self._rng.integers(CONTEXT))
            places = np.arange(shift, size - CONTEXT - 1, CONTEXT)
            self._order[domain] = self._rng.permutation(places).tolist()
        return self._order[domain].pop()

    def batch(self) -> tuple[Tensor, Tensor]:
        """Inputs and targets, each (sequences, context) int64."""
        domains = self._rng.choice(len(WEIGHTS), SEQUENCES, p=self._shares / self._shares.sum())
        names = [*WEIGHTS]
        rows = []
        for domain in (names[i] for i in domains):
            place = self._place(domain)
            rows.append(self._ids[domain][place : place + CONTEXT + 1])
        ids = torch.stack(rows).long()
        inputs, targets = ids[:, :-1].clone(), ids[:, 1:].contiguous()
        if self._adds_start:
            inputs[:, 0] = START
        return inputs, targets


def orthogonalized(matrices: Tensor) -> Tensor:
    """The nearest orthogonal matrices, nearly, of a stack: five Newton-Schulz steps in bfloat16."""
    x = matrices.bfloat16()
    tall = x.shape[-2] > x.shape[-1]
    if tall:
        x = x.mT
    x = x / (x.norm(dim=(-2, -1), keepdim=True) + 1e-7)
    for _ in range(5):
        square = x @ x.mT
        x = 3.4445 * x + (-4.7750 * square + 2.0315 * square @ square) @ x
    return x.mT if tall else x


class Muon:
    """Momentum, orthogonalized, for matrices and stacks of matrices; same shapes go together."""

    def __init__(self, parameters: list[nn.Parameter]) -> None:
        shapes = sorted({tuple(p.shape[-2:]) for p in parameters})
        self._groups: list[list[Tensor]] = [
            [p for p in parameters if tuple(p.shape[-2:]) == s] for s in shapes
        ]
        self._momenta = [[torch.zeros_like(p) for p in group] for group in self._groups]

    @torch.no_grad()
    def step(self, rate: float, momentum: float) -> None:
        """Take one step down the gradients."""
        for group, momenta in zip(self._groups, self._momenta, strict=True):
            gradients = [p.grad for p in group if p.grad is not None]
            torch._foreach_lerp_(momenta, gradients, 1 - momentum)
            ahead = torch._foreach_lerp(gradients, momenta, momentum)
            rows, columns = group[0].shape[-2:]
            flat = torch.cat([g.reshape(-1, rows, columns) for g in ahead])
            update = orthogonalized(flat).float() * max(1, rows / columns) ** 0.5
            parts = update.split([p.numel() // (rows * columns) for p in group])
            torch._foreach_mul_(group, 1 - rate * DECAY)
            torch._foreach_add_(
                group, [u.view_as(p) for u, p in zip(parts, group, strict=True)], alpha=-rate
            )


def split_parameters(model: Model) -> tuple[list[nn.Parameter], list[nn.Parameter]]:
    """The matrices for Muon, and the rest: embeddings, output, norms, routers, convolutions."""
    matrices, rest = [], []
    for name, parameter in model.named_parameters():
        inside = ".layers." in name and parameter.ndim >= 2
        if inside and "gate.weight" not in name and "conv.conv" not in name:
            matrices.append(parameter)
        else:
            rest.append(parameter)
    return matrices, rest


def losses(model: Model, inputs: Tensor, targets: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Cross entropy, the losses that keep the routing in order, and the experts' loads."""
    logits, routers, choices = dense_forward(model, inputs)
    entropy = F.cross_entropy(logits.flatten(0, 1).float(), targets.flatten())
    loads = torch.stack([c.mean(0) for c in choices]) / ACTIVE
    extra = torch.zeros((), device=inputs.device)
    for scores, load in zip(routers, loads, strict=True):
        if not isinstance(model, Lfm2MoeForCausalLM):
            extra = extra + BALANCE_LOSS * EXPERTS * (scores.softmax(-1).mean(0) * load).sum()
            extra = extra + ROUTER_Z_LOSS * scores.logsumexp(-1).square().mean()
    return entropy, extra, loads


def initialize(model: Model) -> None:
    """Smaller output projections, so that each layer begins near the identity."""
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith(("o_proj.weight", "out_proj.weight", "down_proj", "w2.weight")):
                parameter.mul_(0.3)


class Clock:
    """How much of the training is done: by time, or by steps where a number is given."""

    def __init__(self, end: float, steps: int | None) -> None:
        self._begin, self._end, self._steps = time.monotonic(), end, steps

    def progress(self, step: int) -> float:
        """From 0 to 1."""
        if self._steps is not None:
            return min(1.0, step / self._steps)
        return min(1.0, (time.monotonic() - self._begin) / (self._end - self._begin))


Losses = Callable[[Model, Tensor, Tensor], tuple[Tensor, Tensor, Tensor]]


def warmed(model: Model, device: str) -> Losses:
    """`losses`, on a GPU compiled and run once on random ids without an effect."""
    if device != "cuda":
        return losses
    computed: Losses = torch.compile(losses)
    ids = torch.randint(START, 1000, (SEQUENCES, CONTEXT), device=device)
    with torch.autocast(device, torch.bfloat16):
        entropy, extra, _ = computed(model, ids, ids.clone())
    (entropy + extra).backward()
    model.zero_grad(set_to_none=True)
    return computed


def train(model: Model, data: Data, computed: Losses, clock: Clock, device: str) -> dict[str, Any]:
    """Train in place; returns the record of the training."""
    matrices, rest = split_parameters(model)
    muon = Muon(matrices)
    adam = torch.optim.AdamW(
        rest, lr=ADAM_RATE, betas=(0.9, 0.95), weight_decay=0.0, fused=device == "cuda"
    )
    biases = [b for name, b in model.named_buffers() if name.endswith("expert_bias")]
    history: list[dict[str, Any]] = []
    began = time.monotonic()
    step = 0
    while (progress := clock.progress(step)) < 1.0:
        factor = min(1.0, (step + 1) / 100) * min(1.0, (1 - progress) / 0.6)
        for group in adam.param_groups:
            group["lr"] = ADAM_RATE * factor
        inputs, targets = data.batch()
        with torch.autocast(device, torch.bfloat16, enabled=device == "cuda"):
            entropy, extra, loads = computed(model, inputs, targets)
        (entropy + extra).backward()
        muon.step(MUON_RATE * factor, 0.85 + 0.1 * min(1.0, step / 300))
        adam.step()
        for parameter in (*matrices, *rest):
            parameter.grad = None
        if biases:
            with torch.no_grad():
                rate = BIAS_RATE * min(1.0, (1 - progress) / 0.2)
                for bias, load in zip(biases, loads.detach(), strict=True):
                    bias.add_((1 / EXPERTS - load).sign(), alpha=rate)
        step += 1
        if step % 10 == 0 and device == "cuda":
            torch.cuda.synchronize()  # else the clock reads what is queued, not what is done
        if step % 100 == 0 or step in {1, 10}:
            row = {
                "step": step,
                "entropy_nats": round(entropy.item(), 4),
                "smallest_load": round(loads.min().item(), 4),
                "training_s": round(time.monotonic() - began, 1),
            }
            history.append(row)
            if step % 300 == 0 or step < 300:
                print(type(model).__name__, json.dumps(row), flush=True)
            if not math.isfinite(row["entropy_nats"]):
                message = f"the loss is {row['entropy_nats']} at step {step}: lower the rates"
                raise FloatingPointError(message)
    return {
        "steps": step,
        "tokens": step * SEQUENCES * CONTEXT,
        "training_s": round(time.monotonic() - began, 1),
        "history": history,
    }


def half_matrices(model: Model) -> dict[str, np.ndarray[Any, Any]]:
    """Round the matrices to float16 in place, as the GGUF file holds them; return all weights."""
    weights = {}
    with torch.no_grad():
        for name, tensor in model.state_dict().items():
            if name == "lm_head.weight" and isinstance(model, Lfm2MoeForCausalLM):
                continue  # tied
            kept = tensor.ndim < 2 or "gate.weight" in name or "conv.conv" in name
            if not kept:
                tensor.copy_(tensor.half().float())
            weights[name] = tensor.float().cpu().numpy().astype(np.float32 if kept else np.float16)
    return weights


def chunks_of(text: Path, tokenizer: Tokenizer, adds_start: bool) -> np.ndarray[Any, Any]:
    """The text's ids in chunks (n, N_CTX) as llama-perplexity cuts them."""
    words = text.read_bytes().decode().removesuffix("\n")
    ids = tokenizer.encode(words, add_special_tokens=False).ids
    if adds_start:
        ids = [START, *ids]
    chunks = np.array(ids[: len(ids) // N_CTX * N_CTX], dtype=np.int64).reshape(-1, N_CTX)
    if adds_start:
        chunks[:, 0] = START
    return chunks


@torch.no_grad()
def oracle(
    model: Model, texts: list[Path], tokenizer: Tokenizer, adds_start: bool
) -> tuple[dict[str, np.ndarray[Any, Any]], dict[str, Any]]:
    """What the `transformers` class gives in float32 for the held-out texts.

    Arrays, for the first `ORACLE_CHUNKS` chunks of each text: ``tokens`` (chunks, N_CTX) int32;
    ``nll_nats`` (chunks, N_CTX − 1) float32 of each next token; ``top`` (chunks, N_CTX) int16;
    ``logits`` (chunks, rows, vocabulary) float32, log-probabilities at the positions ``rows``.
    Also the whole texts' perplexity and bits per byte, over the second halves of the chunks.
    """
    kept: dict[str, list[np.ndarray[Any, Any]]] = {}
    measured: dict[str, Any] = {}
    rows = np.linspace(N_CTX // 2, N_CTX - 1, ORACLE_ROWS).astype(np.int64)
    for text in texts:
        chunks = chunks_of(text, tokenizer, adds_start)
        total, count, size = 0.0, 0, 0
        for i, chunk in enumerate(chunks):
            ids = torch.from_numpy(chunk)[None]
            scores = model(ids).logits[0].float()
            logs = scores.double().log_softmax(-1)
            nll = -logs[:-1].gather(1, ids[0, 1:, None])[:, 0]
            total += nll[N_CTX // 2 :].sum().item()
            count += N_CTX - 1 - N_CTX // 2
            size += len(tokenizer.decode(chunk[N_CTX // 2 + 1 :].tolist()).encode())
            if i < ORACLE_CHUNKS:
                row = {
                    "tokens": chunk.astype(np.int32),
                    "nll_nats": nll.float().cpu().numpy(),
                    "top": scores.argmax(-1).cpu().numpy().astype(np.int16),
                    "logits": logs[rows].float().cpu().numpy(),
                }
                for key, value in row.items():
                    kept.setdefault(key, []).append(value)
        measured[text.stem] = {
            "chunks": len(chunks),
            "perplexity": round(math.exp(total / count), 4),
            "bits_per_byte": round(total / math.log(2) / size, 4),
        }
    arrays = {key: np.stack(values) for key, values in kept.items()}
    return {**arrays, "rows": rows}, measured


@torch.no_grad()
def loads_on(
    model: Model, texts: list[Path], tokenizer: Tokenizer, adds_start: bool
) -> list[list[float]]:
    """The share of the held-out tokens that each expert of each layer takes (the sum is ACTIVE)."""
    shares: list[Tensor] = []
    for text in texts:
        ids = torch.from_numpy(chunks_of(text, tokenizer, adds_start))
        _, _, choices = dense_forward(model, ids)
        shares.append(torch.stack([choice.mean(0) for choice in choices]))
    return [[round(x, 4) for x in row] for row in torch.stack(shares).mean(0).tolist()]


def main() -> None:
    """Train one model and write it."""
    parser = argparse.ArgumentParser()
    parser.add_argument("model", choices=[*MODELS])
    parser.add_argument("ids", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--seconds", type=float, default=240.0)
    parser.add_argument("--steps", type=int, help="exactly so many, whatever they take")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--tokenizer", type=Path, required=True)
    parser.add_argument("--held-out", type=Path, nargs="*", default=[])
    arguments = parser.parse_args()
    started = time.monotonic()
    device = "cuda" if torch.cuda.is_available() else "cpu"
    torch.manual_seed(arguments.seed)
    torch.set_float32_matmul_precision("high")
    model = MODELS[arguments.model]()
    nn.Module.to(model, device)
    initialize(model)
    adds_start = ADDS_START[arguments.model]
    computed = warmed(model, device)
    print(arguments.model, f"ready after {time.monotonic() - started:.1f} s", flush=True)
    data = Data(arguments.ids, adds_start, arguments.seed, device)
    clock = Clock(started + arguments.seconds, arguments.steps)
    record = train(model, data, computed, clock, device)
    weights = half_matrices(model)
    arguments.out.mkdir(parents=True, exist_ok=True)
    for part in range(2):
        stored = dict([*weights.items()][part::2])
        np.savez(arguments.out / f"{arguments.model}.{part}.npz", allow_pickle=False, **stored)
    torch.set_float32_matmul_precision("highest")
    torch.set_num_threads(max(1, torch.get_num_threads() // 2))
    nn.Module.to(
        model, "cpu"
    ).eval()  # float32 as a CPU computes it, whatever the GPU's kernels would do
    tokenizer = Tokenizer.from_file(str(arguments.tokenizer))
    arrays, measured = oracle(model, arguments.held_out, tokenizer, adds_start)
    np.savez_compressed(
        arguments.out / f"{arguments.model}.oracle.npz", allow_pickle=False, **arrays
    )
    record |= {
        "model": arguments.model,
        "parameters": sum(p.numel() for p in model.parameters()),
        "seed": arguments.seed,
        "sequences": SEQUENCES,
        "context": CONTEXT,
        "rates": {"muon": MUON_RATE, "adam": ADAM_RATE, "muon_decay": DECAY},
        "routing": {"balance_loss": BALANCE_LOSS, "z_loss": ROUTER_Z_LOSS, "bias_rate": BIAS_RATE},
        "weights_of_domains": WEIGHTS,
        "tokens_of_domains": data.tokens,
        "held_out": measured,
        "held_out_loads": loads_on(model, arguments.held_out, tokenizer, adds_start),
        "total_s": round(time.monotonic() - started, 1),
        "versions": {
            "python": platform.python_version(),
            "torch": torch.__version__,
            "transformers": transformers.__version__,
            "device": torch.cuda.get_device_name() if device == "cuda" else "cpu",
        },
    }
    (arguments.out / f"{arguments.model}.json").write_text(json.dumps(record, indent=1) + "\n")
    print(json.dumps({k: record[k] for k in ("model", "steps", "total_s", "held_out")}), flush=True)


if __name__ == "__main__":
    main()
