"""Devices, models, texts and matrices that are there and that are not."""

from __future__ import annotations

import hashlib
import sys
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from pytest_quantgate.artifacts.file_hashes import FileHashes
from pytest_quantgate.cli.doctor import inputs, project
from pytest_quantgate.cli.doctor.findings import Section, Severity
from pytest_quantgate.cli.doctor.inputs import examine_inputs
from pytest_quantgate.cli.doctor.project import Answer, Models, project_of
from pytest_quantgate.config.settings import Settings
from pytest_quantgate.engines.messages import EngineDevice
from pytest_quantgate.gguf.reader import read_gguf
from pytest_quantgate.storage.cache import Cache
from tests.cli.doctor.conftest import Configure, examined

HUB = '[tool.quantgate.models.far]\nsource = "hf:org/repo/far.gguf"\n'
TOKEN = "hf_stand_in_for_a_secret"


def models_of(settings: Settings) -> Models:
    return Models(Cache(settings.cache_dir, settings.cache_max_bytes))


def examine(
    settings: Settings,
    *,
    is_online: bool = False,
    memory_bytes: int = 0,
    gpus: tuple[EngineDevice, ...] = (),
) -> Section:
    cpu = EngineDevice(name="cpu", description="", free_bytes=0, total_bytes=memory_bytes)
    examined_project = project_of(settings, is_online=is_online)
    examined_project.answers["default"] = Answer(
        identity=None,  # type: ignore[arg-type] # not looked at
        devices=(cpu, *gpus),
        seconds_s=0.0,
    )
    return examined(examine_inputs, examined_project)


def test_what_is_there_is_told(configure: Configure) -> None:
    section = examine(configure())
    assert section.findings == []
    assert section.lines[0] == "device cpu (cpu): there"
    assert section.lines[1].startswith("model tiny: F16, ")
    assert "24 documents" in section.lines[2]


@pytest.mark.parametrize(
    ("backend", "mend"),
    [
        ("CUDA0", 'CMAKE_ARGS="-DGGML_CUDA=ON -DGGML_NATIVE=OFF" '),
        ("Vulkan1", 'CMAKE_ARGS="-DGGML_VULKAN=ON -DGGML_NATIVE=OFF" '),
        ("Other0", "quantgate devices --engine default"),
    ],
)
def test_a_device_that_the_engine_has_not(configure: Configure, backend: str, mend: str) -> None:
    tables = f'[tool.quantgate.devices.gpu]\nbackend = "{backend}"\n'
    (finding,) = examine(configure(tables, 'devices = ["gpu"]')).findings
    assert finding.what == f"device 'gpu': engine 'default' has no '{backend}'; there are: cpu"
    assert finding.mend.startswith(mend)


ROWS = """
[tool.quantgate.devices.rows]
backend = "CUDA0,CUDA1"
split_mode = "row"
"""


def gpus(*, splits_rows: bool | None) -> tuple[EngineDevice, ...]:
    return tuple(
        EngineDevice(
            name=f"CUDA{number}",
            description="",
            free_bytes=0,
            total_bytes=0,
            splits_rows=splits_rows,
        )
        for number in range(2)
    )


def test_a_build_that_cannot_split_rows(configure: Configure) -> None:
    settings = configure(ROWS, 'devices = ["rows"]')
    section = examine(settings, gpus=gpus(splits_rows=False))
    (finding,) = section.findings
    assert finding.severity is Severity.ERROR
    assert "device 'rows': engine 'default' cannot split rows over CUDA0" in finding.what
    assert "SYCL builds of llama.cpp can, and those for CUDA and ROCm before" in finding.what
    assert 'set split_mode = "layer" under [tool.quantgate.devices.rows]' in finding.what
    assert section.facts["device rows"] is False


@pytest.mark.parametrize("splits_rows", [True, None])
def test_a_build_that_can_split_rows_or_does_not_tell(
    configure: Configure, splits_rows: bool | None
) -> None:
    section = examine(configure(ROWS, 'devices = ["rows"]'), gpus=gpus(splits_rows=splits_rows))
    assert section.findings == []
    assert section.lines[0].startswith("device rows (CUDA0, CUDA1): there")
    assert ("a run shows" in section.lines[0]) is (splits_rows is None)


