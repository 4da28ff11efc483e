"""Models from a hub: ``hf:ORG/REPOSITORY/FILE.gguf[@REVISION]``.

The library ``huggingface_hub`` (extra ``hf``) downloads and caches; where it keeps files, whether
it goes online and with which token is its own environment's matter (``HF_HOME``,
``HF_HUB_OFFLINE``, ``HF_TOKEN``), and nothing of that is read or kept here.
"""

from __future__ import annotations

import importlib
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pytest_quantgate.errors import CellUnavailable, ModelFileError
from pytest_quantgate.gguf.reader import split_names

_SOURCE = re.compile(
    r"^(?P<repository>[\w.-]+/[\w.-]+)/(?P<file>[^@\s]+\.gguf)(?:@(?P<revision>[\w./-]+))?$"
)


@dataclass(frozen=True, kw_only=True)
class HubFile:
    """A file in a repository of a hub; ``revision`` None is the repository's main branch."""

    repository: str
    file: str
    revision: str | None

    @property
    def name(self) -> str:
        """The file's name without its folders."""
        return self.file.rpartition("/")[2]


def parse_hub_source(source: str, model: str) -> HubFile:
    """Read what follows ``hf:``.

    Raises:
        ModelFileError: it is not of that form.

    """
    match = _SOURCE.match(source)
    if match is None:
        raise ModelFileError(
            f"model {model!r}: source 'hf:{source}' is not of the form"
            " hf:ORG/REPOSITORY/FILE.gguf[@REVISION]"
        )
    return HubFile(repository=match["repository"], file=match["file"], revision=match["revision"])


def fetch(hub_file: HubFile, root: Path, model: str, *, is_offline: bool = False) -> Path:
    """Return the first file of a model in the hub library's cache, downloaded if need be.

    With ``is_offline`` nothing is downloaded, and the hub is not asked.

    Raises:
        CellUnavailable: the library is not installed, or it could not get the file; the message
            says what to type, and which file to place where instead.

    """
    hub = _library(hub_file, root, model)
    how = {"local_files_only": True} if is_offline else {}
    paths = []
    for name in _files(hub_file):
        try:
            path = hub.hf_hub_download(hub_file.repository, name, revision=hub_file.revision, **how)
        # The library raises its own errors, those of its HTTP client and the system's.
        except Exception as error:
            if _is_refusal(error):
                raise _refused(hub_file, root, model, error) from error
            why = "" if is_offline else f" and could not be downloaded ({_describe(error)})"
            revision = f" --revision {hub_file.revision}" if hub_file.revision else ""
            raise CellUnavailable(
                f"model {model!r}: {hub_file.file} of {hub_file.repository} is not in the hub's"
                f" cache{why}; with a network download it, {_by_hand(hub_file, root, model)}",
                command=f"hf download {hub_file.repository} {hub_file.file}{revision}",
            ) from error
        paths.append(Path(path))
    return paths[0]


def ask_for(hub_file: HubFile, root: Path, model: str) -> int:
    """Return a file's bytes, those of all files of a split model, as the hub tells; without them.

    Raises:
        CellUnavailable: the library is not installed, or the hub does not give the file: it is
            not there, or not for this token.

    """
    hub = _library(hub_file, root, model)
    n_bytes = 0
    for name in _files(hub_file):
        try:
            url = hub.hf_hub_url(hub_file.repository, name, revision=hub_file.revision)
            n_bytes += hub.get_hf_file_metadata(url).size or 0
        except Exception as error:
            if _is_refusal(error):
                raise _refused(hub_file, root, model, error) from error
            # A failed connection's text names hosts, a proxy's too; this goes into reports.
            raise CellUnavailable(
                f"model {model!r}: the hub gives no size of {name} of {hub_file.repository}"
                f" ({type(error).__name__}); {_by_hand(hub_file, root, model)}"
            ) from error
    return n_bytes


def has_token() -> bool | None:
    """Return whether the hub's library has a token, None where it is not installed."""
    try:
        hub: Any = importlib.import_module("huggingface_hub")
    except ImportError:
        return None
    return bool(hub.get_token())


def _library(hub_file: HubFile, root: Path, model: str) -> Any:
    try:
        return importlib.import_module("huggingface_hub")
    except ImportError:
        raise CellUnavailable(
            f"model {model!r}: a source hf: needs the hub's library; install it,"
            f" {_by_hand(hub_file, root, model)}",
            command='pip install "pytest-quantgate[hf]"',
        ) from None


def _files(hub_file: HubFile) -> list[str]:
    """Return the paths of a model's files in its repository."""
    folder, _, name = hub_file.file.rpartition("/")
    return [f"{folder}/{file}" if folder else file for file in split_names(name)]


def _refused(hub_file: HubFile, root: Path, model: str, error: Exception) -> CellUnavailable:
    return CellUnavailable(
        f"model {model!r}: the hub refused {hub_file.file} of {hub_file.repository}"
        f" ({_describe(error)});"
        " if the repository is gated or private, set HF_TOKEN to a token that may read it,"
        " in CI from a secret, which a pull request from a fork does not get;"
        f" {_by_hand(hub_file, root, model)}"
    )


def _describe(error: Exception) -> str:
    return f"{type(error).__name__}: {str(error).strip().partition(chr(10))[0]}"


def _is_refusal(error: Exception) -> bool:
    """Return whether the hub answered that this token, or none, may not read the repository.

    It says of a private repository that it does not exist, as of one that does not.
    """
    status = getattr(getattr(error, "response", None), "status_code", None)
    names = {kind.__name__ for kind in type(error).__mro__}
    return status in {401, 403} or bool(names & {"GatedRepoError", "RepositoryNotFoundError"})


def _by_hand(hub_file: HubFile, root: Path, model: str) -> str:
    place = Path("models") / hub_file.name
    return (
        f'or place the file at {root / place} and set source = "{place.as_posix()}" under'
        f" [tool.quantgate.models.{model}]"
    )
