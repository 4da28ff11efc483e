"""What is examined: the settings, the models that are here, and the engines that answered."""

from __future__ import annotations

import time
from dataclasses import dataclass, field

from pytest_quantgate.artifacts.file_hashes import FileHashes
from pytest_quantgate.artifacts.models import Model, find_model
from pytest_quantgate.config.settings import Settings
from pytest_quantgate.engines.messages import EngineDevice, Identity
from pytest_quantgate.errors import CellError, ConfigError
from pytest_quantgate.gguf.reader import GgufFile
from pytest_quantgate.storage.cache import Cache

HASH_S = 8.0
"""For how long files are hashed; no further one is begun then."""

_HASHED_BYTES = 1 << 29  # larger files are not: half a gigabyte is a second or two


@dataclass(frozen=True, kw_only=True)
class Answer:
    """What an engine answered in time; ``seconds_s`` is how long it took."""

    identity: Identity
    devices: tuple[EngineDevice, ...]
    seconds_s: float


class Models:
    """The models that are here, each looked for once; no hub is asked.

    Args:
        cache: may remember the hash of a file.

    """

    def __init__(self, cache: Cache) -> None:
        self._hashes = FileHashes(cache.hashes)
        self._models: dict[str, Model | Exception] = {}
        self._hashing_s = 0.0

    def find(self, settings: Settings, name: str) -> Model | Exception:
        """Return a model, or the error that it is not here."""
        if name not in self._models:
            try:
                self._models[name] = find_model(name, settings, is_offline=True)
            except (ConfigError, CellError, OSError) as problem:
                self._models[name] = problem
        return self._models[name]

    def hash_like(self, file: GgufFile, stored: str) -> str | None:
        """Return a model's hash in a stored one's form where it is known or quickly found."""
        is_slow = file.n_bytes > _HASHED_BYTES or self._hashing_s > HASH_S
        if is_slow and not self._hashes.is_known(file, stored):
            return None
        began_s = time.monotonic()
        digest = self._hashes.like(file, stored)
        self._hashing_s += time.monotonic() - began_s
        return digest

    def sources(self, settings: Settings) -> dict[str, GgufFile]:
        """Return the sources of the profile's models that are here and have one."""
        models = {name: self.find(settings, name) for name in settings.profile.models}
        return {
            name: model.source
            for name, model in models.items()
            if isinstance(model, Model) and model.source is not None
        }


@dataclass(frozen=True, kw_only=True)
class Project:
    """What the sections share; the engines' section adds ``answers`` by the engines' names."""

    settings: Settings
    models: Models
    answers: dict[str, Answer] = field(default_factory=dict)
    is_online: bool = False


def project_of(settings: Settings, *, is_online: bool = False) -> Project:
    """Return what is examined of these settings."""
    cache = Cache(settings.cache_dir, settings.cache_max_bytes)
    return Project(settings=settings, models=Models(cache), is_online=is_online)