def test_what_is_missing_is_named_with_what_to_do(configure: Configure) -> None:
    section = examine(
        configure(
            '[tool.quantgate.models.gone]\nsource = "gone.gguf"\n'
            '[tool.quantgate.models.packed]\nsource = "package:no_such_package/x.gguf"\n'
            '[tool.quantgate.texts.lost]\nsource = "lost.txt"\n'
            '[tool.quantgate.imatrices.im]\nfile = "im.gguf"\n',
            'models = ["gone", "packed"]\ntexts = ["lost"]\nimatrices = ["im"]',
        )
    )
    assert [line for line in section.lines if line.endswith("UNAVAILABLE")] == [
        "model gone: UNAVAILABLE",
        "model packed: UNAVAILABLE",
        "text lost: UNAVAILABLE",
        "importance matrix im: UNAVAILABLE",
    ]
    assert all(finding.severity is Severity.ERROR for finding in section.findings)
    assert section.findings[1].mend == "pip install no-such-package"
    assert section.facts == {
        "device cpu": True,
        "model gone": False,
        "model packed": False,
        "text lost": False,
        "importance matrix im": False,
    }


def test_a_text_that_is_too_short(configure: Configure, tmp_path: Path) -> None:
    (tmp_path / "short.txt").write_bytes(b"x" * 127)
    tables = '[tool.quantgate.texts.short]\nsource = "short.txt"\n'
    (finding,) = examine(configure(tables, 'texts = ["short"]')).findings
    assert "127 bytes, fewer than two chunks of 64 tokens" in finding.what
    (tmp_path / "short.txt").write_bytes(b"x" * 128)
    assert examine(configure(tables, 'texts = ["short"]')).findings == []


def test_a_matrix_of_what_is_scored(configure: Configure) -> None:
    tables = '[tool.quantgate.imatrices.own]\ntext = "story"\n'
    (finding,) = examine(configure(tables, 'imatrices = ["own"]')).findings
    assert "it would flatter the formats" in finding.what


def test_a_pinned_file_is_held_against_its_hash(configure: Configure, tiny_model: Path) -> None:
    def tables(digest: str) -> str:
        path = tiny_model.as_posix()
        return f'[tool.quantgate.models.pin]\nsource = "{path}"\nsha256 = "{digest}"\n'

    profile = 'models = ["pin"]'
    right = hashlib.sha256(tiny_model.read_bytes()).hexdigest()
    assert examine(configure(tables(right), profile)).findings == []
    (finding,) = examine(configure(tables("0" * 64), profile)).findings
    assert f"has the SHA-256 {right}, not the pinned" in finding.what


def test_every_file_of_a_model_is_looked_at(
    configure: Configure, tmp_path: Path, tiny_model: Path
) -> None:
    (tmp_path / "half.gguf").write_bytes(tiny_model.read_bytes()[:500_000])
    section = examine(
        configure(
            "[tool.quantgate.models.published]\n"
            f'files = {{ F16 = "{tiny_model.as_posix()}",'
            ' Q8_0 = "half.gguf", Q4_0 = "no.gguf" }\n',
            'models = ["published"]',
        )
    )
    first, second = section.findings
    assert first.what.startswith("model 'published': ")
    assert "half.gguf is truncated" in first.what
    assert "no.gguf does not exist" in second.what


def test_a_model_that_is_larger_than_the_devices_memory(configure: Configure) -> None:
    assert examine(configure(), memory_bytes=10_000_000).findings == []
    (finding,) = examine(configure(), memory_bytes=1_000_000).findings
    assert finding.severity is Severity.WARNING
    assert "its largest format will hardly run there" in finding.what


def test_a_shape_takes_memory_only_for_speed(configure: Configure) -> None:
    profile = 'models = ["olmoe-1b-7b"]\n'
    assert examine(configure(profile=profile), memory_bytes=10**9).findings == []
    (finding,) = examine(configure(profile=f"{profile}speed = true"), memory_bytes=10**9).findings
    assert "takes 13.8 GB and device 'cpu' has 1.0 GB" in finding.what


