"""Models from a hub, through a stand-in for its library and through the real one, offline."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from pytest_quantgate.artifacts.hub import HubFile, fetch, parse_hub_source
from pytest_quantgate.artifacts.models import find_model, find_source
from pytest_quantgate.config.options import Overrides
from pytest_quantgate.config.settings import load_settings
from pytest_quantgate.errors import CellUnavailable, ModelFileError
from tests.conftest import Project

TOKEN = "hf_stand_in_for_a_secret"
SOURCE = "hf:org/repo/gguf/tiny.gguf@v1"


class Hub:
    """A hub with one file, which keeps what it was asked."""

    def __init__(self, file: Path) -> None:
        self.file = file
        self.asked: list[tuple[tuple[Any, ...], dict[str, Any]]] = []

    def hf_hub_download(self, *positional: Any, **named: Any) -> str:
        """Give the file whatever is asked."""
        self.asked.append((positional, named))
        return str(self.file)


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tiny_model: Path) -> Hub:
    """The library, replaced by a stand-in that has the tiny model."""
    made = Hub(tiny_model)
    monkeypatch.setitem(sys.modules, "huggingface_hub", made)
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    return made


@pytest.fixture
def offline(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The library without a network; the list gets what was asked."""
    asked = []

    def hf_hub_download(repository: str, file: str, revision: str | None) -> str:
        asked.append(f"{repository} {file} {revision}")
        raise OSError("no route to host\nand more")

    stand_in = SimpleNamespace(hf_hub_download=hf_hub_download)
    monkeypatch.setitem(sys.modules, "huggingface_hub", stand_in)
    return asked


@pytest.mark.parametrize(
    ("source", "wanted"),
    [
        ("org/repo/f.gguf", HubFile(repository="org/repo", file="f.gguf", revision=None)),
        ("o/r/a/b.gguf@main", HubFile(repository="o/r", file="a/b.gguf", revision="main")),
        ("o/r/b.gguf@refs/pr/1", HubFile(repository="o/r", file="b.gguf", revision="refs/pr/1")),
    ],
)
def test_a_source_is_read(source: str, wanted: HubFile) -> None:
    assert parse_hub_source(source, "m") == wanted


@pytest.mark.parametrize(
    "source", ["", "repo/f.gguf", "o/r", "o/r/f.bin", "o/r/f.gguf@", "o/r/a b.gguf", "o//f.gguf"]
)
def test_what_is_no_source(source: str) -> None:
    with pytest.raises(ModelFileError, match=r"not of the form hf:ORG/REPOSITORY/FILE.gguf"):
        parse_hub_source(source, "m")


def test_the_library_gets_the_file_with_its_own_token(hub: Hub, tmp_path: Path) -> None:
    assert find_source(SOURCE, tmp_path, "m") == hub.file
    assert hub.asked == [(("org/repo", "gguf/tiny.gguf"), {"revision": "v1"})]


def test_all_parts_of_a_split_model_are_fetched(hub: Hub, tmp_path: Path) -> None:
    wanted = HubFile(repository="o/r", file="q/big-00001-of-00003.gguf", revision=None)
    fetch(wanted, tmp_path, "m")
    assert [positional[1] for positional, _ in hub.asked] == [
        f"q/big-0000{number}-of-00003.gguf" for number in (1, 2, 3)
    ]


def test_a_model_on_the_command_line_gets_the_files_name(hub: Hub, tmp_path: Path) -> None:
    settings = load_settings(tmp_path, Overrides(models=(SOURCE,)))
    assert settings.profile.models == ("tiny",)
    model = find_model("tiny", settings)
    assert model.source is not None
    assert model.source.files == (hub.file,)


def test_without_the_library_the_error_says_what_to_install_and_where_to_put_a_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(CellUnavailable) as caught:
        find_source(SOURCE, tmp_path, "mine")
    message = str(caught.value)
    assert 'pip install "pytest-quantgate[hf]"' in message
    assert f"place the file at {tmp_path / 'models' / 'tiny.gguf'}" in message
    assert 'source = "models/tiny.gguf" under [tool.quantgate.models.mine]' in message
    assert "\n" not in message


@pytest.mark.usefixtures("offline")
def test_offline_the_error_says_what_to_type_and_where_to_put_a_file(tmp_path: Path) -> None:
    with pytest.raises(CellUnavailable) as caught:
        find_source(SOURCE, tmp_path, "mine")
    message = str(caught.value)
    assert "(OSError: no route to host)" in message
    assert message.endswith("; type: hf download org/repo gguf/tiny.gguf --revision v1")
    assert f"place the file at {tmp_path / 'models' / 'tiny.gguf'}" in message
    assert "\n" not in message


class GatedRepoError(Exception):
    """Named as the library's."""


class OwnGatedRepoError(GatedRepoError):
    """A subclass of the library's."""


class HTTPError(Exception):
    """An answer of the hub that the library has no name for."""

    def __init__(self, status_code: int) -> None:
        super().__init__(f"{status_code} Client Error.\nmore")
        self.response = SimpleNamespace(status_code=status_code)


