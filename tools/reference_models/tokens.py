"""Train the reference models' tokenizer, and turn the corpus into token ids.

``python tokens.py tokenizer CORPUS.jsonl tokenizer.json`` trains a byte-level BPE with Qwen2's
pre-tokenization (single digits, which arithmetic wants), which llama.cpp knows as the pre-type
``qwen2``; ``python tokens.py ids CORPUS.jsonl.bz2 tokenizer.json FOLDER`` writes ``DOMAIN.npy``
(uint16) for every domain: the documents in a seeded order, each ended by `END`.
"""

from __future__ import annotations

import argparse
import bz2
import json
import os
import random
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers

VOCABULARY = 4096
SPECIALS = ("<|pad|>", "<|startoftext|>", "<|endoftext|>")
PAD, START, END = range(3)
PRE_TYPE = "qwen2"
SPLIT = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)
SEED = 20_260_101


def documents(corpus: Path) -> Iterator[tuple[str, str]]:
    """Domain and text of each document, under its title as WikiText writes one."""
    packed = corpus.suffix == ".bz2"
    with bz2.open(corpus, "rt") if packed else corpus.open(encoding="utf-8") as lines:
        for line in lines:
            record = json.loads(line)
            title = f"\n = {record['title']} = \n\n" if record["title"] else "\n"
            yield record["domain"], f"{title}{record['text']}\n"


def train_tokenizer(corpus: Path, weights: dict[str, float]) -> Tokenizer:
    """A tokenizer from at most 12 MB of each domain, scaled by the domain's weight."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(SPLIT), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=list(SPECIALS),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    largest = max(weights.values())
    used = dict.fromkeys(weights, 0)

    def sample() -> Iterator[str]:
        rng = random.Random(SEED)
        for domain, text in documents(corpus):
            share = weights[domain] / largest
            if used[domain] < 12_000_000 * share and rng.random() < 0.5:
                used[domain] += len(text)
                yield text

    tokenizer.train_from_iterator(sample(), trainer)
    return tokenizer


def encode_all(job: tuple[Path, list[str]]) -> np.ndarray[Any, Any]:
    """The ids (uint16) of some documents, each ended by `END`."""
    tokenizer = Tokenizer.from_file(str(job[0]))
    encoded = tokenizer.encode_batch_fast(job[1], add_special_tokens=False)
    return np.concatenate([np.array([*one.ids, END], dtype=np.uint16) for one in encoded])


def write_ids(corpus: Path, tokenizer: Path, folder: Path) -> None:
    """Write the ids of each domain, and ``sizes.json`` last: documents, bytes and tokens."""
    folder.mkdir(parents=True, exist_ok=True)
    by_domain: dict[str, list[str]] = {}
    for domain, text in documents(corpus):
        by_domain.setdefault(domain, []).append(text)
    sizes = {}
    with ProcessPoolExecutor(max(1, (os.cpu_count() or 1) - 2)) as pool:
        jobs = {}
        for domain, texts in by_domain.items():
            random.Random(SEED).shuffle(texts)
            parts = [(tokenizer, texts[i : i + 100]) for i in range(0, len(texts), 100)]
            jobs[domain] = pool.map(encode_all, parts)
        for domain, texts in by_domain.items():
            ids = np.concatenate([*jobs[domain]])
            np.save(folder / f"{domain}.npy", ids)
            size = sum(len(text.encode()) for text in texts)
            sizes[domain] = {"documents": len(texts), "bytes": size, "tokens": len(ids)}
    partial = folder / "sizes.partial"
    partial.write_text(json.dumps(sizes, indent=1) + "\n")
    partial.replace(folder / "sizes.json")


def main() -> None:
    """Run one of the two steps."""
    parser = argparse.ArgumentParser()
    parser.add_argument("step", choices=["tokenizer", "ids"])
    parser.add_argument("corpus", type=Path)
    parser.add_argument("tokenizer", type=Path)
    parser.add_argument("folder", type=Path, nargs="?")
    arguments = parser.parse_args()
    if arguments.step == "tokenizer":
        from train import WEIGHTS  # noqa: PLC0415  (torch is heavy; only the weights are wanted)

        train_tokenizer(arguments.corpus, WEIGHTS).save(str(arguments.tokenizer))
    else:
        write_ids(arguments.corpus, arguments.tokenizer, arguments.folder)


if __name__ == "__main__":
    main()