def test_hashing_ends_when_its_time_is_up(
    configure: Configure, tiny_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = configure()
    models = models_of(settings)
    monkeypatch.setattr(project, "HASH_S", -1.0)
    file, plain, identity = read_gguf(tiny_model), "0" * 64, "gguf-"
    assert models.hash_like(file, plain) is None
    monkeypatch.setattr(project, "HASH_S", 10.0)
    assert models.hash_like(file, plain) == hashlib.sha256(tiny_model.read_bytes()).hexdigest()
    monkeypatch.setattr(project, "HASH_S", -1.0)
    assert models.hash_like(file, plain) is not None, "it is known now"
    assert models.hash_like(file, identity) is None
    hashes = Cache(settings.cache_dir, settings.cache_max_bytes).hashes
    assert FileHashes(hashes).identity(file) == models.hash_like(file, identity), "a run hashed it"


class Hub(SimpleNamespace):
    """A stand-in for the hub's library: nothing cached, and it keeps whether it was asked."""

    def __init__(self) -> None:
        super().__init__(asked=[])

    def get_token(self) -> str:
        return TOKEN

    def hf_hub_download(self, *_positional: Any, **named: Any) -> str:
        assert named["local_files_only"] is True, "a download"
        raise OSError("not in the cache")

    def hf_hub_url(self, repository: str, file: str, revision: str | None) -> str:
        return f"{repository}/{file}@{revision}"

    def get_hf_file_metadata(self, url: str) -> SimpleNamespace:
        self.asked.append(url)
        if "private" in url:
            error = OSError("401 Client Error")
            error.response = SimpleNamespace(status_code=401)  # type: ignore[attr-defined]
            raise error
        return SimpleNamespace(size=3_000_000_000)


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Hub:
    """The library, replaced."""
    made = Hub()
    monkeypatch.setitem(sys.modules, "huggingface_hub", made)
    return made


def test_a_model_of_a_hub_is_looked_for_without_a_network(configure: Configure, hub: Hub) -> None:
    section = examine(configure(HUB, 'models = ["far"]'))
    assert hub.asked == []
    (finding,) = section.findings
    assert finding.mend == "hf download org/repo far.gguf"
    assert "is not in the hub's cache; with a network download it, or place" in finding.what
    assert section.lines[-1] == "token of the hub: there"
    assert TOKEN not in str(section)


def test_online_the_hub_is_asked_and_nothing_downloaded(configure: Configure, hub: Hub) -> None:
    section = examine(configure(HUB, 'models = ["far"]'), is_online=True)
    assert hub.asked == ["org/repo/far.gguf@None"]
    assert section.findings == []
    assert "model far: UNAVAILABLE; 3.00 GB are on the hub, a run downloads them" in section.lines


def test_online_a_model_that_the_token_does_not_open(configure: Configure, hub: Hub) -> None:
    tables = HUB.replace("repo", "private")
    (finding,) = examine(configure(tables, 'models = ["far"]'), is_online=True).findings
    assert finding.severity is Severity.ERROR
    assert "set HF_TOKEN to a token that may read it" in finding.what
    assert hub.asked


def test_a_connection_that_fails_names_no_host(
    configure: Configure, hub: Hub, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(_url: str) -> None:
        raise ConnectionError("HTTPSConnectionPool(host='proxy.example')")

    monkeypatch.setattr(hub, "get_hf_file_metadata", fail)
    section = examine(configure(HUB, 'models = ["far"]'), is_online=True)
    (finding,) = section.findings
    assert "the hub gives no size of far.gguf of org/repo (ConnectionError)" in finding.what
    assert "proxy.example" not in str(section)


def test_a_hub_that_is_silent_is_not_waited_for(
    configure: Configure, hub: Hub, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(inputs, "HUB_S", 0.5)
    monkeypatch.setattr(hub, "get_hf_file_metadata", lambda _url: time.sleep(20))
    began_s = time.monotonic()
    section = examine(configure(HUB, 'models = ["far"]'), is_online=True)
    assert time.monotonic() - began_s < 10
    (finding,) = section.findings
    assert finding.what.startswith("model 'far': the hub gives no answer within")


def test_a_missing_token_is_a_warning(
    configure: Configure, hub: Hub, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hub, "get_token", lambda: None)
    section = examine(configure(HUB, 'models = ["far"]'), is_online=True)
    (finding,) = section.findings
    assert finding.severity is Severity.WARNING
    assert finding.mend == "hf auth login"
