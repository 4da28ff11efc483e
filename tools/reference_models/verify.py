"""Check a reference model's GGUF file in llama.cpp against what it is meant to be.

``python verify.py MODEL.gguf ORACLE.npz TEXT…`` prints a JSON record and exits 1 when a demand is
not met: at most 2.6 bits per byte over the texts together, every expert of every layer takes at
least 2 % of the tokens, routing at random raises perplexity by half or more, and llama.cpp's
logits agree with the stored ones of `transformers` in float32 (mean KLD at most 1e-4 on the stored
rows). ``--tokenizer FILE`` also demands that llama.cpp's token ids equal those of the tokenizer.

Perplexity is llama-perplexity's: chunks of 512, second halves scored, one chunk a batch. Routing
at random is the same file with normally distributed router weights of the same size.
"""

from __future__ import annotations

import argparse
import ctypes
import json
import math
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import llama_cpp
import numpy as np
from gguf import GGUFReader
from tokenizers import Tokenizer

N_CTX = 512
LARGEST_BITS_PER_BYTE = 2.6
SMALLEST_SHARE = 0.02
SMALLEST_RANDOM_RATIO = 1.5
LARGEST_MEAN_KLD_NATS = 1e-4
SEED = 3

Array = np.ndarray[Any, Any]
C = llama_cpp.llama_cpp


