"""What this host is; runs in a worker too, on the standard library alone."""

from __future__ import annotations

import hashlib
import os
import platform
from collections.abc import Sequence
from pathlib import Path


def cpu_name() -> str:
    """Return the processor's name, as the operating system knows it."""
    try:
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


VARIABLES = (
    "GGML_",
    "LLAMA_",
    "CUDA_",
    "HIP_",
    "ROCR_",
    "VK_",
    "SYCL_",
    "ZE_",
    "OMP_",
    "OPENBLAS_",
)
"""How the names of variables begin that may choose kernels."""

_ELSEWHERE = frozenset({"GGML_NO_BACKTRACE", "LLAMA_CPP_LIB_PATH"})  # no kernel's, or hashed itself


def nvidia_driver() -> str:
    """Return the version of NVIDIA's driver, as Linux has it; "" elsewhere and without one."""
    try:
        text = Path("/proc/driver/nvidia/version").read_text(encoding="utf-8")
    except OSError:
        return ""
    return text.splitlines()[0].partition(":")[2].strip()


def hash_surroundings(devices: Sequence[str] = ()) -> str:
    """Hash what may choose kernels beside the libraries: the environment, GPUs and driver."""
    variables = sorted(
        f"{name}={value}"
        for name, value in os.environ.items()
        if name.startswith(VARIABLES) and name not in _ELSEWHERE
    )
    text = "\n".join([*variables, *devices, nvidia_driver()])
    return hashlib.sha256(text.encode()).hexdigest()
