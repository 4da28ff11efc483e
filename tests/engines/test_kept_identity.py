"""An engine's identity is kept by all that makes it."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import pytest

from pytest_quantgate.engines import kept_identity
from pytest_quantgate.engines.kept_identity import identity_key, keep_identity, read_identity
from pytest_quantgate.engines.llama_cpp_python import LlamaCppPython
from pytest_quantgate.engines.messages import Identity

pytestmark = pytest.mark.skipif(identity_key() is None, reason="kept on Linux alone")


def test_a_second_engine_starts_no_process(tmp_path: Path) -> None:
    """What the first one said is read."""
    first = LlamaCppPython(python=None, log=tmp_path / "1", stall_s=60, identities=tmp_path)
    try:
        identity = first.identity()
    finally:
        first.close()
    second = LlamaCppPython(python=None, log=tmp_path / "2", stall_s=60, identities=tmp_path)
    assert second.identity() == identity
    assert not (tmp_path / "2").exists()


def test_the_environment_and_the_libraries_are_in_the_key(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another variable, other libraries, a changed library: another key each."""
    keys = [identity_key()]
    monkeypatch.setenv("GGML_CPU_TILED_MM", "0")
    keys.append(identity_key())
    (tmp_path / "libllama.so").write_bytes(b"one")
    monkeypatch.setenv("LLAMA_CPP_LIB_PATH", str(tmp_path))
    keys.append(identity_key())
    (tmp_path / "libllama.so").write_bytes(b"two")
    os.utime(tmp_path / "libllama.so", ns=(1, 1))
    keys.append(identity_key())
    monkeypatch.setattr(kept_identity, "_nvidia_gpus", lambda: ["another driver"])
    keys.append(identity_key())
    assert None not in keys
    assert len(set(keys)) == len(keys)


def test_devices_of_which_the_key_says_nothing_are_not_kept(tmp_path: Path) -> None:
    """A build for Vulkan is asked anew each time; what is damaged is not believed."""
    identity = Identity(
        kind="llama-cpp-python",
        version="1",
        llama_cpp_version="1",
        python_version="3",
        platform="linux",
        cpu_name="cpu",
        system_info="",
        library_sha256="",
        quantizer_sha256="",
        devices=("CPU", "Vulkan0"),
    )
    keep_identity(tmp_path, "key", identity)
    assert read_identity(tmp_path, "key") is None
    keep_identity(tmp_path, "key", replace(identity, devices=("CPU",)))
    assert read_identity(tmp_path, "key") == replace(identity, devices=("CPU",))
    (tmp_path / "key.json").write_text('{"kind": "?"}')
    assert read_identity(tmp_path, "key") is None
