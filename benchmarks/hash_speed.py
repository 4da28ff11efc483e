"""Times a model's hashing: its tensors in threads, against the file and its tensors one by one.

    python benchmarks/hash_speed.py MODEL.gguf

Wall and processor time of each, the second of two runs, so that the file is in the page cache as
far as it fits. One by one, a file is hashed as a whole and tensor by tensor, each byte three times,
as this package did at first.
"""

from __future__ import annotations

import argparse
import hashlib
import time
from collections.abc import Callable
from pathlib import Path

from pytest_quantgate.gguf.digests import digest_file
from pytest_quantgate.gguf.reader import read_gguf, read_tensor
from pytest_quantgate.storage.hashes import sample_sha256
from pytest_quantgate.storage.keys import file_sha256


def one_by_one(path: Path) -> None:
    """Hash a file, then all its tensors as one and each by itself."""
    file_sha256(path)
    whole = hashlib.sha256()
    for tensor in read_gguf(path).tensors:
        data = read_tensor(tensor)
        whole.update(data)
        hashlib.sha256(data).hexdigest()


def main() -> None:
    """Print a line a way."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", type=Path)
    path = parser.parse_args().model
    n_bytes = path.stat().st_size
    ways: dict[str, Callable[[], object]] = {
        "one by one": lambda: one_by_one(path),
        "1 thread": lambda: digest_file(path, 1),
        "all threads": lambda: digest_file(path),
        "sample only": lambda: sample_sha256(path),
    }
    for name, work in ways.items():
        work()
        began_s, began_cpu_s = time.perf_counter(), time.process_time()
        work()
        took_s, cpu_s = time.perf_counter() - began_s, time.process_time() - began_cpu_s
        print(f"{name}: {took_s:.3f} s, {n_bytes / took_s / 1e9:.2f} GB/s; processor {cpu_s:.3f} s")


if __name__ == "__main__":
    main()
