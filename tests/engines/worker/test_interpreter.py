"""An interpreter that cannot carry a worker is told in one line, within its deadline."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from pytest_quantgate.engines.llama_cpp_python import LlamaCppPython
from pytest_quantgate.engines.messages import Identify
from pytest_quantgate.engines.worker.loading import elf_machine
from pytest_quantgate.errors import CellTimeout, CellUnavailable
from tests.engines.worker.interpreters import (
    ENGINE,
    NUMPY,
    add_module,
    copy_engine,
    make_interpreter,
    put_foreign_library,
    write_script,
)

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="interpreters here are scripts")

STALL_S = 20.0


@contextmanager
def engine_of(
    python: Path | str, folder: Path, stall_s: float = STALL_S
) -> Iterator[LlamaCppPython]:
    engine = LlamaCppPython(python=str(python), log=folder / "log" / "worker.log", stall_s=stall_s)
    try:
        yield engine
    finally:
        engine.close()


def refusal(python: Path | str, folder: Path) -> str:
    """Return the one line with which an interpreter is refused, well within its deadline."""
    started = time.monotonic()
    with engine_of(python, folder) as engine, pytest.raises(CellUnavailable) as caught:
        engine.identity()
    assert time.monotonic() - started < STALL_S / 2
    (line,) = str(caught.value).splitlines()
    return line


def test_one_that_is_not_there(tmp_path: Path) -> None:
    line = refusal("/no/such/python", tmp_path)
    assert "'/no/such/python' cannot be started (No such file or directory)" in line


def test_one_that_is_no_program(tmp_path: Path) -> None:
    (tmp_path / "python").write_text("hello")
    assert "cannot be started (Permission denied)" in refusal(tmp_path / "python", tmp_path)


def test_one_that_is_no_python(tmp_path: Path) -> None:
    line = refusal(write_script(tmp_path, "echo usage: teapot; exit 3"), tmp_path)
    assert "ran no Python (exit status 3, printed 'usage: teapot')" in line


@pytest.mark.parametrize(("parts", "shown"), [((2, 7, 18), "2.7.18"), ((3, 9, 1), "3.9.1")])
def test_one_that_is_too_old(tmp_path: Path, parts: tuple[int, ...], shown: str) -> None:
    add_module(tmp_path, "sitecustomize", f"import sys\nsys.version_info = {parts}\n")
    line = refusal(make_interpreter(tmp_path), tmp_path)
    assert f"is Python {shown}; an engine needs 3.11 or later" in line


@pytest.mark.parametrize(
    ("packages", "missing", "todo"),
    [
        (ENGINE, "no numpy", "-m pip install numpy"),
        (NUMPY, "no llama_cpp", "-m pip install llama-cpp-python"),
        ((), "no llama_cpp and no numpy", "-m pip install llama-cpp-python numpy"),
    ],
)
def test_one_that_lacks_a_package(
    tmp_path: Path, packages: tuple[str, ...], missing: str, todo: str
) -> None:
    hide = "import sys\nsys.path[:] = [path for path in sys.path if '-packages' not in path]\n"
    add_module(tmp_path, "sitecustomize", hide)
    line = refusal(make_interpreter(tmp_path, packages), tmp_path)
    assert f"has {missing}; type: " in line
    assert line.endswith(todo)


def test_one_that_prints_as_it_starts(tmp_path: Path) -> None:
    """Its first words would be taken for the worker's."""
    add_module(tmp_path, "sitecustomize", "print('welcome to the cluster', flush=True)")
    line = refusal(make_interpreter(tmp_path), tmp_path)
    assert "prints 'welcome to the cluster' on its standard output when it starts" in line


def test_one_that_prints_without_end(tmp_path: Path) -> None:
    line = refusal(write_script(tmp_path, "exec yes quantgate"), tmp_path)
    assert "ran no Python (exit status -9, printed 'quantgate')" in line


def test_one_that_never_answers(tmp_path: Path) -> None:
    """Asked again, it is refused at once: each cell would wait as long."""
    python = write_script(tmp_path, "sleep 600")
    with engine_of(python, tmp_path, stall_s=1.0) as engine:
        started = time.monotonic()
        with pytest.raises(CellTimeout, match="did not answer within 1 s; it was ended"):
            engine.identity()
        assert 1.0 <= time.monotonic() - started < 10.0
        started = time.monotonic()
        with pytest.raises(CellTimeout):
            engine.ask(Identify())
        assert time.monotonic() - started < 0.5


def test_one_whose_packages_are_incomplete(tmp_path: Path) -> None:
    packages = tuple(name for name in (*ENGINE, *NUMPY) if name != "diskcache")
    line = refusal(make_interpreter(tmp_path, packages), tmp_path)
    assert "cannot be imported (No module named 'diskcache')" in line
    assert line.endswith("-m pip install --force-reinstall --no-cache-dir llama-cpp-python")


@pytest.mark.skipif(sys.platform != "linux", reason="libraries are ELF files there")
def test_one_whose_library_is_of_another_architecture(tmp_path: Path) -> None:
    own = elf_machine(Path(sys.executable))
    library, name = put_foreign_library(tmp_path)
    line = refusal(make_interpreter(tmp_path), tmp_path)
    assert f"{library} is built for {name}, and " in line
    assert f" for {own}; install a llama-cpp-python for this machine; type: " in line


@pytest.mark.skipif(sys.platform != "linux", reason="libraries are ELF files there")
@pytest.mark.parametrize("content", [b"", b"no library at all\n" * 100], ids=["empty", "text"])
def test_one_whose_library_is_damaged(tmp_path: Path, content: bytes) -> None:
    library = copy_engine(tmp_path) / "lib" / "libllama.so"
    library.unlink()
    library.write_bytes(content)
    line = refusal(make_interpreter(tmp_path), tmp_path)
    assert f"the libraries in {library.parent} cannot be used by llama-cpp-python" in line


def test_one_whose_release_is_too_old(tmp_path: Path) -> None:
    """As llama-cpp-python 0.3.5 was, which has none of the functions of vocabularies."""
    folder = tmp_path / "site" / "llama_cpp"
    folder.mkdir(parents=True)
    (folder / "__init__.py").write_text('__version__ = "0.3.5"\n')
    (folder / "llama_cpp.py").write_text("def llama_backend_init(): ...\n")
    line = refusal(make_interpreter(tmp_path), tmp_path)
    assert "has llama-cpp-python 0.3.5, which is too old: it has no llama_" in line
    assert "the oldest that can be measured is 0.3.7; type: " in line


def test_one_whose_release_does_not_fit_its_library(tmp_path: Path) -> None:
    """Its llama_cpp.py names a function that the library does not export."""
    folder = copy_engine(tmp_path)
    source = folder / "llama_cpp.py"
    text = source.read_text()
    source.unlink()
    source.write_text(text.replace('"llama_max_devices"', '"llama_most_devices"'))
    line = refusal(make_interpreter(tmp_path), tmp_path)
    assert "undefined symbol: llama_most_devices" in line


def test_one_that_only_warns_is_used(tmp_path: Path) -> None:
    """What it prints on standard error belongs to the log."""
    add_module(tmp_path, "sitecustomize", "import sys\nprint('old kernel', file=sys.stderr)\n")
    with engine_of(make_interpreter(tmp_path), tmp_path) as engine:
        assert engine.identity().kind == "llama-cpp-python"
    assert "old kernel" in (tmp_path / "log" / "worker.log").read_text()
