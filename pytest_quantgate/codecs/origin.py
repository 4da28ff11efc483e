"""Where a codec comes from: what the replay command is told of it, and how it is made again."""

from __future__ import annotations

import importlib
import importlib.util
import inspect
import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from pytest_quantgate.codecs.adapters import GgufCodec, NativeCodec
from pytest_quantgate.codecs.remote import WorkerCodecs
from pytest_quantgate.engines.worker.native import NativeCodecs, library_folder
from pytest_quantgate.engines.worker.native_kernels import NativeKernels

if TYPE_CHECKING:
    from types import ModuleType

    from pytest_quantgate.codecs.codec import Codec

NOT_IMPORTABLE = "MODULE:EXPRESSION"
"""Stands in a command where an object cannot be made again; the user puts in what makes it."""

_ORIGIN = re.compile(r"(?P<module>.+?\.py|[\w.]+):(?P<expression>.+)", re.DOTALL)


def codec_options(codec: Codec) -> list[str]:
    """Return the replay command's arguments that make a codec again."""
    if type(codec) is GgufCodec:
        return ["--codec", "gguf"]
    if type(codec) is NativeCodec:
        return ["--codec", "native", *_engine_options(codec.backend)]
    return ["--codec", origin_of(codec)]


def kernel_options(kernels: object) -> list[str]:
    """Return the replay command's arguments for kernels of one's own; none for an engine's."""
    if isinstance(kernels, WorkerCodecs) or type(kernels) is NativeKernels:
        return []
    return ["--kernels", origin_of(kernels)]


def _engine_options(backend: object) -> list[str]:
    """Name the engine where it is not the one that this interpreter has."""
    if isinstance(backend, NativeCodecs) and backend.folder != library_folder():
        return ["--lib-dir", str(backend.folder)]
    if isinstance(backend, WorkerCodecs) and backend.python is not None:
        return ["--python", backend.python]
    return []


def origin_of(thing: object) -> str:
    """Return ``MODULE:EXPRESSION``, which :func:`load` makes an equal object of.

    A module outside a package is named by its file.
    """
    kind = type(thing)
    module = sys.modules.get(kind.__module__)
    expression = None if module is None else _expression(thing, module)
    if module is None or expression is None:
        return NOT_IMPORTABLE
    name = module.__name__
    if not module.__package__ and getattr(module, "__file__", None):
        path, here = Path(str(module.__file__)).resolve(), Path.cwd()
        name = str(path.relative_to(here) if path.is_relative_to(here) else path)
    return f"{name}:{expression}"


def _expression(thing: object, module: ModuleType) -> str | None:
    """Return an object's name in its module, or the call of its class that makes an equal one."""
    kind = type(thing)
    for name, value in vars(module).items():
        if value is thing:
            return name
    if "<locals>" in kind.__qualname__:
        return None
    if isinstance(thing, NativeCodec | GgufCodec) and kind.__init__ in _OWN_INITS:
        return kind.__qualname__
    arguments = []
    for name, parameter in inspect.signature(kind).parameters.items():
        value = getattr(thing, name, getattr(thing, f"_{name}", parameter.default))
        if value is parameter.default and value is not parameter.empty:
            continue
        if type(value) in {NativeCodec, GgufCodec}:
            arguments.append(f"{name}={value.label}")
        elif isinstance(value, float):
            arguments.append(f"{name}=float({str(value)!r})")
        elif isinstance(value, bool | int | str | bytes | None):
            arguments.append(f"{name}={value!r}")
        elif parameter.default is parameter.empty and parameter.kind not in _VARIADIC:
            return None
    return f"{kind.__qualname__}({', '.join(arguments)})"


_OWN_INITS: tuple[object, ...] = (NativeCodec.__init__, GgufCodec.__init__)
_VARIADIC = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)


def load(origin: str, **names: object) -> object:
    """Return what an expression gives in its module, where ``names`` are known too.

    Raises:
        ValueError: it is no ``MODULE:EXPRESSION``, or there is no such module.

    """
    match = _ORIGIN.fullmatch(origin)
    if match is None or origin == NOT_IMPORTABLE:
        raise ValueError(
            f"{origin!r} cannot be made; give MODULE:EXPRESSION, as my_codecs:MyCodec() or"
            " tests/test_codec.py:MyCodec()"
        )
    scope = {**names, **vars(_module(match["module"]))}
    return eval(match["expression"], scope)  # noqa: S307 # the user's own command line


def _module(name: str) -> ModuleType:
    """Import a module by its name or, where it ends in ``.py``, from its file."""
    if not name.endswith(".py"):
        try:
            return importlib.import_module(name)
        except ModuleNotFoundError as error:
            raise ValueError(f"{error}; give a module that can be imported from here") from error
    path = Path(name)
    spec = importlib.util.spec_from_file_location(path.stem, path)
    if spec is None or spec.loader is None or not path.is_file():
        raise ValueError(f"there is no file {name}")
    sys.path.insert(0, str(path.parent.resolve()))
    module = sys.modules[path.stem] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
