"""Tiny real models and projects that use them."""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

# pytester's in-process runs forget the modules that they import; numpy cannot be loaded twice.
import pytest_quantgate.codecs.properties
import pytest_quantgate.codecs.runner
import pytest_quantgate.matrix.planning
import pytest_quantgate.metrics.measured_cell
import pytest_quantgate.plugin.gating
import pytest_quantgate.plugin.progress
import pytest_quantgate.plugin.terminal  # noqa: F401 # stays loaded
from tests.tiny_model import Shape, write_story, write_tiny_model

TESTS = Path(__file__).parent
FORMATS = ("F16", "Q8_0", "Q4_0")


@pytest.fixture(scope="session", autouse=True)
def _own_temporary_folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Keep the lock of this host's processor apart from other runs: only figures count here."""
    patch = pytest.MonkeyPatch()
    folder = tmp_path_factory.mktemp("tmp")
    patch.setenv("TMPDIR", str(folder))
    patch.setattr(tempfile, "tempdir", str(folder))
    yield
    patch.undo()


@pytest.fixture(scope="session", autouse=True)
def _not_in_ci() -> Iterator[None]:
    """Let the tests' own runs be green without a gate, wherever these tests run."""
    patch = pytest.MonkeyPatch()
    patch.delenv("CI", raising=False)
    yield
    patch.undo()


@pytest.fixture(scope="session", autouse=True)
def _no_terminal() -> Iterator[None]:
    """Lay tables out for one width, however wide the terminal is that runs the tests.

    pytest-xdist tells its workers a width.
    """
    patch = pytest.MonkeyPatch()
    patch.setenv("COLUMNS", "160")
    yield
    patch.undo()


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A dense model of 2 layers in F16, 2 MB."""
    return write_tiny_model(tmp_path_factory.mktemp("model") / "tiny.gguf")


@pytest.fixture(scope="session")
def aborting_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model that uses more experts than it has: llama.cpp aborts the process at loading."""
    path = tmp_path_factory.mktemp("model") / "aborting.gguf"
    return write_tiny_model(path, Shape(experts=8, experts_used=9, layers=1))


@pytest.fixture(scope="session")
def story(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A text of 24 documents, some 7 kB."""
    return write_story(tmp_path_factory.mktemp("text") / "story.txt")


@pytest.fixture(scope="session")
def shared_cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A cache for all tests that do not look into theirs."""
    return tmp_path_factory.mktemp("cache")


@dataclass(frozen=True, kw_only=True)
class Project:
    """A project with a configuration, in pytester's folder."""

    pytester: pytest.Pytester
    model: Path
    text: Path
    cache: Path

    @property
    def root(self) -> Path:
        """The project's folder."""
        return self.pytester.path

    @property
    def baselines(self) -> list[Path]:
        """The stored baselines."""
        return sorted((self.root / "baselines").rglob("*.json"))

    def configure(
        self,
        *,
        formats: tuple[str, ...] = FORMATS,
        profile: str = "",
        tables: str = "",
        top: str = "",
    ) -> None:
        """Write pyproject.toml; the texts are TOML lines of the profile and of anything else."""
        lines = [
            "[tool.pytest.ini_options]",
            'filterwarnings = ["error"]',
            "[tool.quantgate]",
            top,
            "[tool.quantgate.models.tiny]",
            f"source = {json.dumps(str(self.model))}",
            "[tool.quantgate.texts.story]",
            f"source = {json.dumps(str(self.text))}",
            tables,
            "[tool.quantgate.profiles.default]",
            'models = ["tiny"]' if "models =" not in profile else "",
            f"formats = {json.dumps(formats)}",
            'texts = ["story"]' if "texts =" not in profile else "",
            "n_ctx = 64" if "n_ctx" not in profile else "",
            "n_threads = 1",
            "chunks = 16" if "chunks =" not in profile else "",
            profile,
        ]
        (self.root / "pyproject.toml").write_text("\n".join(lines) + "\n", encoding="utf-8")

    def use_fake_engine(self, **faults: str) -> None:
        """Let a fake stand in for llama.cpp, with a fault for some formats."""
        self.pytester.makeconftest((TESTS / "fake_engine.py").read_text(encoding="utf-8"))
        self.set_faults(**faults)

    def set_faults(self, **faults: str) -> None:
        """Change the fake's faults."""
        (self.root / "faults.json").write_text(json.dumps(faults))

    def run(self, *arguments: str | Path) -> pytest.RunResult:
        """Run pytest with the project's cache."""
        return self.pytester.runpytest_inprocess(
            "-p", "no:cacheprovider", f"--quant-cache={self.cache}", *arguments
        )

    def matrix(self, *arguments: str | Path) -> pytest.RunResult:
        """Run the built-in suite."""
        return self.run("--quant-matrix", *arguments)

    def accept(self, *arguments: str | Path) -> pytest.RunResult:
        """Store baselines."""
        return self.matrix("--snapshot-update", "--quant-reason=for a test", *arguments)


@pytest.fixture
def project(
    pytester: pytest.Pytester, tiny_model: Path, story: Path, shared_cache: Path
) -> Project:
    """A project with a tiny model in three formats, 16 chunks of 64 tokens."""
    made = Project(pytester=pytester, model=tiny_model, text=story, cache=shared_cache)
    made.configure()
    return made


@pytest.fixture
def own_cache(project: Project) -> Project:
    """A project whose cache is empty."""
    return Project(
        pytester=project.pytester,
        model=project.model,
        text=project.text,
        cache=project.root / "cache",
    )


@pytest.fixture(scope="session")
def llama_programs() -> Path:
    """The folder of llama.cpp's own programs."""
    folder = os.environ.get("QUANTGATE_LLAMA_BIN")
    if not folder:
        pytest.skip("QUANTGATE_LLAMA_BIN does not name the folder of llama.cpp's programs")
    return Path(folder)


@pytest.fixture(scope="session")
def wikitext() -> Path:
    """WikiText-2's test text."""
    path = os.environ.get("QUANTGATE_WIKITEXT")
    if not path:
        pytest.skip("QUANTGATE_WIKITEXT does not name wiki.test.raw")
    return Path(path)
