"""Where baselines are: the project's folder, then those that ship with this package."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path

from pytest_quantgate.errors import ConfigError
from pytest_quantgate.results.baseline import Baseline, Key
from pytest_quantgate.results.baseline_file import parse


@dataclass(frozen=True, kw_only=True)
class Found:
    """What a look-up gave: a baseline, or why there is none that can be used.

    ``problem`` is set for a file that is there and cannot be read.
    """

    path: Path
    baseline: Baseline | None
    problem: str | None = None


def file_name(key: Key) -> str:
    """Return a baseline's path below the folder; settings off the common ones are named."""
    parts = [key.format]
    if key.imatrix is not None:
        parts.append(f"imatrix-{key.imatrix}")
    parts.append(key.device_kind)
    if key.text:
        parts += [key.text, f"c{key.n_ctx}"]
    if not key.flash_attention:
        parts.append("no-fa")
    if (key.type_k, key.type_v) != ("F16", "F16"):
        parts.append(f"kv-{key.type_k}-{key.type_v}")
    return f"{key.model}/{'-'.join(parts)}.json"


def shipped_folder() -> Path:
    """Return the folder of the built-in profiles' baselines in the installed package."""
    inside = Path(str(files("pytest_quantgate.results"))) / "shipped"
    if inside.is_dir():
        return inside
    # In a checkout they stand where they are reviewed.
    return Path(str(files("pytest_quantgate"))).parent / "baselines"


class Store:
    """Looks baselines up.

    Args:
        folder: the project's own, where new ones are written.
        use_shipped: also look among the shipped ones.

    """

    def __init__(self, folder: Path, *, use_shipped: bool) -> None:
        self.folder = folder
        self._folders = [folder, *([shipped_folder()] if use_shipped else [])]

    def path(self, key: Key) -> Path:
        """Return where a cell's baseline is written."""
        return self.folder / file_name(key)

    def find(self, key: Key) -> Found:
        """Look a cell's baseline up; a damaged one is never taken for a missing one."""
        for folder in self._folders:
            path = folder / file_name(key)
            try:
                text = path.read_text(encoding="utf-8")
            except FileNotFoundError:
                continue
            except (OSError, UnicodeDecodeError) as error:
                return Found(path=path, baseline=None, problem=f"{path} cannot be read: {error}")
            try:
                baseline = parse(text, str(path))
            except ConfigError as error:
                return Found(path=path, baseline=None, problem=str(error))
            if baseline.key != key:
                problem = f"the baseline {path} is of another cell: copied or renamed by hand"
                return Found(path=path, baseline=None, problem=problem)
            return Found(path=path, baseline=baseline)
        return Found(path=self.path(key), baseline=None)

    def keys_of_cell(self, key: Key) -> tuple[Key, ...]:
        """Return the keys of a cell's baselines under other settings, of the project's own folder.

        What ships was stored by nobody here. A file that cannot be read has no settings to tell.
        """
        found = []
        for path in sorted((self.folder / key.model).glob(f"{key.format}-*.json")):
            try:
                stored = parse(path.read_text(encoding="utf-8"), str(path)).key
            except (OSError, UnicodeDecodeError, ConfigError):
                continue
            if stored.is_of_cell_of(key) and stored != key:
                found.append(stored)
        return tuple(found)

    def own_keys(self) -> tuple[Key, ...]:
        """Return the keys of all baselines of the project's own folder that can be read."""
        keys = []
        for path in sorted(self.folder.glob("*/*.json")):
            try:
                keys.append(parse(path.read_text(encoding="utf-8"), str(path)).key)
            except (OSError, UnicodeDecodeError, ConfigError):
                continue  # the cell that looks it up says what is wrong
        return tuple(keys)

    def has_any(self, keys: Iterable[Key], *, shipped: bool = True) -> bool:
        """Return whether any of the keys has a file, readable or not."""
        folders = self._folders if shipped else [self.folder]
        return any((folder / file_name(key)).exists() for key in keys for folder in folders)
