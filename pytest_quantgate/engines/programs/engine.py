"""A folder of llama.cpp's own programs: llama-quantize, llama-perplexity, llama-tokenize."""

from __future__ import annotations

import hashlib
import platform
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import cast

from pytest_quantgate.engines.engine import OnReply
from pytest_quantgate.engines.llama_cpp_python import LlamaCppPython
from pytest_quantgate.engines.messages import (
    UNKNOWN,
    CollectImatrix,
    Identify,
    Identity,
    MeasureSpeed,
    Message,
    Progress,
    Quantize,
    Quantized,
    ReplyT,
    Request,
    Score,
    Tokenize,
)
from pytest_quantgate.engines.programs.folder import PERPLEXITY, QUANTIZE, Argument, ProgramFolder
from pytest_quantgate.engines.programs.imatrix import collect_imatrix
from pytest_quantgate.engines.programs.output import (
    read_commit,
    read_compiler,
    read_device,
    read_system_info,
    read_tensor,
    read_version,
)
from pytest_quantgate.engines.programs.scores import ProgramScorer
from pytest_quantgate.engines.programs.speed import ProgramTimer
from pytest_quantgate.engines.programs.tokens import TextCutter
from pytest_quantgate.engines.worker.build import describe_build, read_cmake_cache
from pytest_quantgate.engines.worker.host import cpu_name, hash_surroundings
from pytest_quantgate.errors import CellError, CellUnsupported, ModelFileError, RequestUnknown
from pytest_quantgate.gguf.embedded import EMBEDDED
from pytest_quantgate.gguf.formats import TENSOR_TYPES
from pytest_quantgate.gguf.reader import read_gguf

_TYPE_NAMES = {row.number: name for name, row in TENSOR_TYPES.items()}
_LIBRARIES = ("libllama", "llama", "libggml", "ggml")
_LIBRARY_ENDINGS = (".so", ".dylib", ".dll")


