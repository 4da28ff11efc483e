"""A session that measures here refuses the cells of hosts."""

from __future__ import annotations

import pytest

from pytest_quantgate.config.settings import load_settings
from pytest_quantgate.errors import CellUnsupported
from pytest_quantgate.matrix.session import Session
from tests.conftest import Project


def test_a_hosts_cell_is_not_measured_here(own_cache: Project) -> None:
    """As ``quantgate locate`` would, whose figures then would be another machine's."""
    own_cache.configure(
        top=f"cache_dir = {str(own_cache.cache)!r}",
        tables='[tool.quantgate.hosts.a]\nssh = "a"\n[tool.quantgate.devices.away]\nhost = "a"\n',
        profile='devices = ["cpu", "away"]',
    )
    session = Session(load_settings(own_cache.root), "run")
    here, away = (session.resolve(session.matrix.named(f"tiny-F16-{d}")) for d in ("cpu", "away"))
    assert session.device(here) == "cpu"
    with pytest.raises(CellUnsupported, match="'away' is on another machine, and this is measured"):
        session.device(away)
    session.close()
