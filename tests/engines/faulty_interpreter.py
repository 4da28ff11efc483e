"""An interpreter whose llama.cpp is the real one, but for a few file types.

Its ``sitecustomize`` puts faults around functions of llama-cpp-python as soon as it is imported:
llama.cpp itself quantizes and computes everything else. They act on a file type's number.
"""

from __future__ import annotations

from pathlib import Path

from tests.engines.worker.interpreters import add_module, make_interpreter

_SITE = r"""
import ctypes, importlib.abc, importlib.util, os, stat, sys

FAULTS = {faults!r}
libc = ctypes.CDLL(None)
loaded = 0


def act(fault):
    if fault == "abort":
        libc.abort()
    elif fault == "segv":
        ctypes.string_at(0)
    elif fault == "hang":
        while True:
            libc.pause()
    elif fault == "garbage":
        for descriptor in (1, 2):
            os.write(descriptor, b"\x00\xff 12 tokens %s \x1b[31m" * 200)
        print("quantgate: 9.9.9 ", file=sys.__stdout__)
    elif fault == "garbage in the channel":
        for descriptor in range(3, 64):
            try:
                if stat.S_ISFIFO(os.fstat(descriptor).st_mode):
                    os.write(descriptor, b"\x00\xff no message at all " * 50)
            except OSError:
                pass


def file_type(path):
    with open(path, "rb") as stream:
        head = stream.read(1 << 23)
    at = head.find(b"general.file_type")
    return int.from_bytes(head[at + 21 : at + 25], "little") if at >= 0 else -1


def change(low):
    quantize, load, decode = (
        low.llama_model_quantize, low.llama_model_load_from_file, low.llama_decode
    )

    def faulty_quantize(source, destination, parameters):
        act(FAULTS.get(("quantize", parameters._obj.ftype)))
        return quantize(source, destination, parameters)

    def faulty_load(path, parameters):
        global loaded
        loaded = file_type(path)
        act(FAULTS.get(("load", loaded)))
        return load(path, parameters)

    def faulty_decode(context, batch):
        act(FAULTS.get(("decode", loaded)))
        return decode(context, batch)

    low.llama_model_quantize = faulty_quantize
    low.llama_model_load_from_file = faulty_load
    low.llama_decode = faulty_decode


class Finder(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name != "llama_cpp.llama_cpp":
            return None
        sys.meta_path.remove(self)
        spec = importlib.util.find_spec(name)
        execute = spec.loader.exec_module

        def execute_and_change(module):
            execute(module)
            change(module)

        spec.loader.exec_module = execute_and_change
        return spec


sys.meta_path.insert(0, Finder())
"""


def make_faulty_interpreter(folder: Path, faults: dict[tuple[str, int], str]) -> Path:
    """Return an interpreter with faults.

    Args:
        folder: for its files.
        faults: ``(function, number of the file type)`` to what happens there; the functions are
            ``quantize``, ``load`` and ``decode``.

    """
    add_module(folder, "sitecustomize", _SITE.replace("{faults!r}", repr(faults)))
    return make_interpreter(folder)