class LlamaPrograms:
    """An engine of programs.

    Args:
        folder: where they are.
        arguments: further arguments of llama-perplexity.
        log: the file for the programs' output.
        stall_s: seconds without output after which a program is ended.
        sha256_of: hashes a file.

    """

    def __init__(
        self,
        *,
        folder: Path,
        arguments: Sequence[str],
        log: Path,
        stall_s: float,
        sha256_of: Callable[[Path], str],
    ) -> None:
        self._programs = ProgramFolder(folder, log=log, stall_s=stall_s)
        self._vocabulary = LlamaCppPython(python=None, log=log, stall_s=stall_s)
        self._cutter = TextCutter(self._programs, self._vocabulary)
        self._arguments = tuple(arguments)
        self._scorer = ProgramScorer(self._programs, self._cutter, self._arguments)
        self._timer = ProgramTimer(self._programs, self._arguments)
        self._sha256_of = sha256_of
        self._identity: Identity | CellError | None = None

    def identity(self) -> Identity:
        """Describe the programs; what keeps them from running is found out once."""
        if self._identity is None:
            try:
                self._identity = self._identify()
            except CellError as error:
                self._identity = error
        if isinstance(self._identity, CellError):
            raise self._identity
        return self._identity

    def ask(self, request: Request[ReplyT], on_reply: OnReply | None = None) -> ReplyT:
        """Answer with a program's help; see :class:`~pytest_quantgate.engines.engine.Engine`."""
        tell = on_reply or (lambda _reply: None)
        reply: Message
        match request:
            case Identify():
                reply = self.identity()
            case Tokenize():
                reply = self._cutter.cut(request)
            case Quantize():
                reply = self._quantize(request, tell)
            case CollectImatrix():
                reply = collect_imatrix(self._programs, self._cutter, request)
            case Score():
                reply = self._scorer.score(request, tell)
            case MeasureSpeed():
                reply = self._timer.measure(request, tell)
            case _:
                raise RequestUnknown(
                    f"llama.cpp's programs cannot answer {type(request).__name__}, which needs the"
                    ' library; take an engine with python = "INTERPRETER"'
                )
        return cast("ReplyT", reply)

    def close(self) -> None:
        """End the worker that knows vocabularies, if one runs; programs end by themselves."""
        self._vocabulary.close()

    # Identity

    def _identify(self) -> Identity:
        perplexity, quantize = self._programs.find(PERPLEXITY), self._programs.find(QUANTIZE)
        version = self._programs.read_one(PERPLEXITY, ["--version"], read_version)
        other = self._cutter.other
        libraries = self._libraries()
        return Identity(
            kind="llama.cpp's programs",
            version=version if other is None else f"{version}, texts cut by {other}",
            llama_cpp_version=version,
            python_version="",
            platform=f"{sys.platform}-{platform.machine()}",
            cpu_name=cpu_name(),
            system_info=self._system_info(),
            library_sha256=self._hash([perplexity, *libraries], *self._arguments),
            quantizer_sha256=self._hash([quantize, *libraries]),
            devices=tuple(self._programs.read_all(PERPLEXITY, ["--list-devices"], read_device)),
            commit=read_commit(version) or UNKNOWN,
            build_options=self._build() or UNKNOWN,
            surroundings_sha256=hash_surroundings(),
        )

    def _build(self) -> str:
        """Describe how the programs were built; CMake's folder is above theirs, if it is there."""
        told = self._programs.read_all(PERPLEXITY, ["--version"], read_compiler)
        folders = (self._programs.path, self._programs.path.parent)
        variables = next(filter(None, map(read_cmake_cache, folders)), {})
        return describe_build(variables, told[0] if told else "")

    def _system_info(self) -> str:
        """Return llama.cpp's line of instruction sets, which it prints once a model is loaded."""
        with tempfile.TemporaryDirectory() as folder:
            text = Path(folder) / "text.txt"
            text.write_text("one two three four five six seven eight nine ten\n" * 4)
            arguments: list[Argument] = ["-m", EMBEDDED / "olmoe-mini.gguf", "-f", text]
            arguments += ["-c", 16, "-b", 16, "-ub", 16, "-t", 1, "--chunks", 1]
            arguments += ["--device", "none", "-ngl", 0]
            return self._programs.read_one(PERPLEXITY, arguments, read_system_info)

    def _libraries(self) -> list[Path]:
        """Return llama.cpp's libraries beside the programs, each once."""
        found = {}
        for folder in (self._programs.path, self._programs.path.parent / "lib"):
            for path in sorted(folder.iterdir()) if folder.is_dir() else ():
                stem, _, _ = path.name.partition(".")
                ours = stem in _LIBRARIES or stem.startswith(tuple(f"{n}-" for n in _LIBRARIES))
                if ours and any(ending in path.name for ending in _LIBRARY_ENDINGS):
                    found[path.resolve()] = path
        return sorted(found)

    def _hash(self, files: Sequence[Path], *more: str) -> str:
        digest = hashlib.sha256()
        for path in files:
            digest.update(path.name.encode() + b"\0" + self._sha256_of(path).encode())
        for text in more:
            digest.update(text.encode() + b"\0")
        return digest.hexdigest()

    # Quantizing

    def _quantize(self, request: Quantize, on_reply: OnReply) -> Quantized:
        started = time.perf_counter()
        arguments: list[Argument] = ["--allow-requantize"] if request.allow_requantize else []
        for pattern, number in request.overrides:
            if pattern != pattern.lower() or "=" in pattern:
                raise CellUnsupported(
                    f"llama-quantize cannot take the pattern {pattern!r}: it lowers the case and"
                    " splits at '='"
                )
            arguments += ["--tensor-type", f"{pattern}={_TYPE_NAMES[number]}"]
        for matrix in sorted({row.path for row in request.imatrix}):
            arguments += ["--imatrix", matrix]  # one file: rows tell where in it each weight is
        arguments += [request.source, request.destination, request.file_type, request.n_threads]
        is_complete = False

        def on_line(line: str) -> None:
            nonlocal is_complete
            is_complete = is_complete or "quantize time" in line
            tensor = read_tensor(line)
            if tensor is not None:
                on_reply(Progress(what="quantize", done=tensor[0], total=tensor[1]))

        code = self._programs.run(QUANTIZE, arguments, on_line)
        if not is_complete:
            raise self._programs.failure(QUANTIZE, code)
        try:
            read_gguf(Path(request.destination))
        except (OSError, ModelFileError) as error:
            raise self._programs.crash(QUANTIZE, code, f"left no model: {error}") from error
        return Quantized(seconds_s=time.perf_counter() - started)
