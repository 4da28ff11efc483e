"""Writes programs that answer as llama.cpp's do, and fail on demand.

Every byte is a token and a chunk's figures depend on its number alone, so no test of a real figure
uses them. ``faults.json`` beside the programs maps a program's name to a fault.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

SCRIPT = r"""
import json, math, os, shutil, signal, struct, subprocess, sys, time
from pathlib import Path

here, name, arguments = Path(__file__).parent, Path(__file__).name, sys.argv[1:]
fault = json.loads((here / "faults.json").read_text()).get(name, "")
with (here / "calls.jsonl").open("a") as stream:
    stream.write(json.dumps([name, *arguments, os.environ.get("LLAMA_ARG_THREADS")]) + "\n")
n_calls = sum(json.loads(line)[0] == name for line in (here / "calls.jsonl").open())


def value(*names, default=None):
    for option in names:
        if option in arguments:
            return arguments[arguments.index(option) + 1]
    return default


def say(text):
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


def warn(text):
    sys.stderr.write(text + "\n")
    sys.stderr.flush()


def tokens_of(path, strip):
    data = Path(path).read_bytes()
    if strip and data.endswith(b"\n"):
        data = data[:-1]
    adds_bos = (here / "bos").exists() and "--no-bos" not in arguments
    return [*([7] if adds_bos else []), *data]


if "--version" in arguments:
    warn("version: 9999 (abcdef0)" if fault != "stranger" else "GNU coreutils 9.1")
    warn("built with nothing for nowhere")
    sys.exit(0)
if "--help" in arguments:
    say("options:\n  --repack <0|1>" if fault != "old" else "options:")
    sys.exit(0)
if "--list-devices" in arguments:
    say("Available devices:\n  CUDA0: A card (80000 MiB, 79000 MiB free)\n  CUDA1: Another")
    sys.exit(0)
warn("warning: no usable GPU found, --gpu-layers option will be ignored")
is_small = "olmoe-mini.gguf" in (value("-m") or "")
if not is_small:
    if fault == "garbage":
        say("\x00\xff 1 2 3 nonsense\n" * 3)
        sys.exit(0)
    if fault == "hang":
        warn("loading")
        child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
        (here / "child.pid").write_text(str(child.pid))
        time.sleep(600)
    if fault == "abort":
        warn("GGML_ASSERT(everything) failed")
        os.kill(os.getpid(), signal.SIGABRT)
    if fault == "refuse":
        warn("0.00.1 E llama_model_load: error loading model: unknown model architecture: 'x'")
        warn("0.00.1 E llama_model_load_from_file_impl: failed to load model")
        sys.exit(1)
    if fault == "endless":
        while True:
            say("again and again " * 64)

if name == "llama-tokenize":
    tokens = tokens_of(value("-f"), strip=False)
    for token in tokens:
        is_bos = token == 7
        sys.stdout.buffer.write(b"%6d -> '" % token + (b"<s>" if is_bos else bytes([token])))
        sys.stdout.buffer.write(b"'\n")
    sys.stdout.buffer.flush()
    if fault != "torn":
        say(f"Total number of tokens: {len(tokens)}")
    sys.exit(0)

if name == "llama-bench":
    warn("llama-bench: benchmark 1/2: prompt run 1/2")
    warn("llama-bench: benchmark 2/2: generation run 2/2")
    (here / "wait_policy").write_text(str(os.environ.get("OMP_WAIT_POLICY")))
    prompt, decoded, runs = int(value("-p")), int(value("-n")), int(value("-r"))
    tests = [
        {"n_prompt": prompt, "n_gen": 0, "samples_ns": [1000 * prompt] * runs, "new_field": None},
        {"n_prompt": 0, "n_gen": decoded, "samples_ns": [5000 * decoded] * runs},
    ]
    say(json.dumps(tests[:1] if fault == "half" else tests))
    sys.exit(0)

if name == "llama-quantize":
    source, destination = arguments[-4:-2]
    for number in (1, 2):
        say(f"[{number:4d}/{2:4d}] a.weight - [256, 256], type = f16, converting to q8_0 ..")
    if fault == "no file":
        say("llama_quantize: quantize time = 1.00 ms")
        sys.exit(0)
    if fault == "invalid":
        warn("llama_quantize: invalid ftype '777'")
        sys.exit(1)
    shutil.copyfile(source, destination)
    if fault != "silent":
        say("\nllama_quantize: quantize time =     1.00 ms")
    sys.exit(0)

if name == "llama-imatrix":
    import gguf
    import numpy

    writer = gguf.GGUFWriter(value("-o"), arch="")
    writer.add_type(gguf.GGUFType.IMATRIX)
    n_chunks = int(value("--chunks")) - (fault == "part")
    writer.add_uint32(gguf.Keys.IMatrix.CHUNK_COUNT, n_chunks)
    sums = numpy.arange(6, dtype=numpy.float32).reshape(2, 3)
    writer.add_tensor("blk.0.ffn_up_exps.weight.in_sum2", sums)
    counts = numpy.array([[5], [9]], dtype=numpy.float32)
    writer.add_tensor("blk.0.ffn_up_exps.weight.counts", counts)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    sys.exit(0)