@pytest.mark.parametrize(
    ("error", "is_refusal"),
    [
        (GatedRepoError("Access to model org/repo is restricted."), True),
        (OwnGatedRepoError("no"), True),
        (HTTPError(401), True),
        (HTTPError(403), True),
        (HTTPError(500), False),
    ],
    ids=["gated", "subclass", "401", "403", "500"],
)
def test_a_refusal_says_that_a_token_may_be_missing(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, error: Exception, is_refusal: bool
) -> None:
    """A fork's pull request has no secrets, and should not have to guess that."""

    def hf_hub_download(*_: object, **__: object) -> str:
        raise error

    stand_in = SimpleNamespace(hf_hub_download=hf_hub_download)
    monkeypatch.setitem(sys.modules, "huggingface_hub", stand_in)
    with pytest.raises(CellUnavailable) as caught:
        find_source(SOURCE, tmp_path, "mine")
    message = str(caught.value)
    said = str(error).partition("\n")[0]
    assert f"({type(error).__name__}: {said})" in message
    assert ("set HF_TOKEN to a token that may read it" in message) is is_refusal
    assert ("a pull request from a fork does not get" in message) is is_refusal
    assert "or place the file at" in message
    assert "\n" not in message


def configure(project: Project, source: str = SOURCE) -> None:
    """Let the project take its model from a hub, and another one from a path."""
    project.configure(
        formats=("F16", "Q8_0"),
        profile='models = ["remote", "tiny"]',
        tables=f'[tool.quantgate.models.remote]\nsource = "{source}"',
    )


def test_a_model_that_cannot_be_got_is_unavailable_and_the_others_go_on(
    project: Project, offline: list[str]
) -> None:
    """Red, with what to do; the hub is asked once and not again for each cell."""
    configure(project)
    result = project.matrix("--quant-report=report.json")
    assert result.ret == pytest.ExitCode.TESTS_FAILED
    result.assert_outcomes(passed=2, failed=2)
    result.stdout.fnmatch_lines(
        ["remote-F16-cpu: UNAVAILABLE: *type: hf download org/repo gguf/tiny.gguf*"]
    )
    cells = json.loads((project.root / "report.json").read_text())["cells"]
    assert [cell["verdict"] for cell in cells] == ["UNAVAILABLE"] * 2 + ["MEASURED"] * 2
    assert offline == ["org/repo gguf/tiny.gguf v1"]


@pytest.mark.usefixtures("offline")
def test_a_plan_says_what_it_leaves_out(project: Project) -> None:
    configure(project)
    result = project.run("--quant-plan")
    assert result.ret == pytest.ExitCode.OK
    result.stdout.fnmatch_lines(
        ["profile default: 2 cells*", "*", "not planned: model 'remote': gguf/tiny.gguf of*"]
    )


@pytest.mark.usefixtures("hub")
def test_no_token_enters_what_a_run_writes(own_cache: Project) -> None:
    configure(own_cache)
    result = own_cache.matrix("--quant-report=report.json")
    assert result.ret == pytest.ExitCode.OK
    assert TOKEN not in result.stdout.str()
    written = [path for path in own_cache.root.rglob("*") if path.is_file()]
    assert own_cache.root / "report.json" in written
    for path in written:
        assert TOKEN.encode() not in path.read_bytes(), path


def test_the_real_library_finds_what_its_cache_has(tmp_path: Path, tiny_model: Path) -> None:
    """Offline, in a process of its own: the library reads its environment when it is imported."""
    pytest.importorskip("huggingface_hub")
    commit = "0123456789abcdef0123456789abcdef01234567"
    repository = tmp_path / "hub" / "models--org--repo"
    (repository / "refs").mkdir(parents=True)
    (repository / "refs" / "main").write_text(commit)
    snapshot = repository / "snapshots" / commit / "gguf"
    snapshot.mkdir(parents=True)
    shutil.copy(tiny_model, snapshot / "tiny.gguf")
    program = (
        "import sys; from pathlib import Path\n"
        "from pytest_quantgate.artifacts.models import find_source\n"
        "from pytest_quantgate.errors import CellUnavailable\n"
        "for source in sys.argv[1:]:\n"
        "    try: print(find_source(source, Path('/project'), 'm'))\n"
        "    except CellUnavailable as error: print(error)\n"
    )
    sources = [f"hf:org/repo/gguf/tiny.gguf{end}" for end in ("", f"@{commit}", "@v9")]
    output = subprocess.run(
        [sys.executable, "-c", program, *sources, "hf:org/repo/other.gguf"],
        env={**os.environ, "HF_HUB_CACHE": str(tmp_path / "hub"), "HF_HUB_OFFLINE": "1"},
        capture_output=True,
        text=True,
        check=True,
        timeout=120,
    ).stdout.splitlines()
    assert output[:2] == [str(snapshot / "tiny.gguf")] * 2
    assert re.search(r"could not be downloaded \(\w+: .*type: hf download org/repo", output[2])
    assert "/project/models/other.gguf" in output[3].replace(os.sep, "/")
    assert len(output) == 4
