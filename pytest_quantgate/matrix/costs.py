"""What a cell takes, estimated from its model's header and the profile alone."""

from __future__ import annotations

from collections.abc import Sequence

from pytest_quantgate.artifacts.models import Model
from pytest_quantgate.config.schema import ProfileSettings
from pytest_quantgate.gguf.formats import Format
from pytest_quantgate.gguf.reader import GgufFile
from pytest_quantgate.stats import MIN_PROCESSES

# A core of 2020 to 2025 decodes batches of 512 at some 40 to 80 GFLOP/s in llama.cpp.
_FLOPS_PER_THREAD = 5e10
_BYTES_PER_S = 1e10  # what decoding reads of the weights: a desktop's memory has 20 to 60 GB/s
_PROCESS_S = 1.0  # to start, import and map a file

SIZE_S = 0.2
"""To plan the file of a shape, which is not made."""

_LOAD_S = 0.5  # to load, hash, judge and store a cell, however small
_QUANTIZED_BYTES_PER_S = 4e7
_WRITTEN_BYTES_PER_S = 2e8  # written, and hashed

_NOMINAL_THREADS = 8


def active_parameters(header: GgufFile) -> float:
    """Return the weights that one token uses: of the experts only the chosen ones."""
    experts = header.hyperparameter("expert_count")
    used = header.hyperparameter("expert_used_count")
    share = used / experts if experts and used else 1.0
    return sum(
        tensor.n_elements * (share if "_exps." in tensor.name else 1.0) for tensor in header.tensors
    )


def file_size(model: Model, target: Format) -> int:
    """Return the bytes of a model's file in a format: nominal bits where it is to be made."""
    if model.source is None:
        return model.files[target.name].n_bytes
    return int(model.source.n_parameters * target.nominal_bits_per_weight / 8)


def made_bytes(model: Model, target: Format) -> int:
    """Return the bytes that are written for a cell's file; 0 for one that exists."""
    header = model.source
    if header is None:
        return 0
    is_source = target.is_full_precision and target.name == header.main_type()
    return 0 if is_source and model.shape is None else file_size(model, target)


def making_seconds(model: Model, target: Format) -> float:
    """Estimate how long a cell's file takes to make; of a shape a few rows are quantized."""
    rate = _QUANTIZED_BYTES_PER_S if model.shape is None else _WRITTEN_BYTES_PER_S
    return made_bytes(model, target) / rate


def computing_seconds(header: GgufFile, n_tokens: float, n_threads: int) -> float:
    """Estimate how long tokens take to decode: two operations a weight and token."""
    return 2 * active_parameters(header) * n_tokens / (_FLOPS_PER_THREAD * n_threads)


def scoring_seconds(header: GgufFile, n_tokens: float, n_threads: int) -> float:
    """Estimate one pass over a text, loading included."""
    return _LOAD_S + computing_seconds(header, n_tokens, n_threads)


def speed_seconds(
    header: GgufFile, sides: Sequence[Format], profile: ProfileSettings, n_threads: int
) -> float:
    """Estimate the first look at a cell's speed: fresh processes of it and of the other side."""
    runs = profile.speed_repetitions + 2  # two warm-ups at least
    prompt = runs * profile.speed_prefill_tokens + 2 * profile.speed_depth
    decoded, weights = runs * profile.speed_decode_tokens, active_parameters(header)
    seconds_s = 0.0
    for side in sides:
        token_bytes = weights * side.nominal_bits_per_weight / 8
        seconds_s += computing_seconds(header, prompt, n_threads)
        seconds_s += decoded * token_bytes / _BYTES_PER_S + _PROCESS_S
    return MIN_PROCESSES * seconds_s


def nominal_seconds(
    model: Model, target: Format, reference: Format, profile: ProfileSettings, n_ctx: int
) -> float:
    """Estimate a cell as every machine does: the whole budget of chunks, on as many threads."""
    n_threads = profile.n_threads or _NOMINAL_THREADS
    if model.shape is not None and not (profile.speed or profile.memory):
        return SIZE_S
    if model.source is None and target.name not in model.files:
        return _LOAD_S
    header = model.any_file
    seconds_s = making_seconds(model, target)
    if model.shape is None:
        passes = 1 if profile.against is None else 2
        n_tokens = profile.chunks * n_ctx
        seconds_s += passes * scoring_seconds(header, n_tokens, n_threads)
    if profile.speed:
        seconds_s += speed_seconds(header, (target, reference), profile, n_threads)
    return seconds_s