n_ctx, n_vocab = int(value("-c")), 256
per_chunk = n_ctx - 1 - n_ctx // 2
nll = lambda i: 2.5 + 0.25 * math.sin(3 * i)
kld = lambda i: 0.05 + 0.01 * math.cos(i)
same = lambda i: per_chunk - 1 - i % 3
warn("0.00.1 I system_info: n_threads = 1 (n_threads_batch = 1) / 2 | CPU : FAKE = 1 | ")
if fault == "decode":
    warn("0.00.1 I perplexity : failed to decode")
    sys.exit(0)
base = value("--kl-divergence-base")
paired = "--kl-divergence" in arguments
if paired:
    header = Path(base).read_bytes()[:20]
    n_chunks = struct.unpack("<8siii", header)[3]
else:
    tokens = tokens_of(value("-f"), strip=True)
    n_chunks = min(int(value("--chunks")), len(tokens) // n_ctx)
    if fault == "other tokens":
        tokens = [token ^ 1 for token in tokens]
    if base:
        rows = n_chunks * per_chunk * 2 * (n_vocab + 4)
        with Path(base).open("wb") as stream:
            stream.write(struct.pack("<8siii", b"_logits_", n_ctx, n_vocab, n_chunks))
            stream.write(struct.pack(f"<{n_chunks * n_ctx}i", *tokens[: n_chunks * n_ctx]))
            stream.write(b"\0" * (rows - 2 if fault == "disk full" else rows))
sys.stderr.write("0.00.1 I perplexity: 0.01 seconds per pass - ETA ")
sys.stderr.flush()
say("0.00 minutes")
mean = lambda f, i: sum(f(k) for k in range(i + 1)) / (i + 1)
ends_early = fault == "no end" or (fault == "no end once" and not (here / "ended").exists())
if fault == "no end once" and not is_small:
    (here / "ended").write_text("")
last = n_chunks - (1 if ends_early and not is_small else 0)
for i in range(last):
    average = math.nan if fault == "nan" and i == n_chunks - 1 else mean(nll, i)
    if paired:
        say(f"{i + 1:4d}    {math.exp(average):9.4f} ±    1.0000       0.01000 ±    0.00100"
            f"    {mean(kld, i):10.5f} ±    0.00100     1.000 ±  0.100 %"
            f"    {100 * mean(same, i) / per_chunk:6.3f} ±  0.100 %")
    else:
        say(f"{i * n_ctx:8d}  {math.exp(average):.4f}  {average:.6f}  0.100000")
if ends_early and not is_small:
    sys.exit(0)
if paired and n_chunks * per_chunk >= 100:
    i = n_chunks - 1
    say("\n====== Perplexity statistics ======")
    say(f"Mean PPL(Q)                   : {math.exp(mean(nll, i)):10.6f} ±   1.000000")
    say("Mean PPL(base)                :  12.000000 ±   1.000000")
    say("Cor(ln(PPL(Q)), ln(PPL(base))):  99.30%")
    say("Mean PPL(Q)-PPL(base)         :   0.500000 ±   0.100000")
    say("\n====== KL divergence statistics ======")
    say(f"Mean    KLD: {mean(kld, i):10.6f} ±   0.001000")
    say("Maximum KLD:   0.900000\n99.9%   KLD:   0.850000\n99.0%   KLD:   0.430000")
    say("95.0%   KLD:   0.170000\n90.0%   KLD:   0.120000\nMedian  KLD:   0.040000")
    say("10.0%   KLD:   0.002000\n 5.0%   KLD:   0.000400\n 1.0%   KLD:   0.000100")
    say(" 0.1%   KLD:   0.000003\nMinimum KLD:  -0.000001")
    say("\n====== Token probability statistics ======")
    say("Mean    Δp: -0.740 ± 0.287 %\nMaximum Δp: 33.585%\n99.9%   Δp: 29.540%")
    say("75.0%   Δp:  0.471%\nMedian  Δp: -0.015%\n25.0%   Δp: -1.152%\nMinimum Δp: -59.034%")
    say("RMS Δp    :  6.526 ± 0.701 %")
    say(f"Same top p: {100 * mean(same, i) / per_chunk:6.3f} ± 0.100 %")
elif not paired:
    if fault == "nan":
        warn("0.00.1 E Unexpected negative standard deviation of log(prob)")
    else:
        warn(f"\n0.00.1 I Final estimate: PPL = {math.exp(mean(nll, n_chunks - 1)):.4f} +/- 1.0")
"""

NAMES = (
    "llama-perplexity",
    "llama-quantize",
    "llama-tokenize",
    "llama-imatrix",
    "llama-bench",
)


def write_programs(folder: Path, **faults: str) -> Path:
    """Write the programs; a fault's name has ``_`` where the program's has ``-``."""
    folder.mkdir(parents=True, exist_ok=True)
    for name in NAMES:
        path = folder / name
        path.write_text(f"#!{sys.executable}\n{SCRIPT}", encoding="utf-8")
        path.chmod(0o755)
    set_faults(folder, **faults)
    return folder


def set_faults(folder: Path, **faults: str) -> None:
    """Change the faults."""
    named = {name.replace("_", "-"): fault for name, fault in faults.items()}
    (folder / "faults.json").write_text(json.dumps(named))


def calls(folder: Path, name: str) -> list[list[str]]:
    """Return the arguments of each call of a program so far."""
    path = folder / "calls.jsonl"
    lines = path.read_text().splitlines() if path.exists() else []
    return [call[1:] for call in map(json.loads, lines) if call[0] == name]
