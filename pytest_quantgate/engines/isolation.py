"""The environment of an engine's interpreter: its own modules come before any that lie around.

A file ``types.py`` in the folder where pytest was started, or a folder ``llama_cpp`` there, must
not take the place of the interpreter's own. So the working folder is on no child's path, and the
folders of ``PYTHONPATH`` come last, after the standard library and the installed packages.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path


def isolated_environment(given: Mapping[str, str] | None = None) -> dict[str, str]:
    """Return an environment, by default this process's, whose modules shadow no others.

    The variable is read by Python 3.11 and later, also behind a wrapper script.
    """
    kept = {
        name: value
        for name, value in (os.environ if given is None else given).items()
        if name != "PYTHONPATH"
    }
    return {**kept, "PYTHONSAFEPATH": "1"}


def last_folders() -> list[str]:
    """Return the folders of ``PYTHONPATH``, absolute, for the end of a child's path."""
    given = os.environ.get("PYTHONPATH", "").split(os.pathsep)
    return [str(Path(folder).absolute()) for folder in given if folder]