class Loaded:
    """A model in llama.cpp, and the experts that it chose since `choices` was last cleared."""

    def __init__(self, path: Path, *, float32_cache: bool = False) -> None:
        C.llama_backend_init()
        C.llama_log_set(_quiet, ctypes.c_void_p(0))
        parameters = C.llama_model_default_params()
        parameters.n_gpu_layers = 0
        self.model = C.llama_model_load_from_file(str(path).encode(), parameters)
        if not self.model:
            message = f"llama.cpp can't load {path}"
            raise ValueError(message)
        self.vocab = C.llama_model_get_vocab(self.model)
        self.n_vocab = C.llama_vocab_n_tokens(self.vocab)
        self.choices: dict[str, list[Array]] = {}
        context = C.llama_context_default_params()
        context.n_ctx = context.n_batch = context.n_ubatch = N_CTX
        context.n_threads = context.n_threads_batch = 1
        context.flash_attn_type = 0
        if float32_cache:
            context.type_k = context.type_v = 0
        self._callback = context.cb_eval = C.ggml_backend_sched_eval_callback(self._seen)
        self.context = C.llama_init_from_model(self.model, context)

    def _seen(self, node: int, ask: bool, _data: object) -> bool:
        name = BASE.ggml_get_name(node).decode()
        wanted = name.startswith("ffn_moe_argsort")
        if ask or not wanted:
            return wanted if ask else True
        experts, tokens = BASE.ggml_nelements(node) // BASE.ggml_nrows(node), BASE.ggml_nrows(node)
        ids = np.empty((tokens, experts), dtype=np.int32)
        BASE.ggml_backend_tensor_get(node, ids.ctypes.data, 0, ids.nbytes)
        self.choices.setdefault(name, []).append(ids)
        return True

    def tokens(self, text: bytes) -> Array:
        """The ids of a text, special tokens of the model added."""
        room = len(text) + 8
        buffer = (ctypes.c_int32 * room)()
        count = C.llama_tokenize(self.vocab, text, len(text), buffer, room, True, False)
        return np.array(buffer[:count], dtype=np.int32)

    def logits(self, chunk: Array) -> Array:
        """The logits (tokens, vocabulary) float32 of one chunk."""
        C.llama_memory_clear(C.llama_get_memory(self.context), True)
        batch = C.llama_batch_init(len(chunk), 0, 1)
        batch.n_tokens = len(chunk)
        for i, token in enumerate(chunk):
            batch.token[i], batch.pos[i] = int(token), i
            batch.n_seq_id[i], batch.seq_id[i][0], batch.logits[i] = 1, 0, True
        status = C.llama_decode(self.context, batch)
        if status != 0:
            message = f"llama_decode returned {status}"
            raise RuntimeError(message)
        out = np.ctypeslib.as_array(
            C.llama_get_logits(self.context), shape=(len(chunk), self.n_vocab)
        ).copy()
        C.llama_batch_free(batch)
        return out

    def chunks(self, text: bytes) -> Array:
        """The text's chunks (n, N_CTX) as llama-perplexity cuts them."""
        ids = self.tokens(text.removesuffix(b"\n"))
        chunks = ids[: len(ids) // N_CTX * N_CTX].reshape(-1, N_CTX).copy()
        if C.llama_vocab_get_add_bos(self.vocab):
            chunks[:, 0] = C.llama_vocab_bos(self.vocab)
        return chunks


@C.llama_log_callback
def _quiet(_level: int, _text: bytes, _data: object) -> None:
    """Say nothing."""


def _base_library() -> ctypes.CDLL:
    """``libggml-base`` with the signatures used here."""
    folder = Path(llama_cpp.__file__).parent / "lib"
    library = ctypes.CDLL(str(next(folder.glob("*ggml-base*"))))
    library.ggml_get_name.restype = ctypes.c_char_p
    library.ggml_get_name.argtypes = [ctypes.c_void_p]
    for name in ("ggml_nelements", "ggml_nrows"):
        getattr(library, name).restype = ctypes.c_int64
        getattr(library, name).argtypes = [ctypes.c_void_p]
    library.ggml_backend_tensor_get.argtypes = [
        ctypes.c_void_p, ctypes.c_void_p, ctypes.c_size_t, ctypes.c_size_t
    ]  # fmt: skip
    return library


BASE = _base_library()


def log_softmax(logits: Array) -> Array:
    """Log-probabilities in float64."""
    wide = logits.astype(np.float64)
    wide -= wide.max(-1, keepdims=True)
    return np.asarray(wide - np.log(np.exp(wide).sum(-1, keepdims=True)))


def piece_bytes(loaded: Loaded) -> Array:
    """The number of bytes of each token."""
    buffer = ctypes.create_string_buffer(512)
    return np.array(
        [
            max(0, C.llama_token_to_piece(loaded.vocab, token, buffer, 512, 0, False))
            for token in range(loaded.n_vocab)
        ]
    )


def perplexity(loaded: Loaded, texts: list[Path]) -> dict[str, dict[str, float]]:
    """Chunks, perplexity and bits per byte of each text, and of all of them together."""
    sizes = piece_bytes(loaded)
    out, sums = {}, np.zeros(4)
    for text in texts:
        total, count, length = 0.0, 0, 0
        chunks = loaded.chunks(text.read_bytes())
        for chunk in chunks:
            logs = log_softmax(loaded.logits(chunk)[N_CTX // 2 : -1])
            targets = chunk[N_CTX // 2 + 1 :]
            total -= float(logs[np.arange(len(targets)), targets].sum())
            count += len(targets)
            length += int(sizes[targets].sum())
        out[text.stem] = summed(len(chunks), total, count, length)
        sums += (len(chunks), total, count, length)
    return {**out, "all": summed(int(sums[0]), *sums[1:])}


def summed(chunks: int, total: float, count: float, length: float) -> dict[str, float]:
    """A perplexity with its bits per byte."""
    return {
        "chunks": chunks,
        "perplexity": round(math.exp(float(total) / float(count)), 4),
        "bits_per_byte": round(float(total) / math.log(2) / float(length), 4),
    }


def randomly_routed(path: Path, out: Path) -> None:
    """Copy the file with random router weights of the same standard deviation."""
    shutil.copy(path, out)
    reader = GGUFReader(out, "r+")
    rng = np.random.default_rng(SEED)
    for tensor in reader.tensors:
        if "ffn_gate_inp" in tensor.name:
            scale = float(tensor.data.std())
            tensor.data[:] = rng.normal(0, scale, tensor.data.shape).astype(np.float32)
    reader.data.flush()


def agreement(loaded: Loaded, oracle: Path) -> dict[str, float]:
    """How llama.cpp's logits compare with the stored ones."""
    with np.load(oracle) as stored:
        tokens, rows = stored["tokens"], stored["rows"]
        nll, top, logits = stored["nll_nats"], stored["top"], stored["logits"]
    klds, differences, same = [], [], []
    for chunk, expected_nll, expected_top, expected in zip(tokens, nll, top, logits, strict=True):
        got = log_softmax(loaded.logits(chunk))
        base = log_softmax(expected)
        klds += ((np.exp(base) * (base - got[rows])).sum(-1)).tolist()
        differences.append(-got[np.arange(N_CTX - 1), chunk[1:]] - expected_nll)
        same.append(got.argmax(-1) == expected_top)
    difference = np.concatenate(differences)
    return {
        "rows": len(klds),
        "mean_kld_nats": float(np.mean(klds)),
        "max_kld_nats": float(np.max(klds)),
        "tokens": int(difference.size),
        "mean_nll_difference_nats": float(difference.mean()),
        "rms_nll_difference_nats": float(np.sqrt((difference**2).mean())),
        "max_nll_difference_nats": float(np.abs(difference).max()),
        "same_top": float(np.mean(same)),
    }


def agreement_everywhere(
    loaded: Loaded, architecture: str, weights: Path, texts: list[Path]
) -> dict[str, float]:
    """Compare with `transformers` in float32, computed here and now.

    ``mean_kld_nats`` is over the positions that llama-perplexity scores (the second halves).
    """
    chunks = np.concatenate([loaded.chunks(text.read_bytes()) for text in texts])
    klds: list[Array] = []
    with tempfile.TemporaryDirectory() as folder:
        ids, logits = Path(folder) / "ids.npy", Path(folder) / "logits.npy"
        np.save(ids, chunks)
        program = Path(__file__).with_name("expected.py")
        subprocess.run([sys.executable, program, architecture, weights, ids, logits], check=True)
        for chunk, expected in zip(chunks, np.load(logits, mmap_mode="r"), strict=True):
            base, got = log_softmax(expected), log_softmax(loaded.logits(chunk))
            klds.append((np.exp(base) * (base - got)).sum(-1))
    every = np.stack(klds)
    return {
        "rows": every.size,
        "mean_kld_nats": float(every[:, N_CTX // 2 : -1].mean()),
        "every_position_mean_kld_nats": float(every.mean()),
        "every_position_median_kld_nats": float(np.median(every)),
        "every_position_share_above_0.001": float((every > 1e-3).mean()),
        "every_position_max_kld_nats": float(every.max()),
    }


def main() -> None:
    """Measure, print, judge."""
    parser = argparse.ArgumentParser()
    parser.add_argument("model", type=Path)
    parser.add_argument("oracle", type=Path)
    parser.add_argument("texts", type=Path, nargs="+")
    parser.add_argument("--tokenizer", type=Path)
    parser.add_argument("--weights", type=Path, help="train.py's folder: compare every position")
    parser.add_argument("--float32-cache", action="store_true", help="keys and values as float32")
    parser.add_argument("--active", type=int, default=2)
    arguments = parser.parse_args()
    loaded = Loaded(arguments.model, float32_cache=arguments.float32_cache)
    record: dict[str, Any] = {"llama_cpp_python": llama_cpp.__version__}
    record["agreement"] = agreement(loaded, arguments.oracle)
    loaded.choices.clear()
    record["held_out"] = perplexity(loaded, arguments.texts)
    shares = {}
    for name, ids in loaded.choices.items():
        chosen = np.concatenate(ids)[:, : arguments.active]
        experts = np.bincount(chosen.ravel(), minlength=ids[0].shape[1]) / len(chosen)
        shares[name.removeprefix("ffn_moe_argsort-")] = [round(x, 4) for x in experts.tolist()]
    record["expert_shares"] = shares
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "random.gguf"
        randomly_routed(arguments.model, path)
        scrambled = perplexity(Loaded(path), arguments.texts)["all"]
    ratio = scrambled["perplexity"] / record["held_out"]["all"]["perplexity"]
    record["random_routing"] = {**scrambled, "perplexity_ratio": round(ratio, 4)}
    if arguments.weights:
        architecture = arguments.model.name.partition("-")[0]
        record["agreement_everywhere"] = agreement_everywhere(
            loaded, architecture, arguments.weights, arguments.texts
        )
    met: dict[str, bool] = {
        "bits_per_byte": record["held_out"]["all"]["bits_per_byte"] <= LARGEST_BITS_PER_BYTE,
        "shares": min(map(min, shares.values()), default=0.0) >= SMALLEST_SHARE,
        "random_routing": ratio >= SMALLEST_RANDOM_RATIO,
        "agreement": all(
            record[name]["mean_kld_nats"] <= LARGEST_MEAN_KLD_NATS
            for name in ("agreement", "agreement_everywhere")
            if name in record
        ),
    }
    if arguments.tokenizer:
        tokenizer = Tokenizer.from_file(str(arguments.tokenizer))
        adds = int(C.llama_vocab_get_add_bos(loaded.vocab))
        met["token_ids"] = all(
            loaded.tokens(text.read_bytes()).tolist()[adds:]
            == tokenizer.encode(text.read_bytes().decode(), add_special_tokens=False).ids
            for text in arguments.texts
        )
    record["met"] = met
    print(json.dumps(record, indent=1))
    sys.exit(0 if all(met.values()) else 1)


if __name__ == "__main__":
    main()
