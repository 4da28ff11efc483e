"""The composite actions and workflows: every input used and documented, every command there."""

from __future__ import annotations

import importlib.util
import json
import os
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import yaml

from pytest_quantgate.cli.main import make_parser
from pytest_quantgate.plugin.options import add_options
from tests.conftest import Project

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "quantgate-action"
ACTIONS = {"quantgate-action": FOLDER, "quantgate-action/merge": FOLDER / "merge"}
WORKFLOWS = sorted((ROOT / ".github" / "workflows").glob("*.yml"))
GITLAB = ROOT / "docs" / "examples" / "gitlab-ci.yml"


def load(path: Path) -> dict[str, Any]:
    """Read a YAML file."""
    found: dict[str, Any] = yaml.safe_load(path.read_text(encoding="utf-8"))
    return found


def action(name: str) -> dict[str, Any]:
    """Read an action's metadata."""
    return load(ACTIONS[name] / "action.yml")


def all_steps() -> Iterator[tuple[str, dict[str, Any]]]:
    """Give the steps of all actions and workflows, with where they stand."""
    for name in ACTIONS:
        for step in action(name)["runs"]["steps"]:
            yield name, step
    for path in WORKFLOWS:
        for job_name, job in load(path)["jobs"].items():
            for step in job["steps"]:
                yield f"{path.name} {job_name}", step


@pytest.fixture(scope="session")
def steps() -> ModuleType:
    """The module behind the actions' steps."""
    spec = importlib.util.spec_from_file_location("quantgate_steps", FOLDER / "steps.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(FOLDER))  # as Python does for a script
        spec.loader.exec_module(module)
    return module


# Contracts over the files


@pytest.mark.parametrize("name", ACTIONS)
def test_every_input_is_used_and_documented(name: str) -> None:
    """With its default, in a table below the action's own heading."""
    text = (ACTIONS[name] / "action.yml").read_text(encoding="utf-8")
    page = (ROOT / "docs" / "how-to" / "ci.md").read_text(encoding="utf-8")
    section = page.partition(f"uses: ./{name}\n")[2].partition("\n##")[0]
    assert section, f"docs/how-to/ci.md shows no use of {name}"
    rows = dict(re.findall(r"^\| `([\w-]+)` \| (.*?) \|", section, flags=re.MULTILINE))
    found = action(name)["inputs"]
    assert set(rows) == set(found)
    for key, declared in found.items():
        assert re.search(rf"inputs\.{key}\b", text.partition("\nruns:")[2]), f"{key} is unused"
        default = str(declared["default"])
        assert rows[key] == (f"`{default}`" if default else "none"), key


def test_no_expression_stands_in_a_command() -> None:
    """What an expression gives would be read by the shell; an environment variable is not."""
    for where, step in all_steps():
        assert "${{" not in step.get("run", ""), where


def test_every_action_of_others_has_a_major_version() -> None:
    used = {step["uses"] for _, step in all_steps() if "uses" in step}
    assert used
    for name in used:
        assert name.startswith("./") or re.fullmatch(r"actions/[\w/-]+@v\d+", name), name


def test_the_inputs_of_a_step_are_those_that_it_reads() -> None:
    source = (FOLDER / "steps.py").read_text(encoding="utf-8")
    read = set(re.findall(r'(?:given|version_of)\("([\w-]+)"\)', source))
    set_ = {
        key.removeprefix("INPUT_").lower().replace("_", "-")
        for _, step in all_steps()
        for key in step.get("env", {})
        if key.startswith("INPUT_")
    }
    assert set_ == read


@pytest.mark.parametrize("name", ACTIONS)
def test_a_step_exists_and_gets_what_it_reads(name: str, steps: ModuleType) -> None:
    found = action(name)["runs"]["steps"]
    scripts = [step["run"] for step in found if "run" in step]
    words = [re.fullmatch(r'python "\$GITHUB_ACTION_PATH[\w/.]*" ([\w-]+)', run) for run in scripts]
    assert all(words)
    assert {word[1] for word in words if word} <= set(steps.STEPS)
    for step in found:
        if "run" in step:
            assert step["shell"] == "bash"


def test_outputs_are_written_by_the_steps_that_are_asked(steps: ModuleType) -> None:
    """A misspelt one would be empty, and a condition on it false."""
    text = (FOLDER / "action.yml").read_text(encoding="utf-8")
    asked = set(re.findall(r"steps\.plan\.outputs\.([\w-]+)", text))
    source = Path(steps.__file__ or "").read_text(encoding="utf-8")
    plan = source.partition("def plan()")[2].partition("\ndef ")[0]
    written = set(re.findall(r'"([\w-]+)": ', plan))
    for name in re.findall(r'\("([\w-]+)", (?:wanted|version|against)\)', plan):
        written |= {name, f"{name}-key"}
    assert asked <= written


def test_the_options_that_the_action_passes_exist(
    steps: ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("RUNNER_TEMP", str(tmp_path))
    for name in ("profile", "shard", "cache", "record", "against"):
        monkeypatch.setenv(f"INPUT_{name.upper()}", "x")
    monkeypatch.setenv("INPUT_ARGUMENTS", "-k 'a b'")
    words = steps.pytest_arguments()
    assert words[-2:] == ["-k", "a b"]
    parser = pytest.Parser(_ispytest=True)
    add_options(parser)
    known = {name for group in parser._groups for item in group.options for name in item.names()}
    assert {word.partition("=")[0] for word in words if word.startswith("--")} <= known
    assert len(words) == 10
    make_parser().parse_args(["report", "x.json", "--github"])
    make_parser().parse_args(["report", "x.json", "--comment", "--since", "HEAD"])
    make_parser().parse_args(["merge", "x.json", "-o", "a.json", "-o", "a.md"])


def test_the_wheel_is_built_for_every_processor_and_named_by_what_made_it() -> None:
    default = action("quantgate-action")["inputs"]["cmake-args"]["default"]
    assert default.split()[0] == "-DGGML_NATIVE=OFF"
    gitlab = load(GITLAB)
    assert gitlab["variables"]["CMAKE_ARGS"] == default
    version = action("quantgate-action")["inputs"]["llama-cpp-python"]["default"]
    assert gitlab["variables"]["LLAMA_CPP_PYTHON"] == version


def test_workflows_give_inputs_that_exist() -> None:
    seen = set()
    for _, step in all_steps():
        name = step.get("uses", "").removeprefix("./")
        if name in ACTIONS:
            seen.add(name)
            assert set(step.get("with", {})) <= set(action(name)["inputs"])
    assert seen == set(ACTIONS)


def test_the_gitlab_example_uses_options_that_exist() -> None:
    found = load(GITLAB)
    parser = pytest.Parser(_ispytest=True)
    add_options(parser)
    known = {name for group in parser._groups for item in group.options for name in item.names()}
    lines = [line for job in ("quantgate", "quantgate-report") for line in found[job]["script"]]
    used = set(re.findall(r"--quant-[\w-]+", " ".join(lines)))
    assert "--quant-shard" in used
    assert used <= known
    merge = next(line for line in lines if line.startswith("quantgate merge"))
    make_parser().parse_args(merge.split()[1:])


def test_joining_needs_no_engine() -> None:
    """The job that joins installs only a part of what this project depends on.

    A compiled llama-cpp-python least of all.
    """
    with (ROOT / "pyproject.toml").open("rb") as stream:
        declared = tomllib.load(stream)["project"]["dependencies"]
    depends = {re.split(r"[<>=]", item)[0] for item in declared}
    (line,) = (
        line for line in load(GITLAB)["quantgate-report"]["script"] if "install execnet" in line
    )
    installed = set(line.split()[2:])
    assert installed < depends
    missing = [name.replace("-", "_").replace("pytest_", "") for name in depends - installed]
    assert "llama_cpp_python" in missing
    program = (
        f"import sys; sys.modules |= dict.fromkeys({[*missing, 'llama_cpp']!r})\n"
        "from pytest_quantgate.cli.main import main; sys.exit(main(['merge', 'none.json']))"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=False, timeout=120
    )
    assert done.returncode == 2
    assert done.stderr.startswith("quantgate: the run record none.json cannot be read")


# The steps, run by bash with what GitHub gives them


class Runner:
    """Runs an action's scripts in order, as GitHub's runner does; pip is left out."""

    def __init__(self, workspace: Path, home: Path) -> None:
        self.workspace = workspace
        self.home = home
        for name in ("output", "summary"):
            (home / name).write_text("")
        bin_folder = home / "bin"
        bin_folder.mkdir()
        python = bin_folder / "python"  # no link: this interpreter knows its environment by path
        python.write_text(f'#!/bin/sh\nexec "{sys.executable}" "$@"\n')
        python.chmod(0o755)

    def outputs(self) -> dict[str, str]:
        """Return what the steps wrote so far."""
        lines = (self.home / "output").read_text().splitlines()
        return dict(line.split("=", 1) for line in lines)

    def value(self, text: str, inputs: dict[str, str]) -> str:
        """Evaluate a value of ``env``: one expression, an input or another step's output."""
        match = re.fullmatch(r"\$\{\{ (inputs|steps\.\w+\.outputs)\.([\w-]+) \}\}", text)
        assert match is not None, text
        values = inputs if match[1] == "inputs" else self.outputs()
        return values.get(match[2], "")

    def run(
        self, name: str, command: str, given: dict[str, str]
    ) -> subprocess.CompletedProcess[str]:
        """Run the step of a command with the action's defaults and some inputs."""
        found = action(name)
        inputs = {key: str(item["default"]) for key, item in found["inputs"].items()} | given
        (step,) = (
            step for step in found["runs"]["steps"] if step.get("run", "").endswith(f" {command}")
        )
        environment = {key: self.value(text, inputs) for key, text in step.get("env", {}).items()}
        return subprocess.run(
            ["bash", "--noprofile", "--norc", "-eo", "pipefail", "-c", step["run"]],
            cwd=self.workspace,
            env={
                **os.environ,
                "PATH": f"{self.home / 'bin'}{os.pathsep}{os.environ['PATH']}",
                "HOME": str(self.home),
                "GITHUB_ACTION_PATH": str(ACTIONS[name]),
                "GITHUB_WORKSPACE": str(self.workspace),
                "GITHUB_OUTPUT": str(self.home / "output"),
                "GITHUB_STEP_SUMMARY": str(self.home / "summary"),
                "RUNNER_TEMP": str(self.home),
                "RUNNER_OS": "Linux",
                "ImageOS": "ubuntu24",
                **environment,
            },
            capture_output=True,
            text=True,
            check=False,
            timeout=300,
        )


@pytest.fixture
def runner(project: Project, tmp_path_factory: pytest.TempPathFactory) -> Runner:
    """A runner whose checkout is a project with a tiny model in three formats."""
    return Runner(project.root, tmp_path_factory.mktemp("home"))


def test_two_shards_and_their_joining_run_through_the_actions_scripts(
    runner: Runner, project: Project
) -> None:
    """A real engine and model; the joined record is the whole, and all is shown."""
    (project.root / "records").mkdir()
    for number in (1, 2):
        given = {"shard": f"{number}/2", "report": f"records/shard-{number}.json"}
        assert runner.run("quantgate-action", "plan", given).returncode == 0
        outputs = runner.outputs()
        assert outputs["artifact"] == f"quantgate-{number}-of-2"
        assert (
            outputs["cache-key"]
            == f"quantgate-cache-Linux-{os.uname().machine}-ubuntu24-{number}-2"
        )
        ran = runner.run("quantgate-action", "run", given)
        assert ran.returncode == 0, ran.stdout + ran.stderr
        assert f"shard {number}/2" in ran.stdout
        assert f"rootdir: {project.root}\n" in ran.stdout, "whatever other folders are there"
        assert Path(outputs["markdown"]).is_file()
    given = {"records": "records", "report": "all.json"}
    merged = runner.run("quantgate-action/merge", "merge", given)
    assert merged.returncode == 0, merged.stdout + merged.stderr
    assert merged.stdout.startswith("3 cells: 3 MEASURED\n")
    assert runner.run("quantgate-action/merge", "report", given).returncode == 0
    cells = json.loads((project.root / "all.json").read_text())["cells"]
    assert [cell["id"] for cell in cells] == ["tiny-F16-cpu", "tiny-Q8_0-cpu", "tiny-Q4_0-cpu"]
    summary = (runner.home / "summary").read_text()
    assert summary.startswith(
        "# Quantization gate: nothing was gated (3 cells without a comparison)\n"
    )


def test_a_red_run_keeps_its_exit_status_and_its_cells_are_annotated(
    runner: Runner, project: Project, aborting_model: Path
) -> None:
    project.configure(
        formats=("F16",), tables=f'[tool.quantgate.models.bad]\nsource = "{aborting_model}"'
    )
    given = {"arguments": "--quant-model 'bad' -q"}
    assert runner.run("quantgate-action", "plan", given).returncode == 0
    assert runner.run("quantgate-action", "run", given).returncode == 1
    shown = runner.run("quantgate-action", "report", given)
    assert shown.returncode == 0
    (line,) = shown.stdout.splitlines()
    assert line.startswith("::error title=bad-F16-cpu CRASHED::the worker died: killed by SIGABRT")
    assert "%0A" in line


def test_a_run_that_wrote_no_record_is_told(runner: Runner) -> None:
    given = {"arguments": "--quant-formats=Q4_9"}
    assert runner.run("quantgate-action", "plan", given).returncode == 0
    ran = runner.run("quantgate-action", "run", given)
    assert ran.returncode == pytest.ExitCode.USAGE_ERROR
    shown = runner.run("quantgate-action", "report", given)
    assert shown.returncode == 1
    assert shown.stdout.startswith("::error title=quantgate::no run record was written")
    merged = runner.run("quantgate-action/merge", "merge", {"records": "nowhere"})
    assert merged.returncode == 1
    assert merged.stdout.startswith("::error title=quantgate::there is no run record below")


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ({"shard": "a"}, "the input shard is 'a'; write K/N, as 2/4"),
        ({"llama-cpp-python": ""}, "the input llama-cpp-python is empty; write a version"),
        ({"llama-cpp-python": "--pre x"}, "the input llama-cpp-python is '--pre x'; write a"),
        ({"against": "new"}, "the input against is 'new'; write a version as 0.3.36, or newest"),
        ({"report": "a.md"}, "the input report is 'a.md'; its ending must be .json"),
        ({"report": "a\nx=y.json"}, "the record is more than one line"),
    ],
)
def test_an_input_that_cannot_be_used_is_told(
    runner: Runner, given: dict[str, str], told: str
) -> None:
    planned = runner.run("quantgate-action", "plan", given)
    assert planned.returncode == 1
    assert planned.stdout.startswith(f"::error title=quantgate::{told}")
    assert not runner.outputs()


def test_nothing_that_an_input_says_is_run(runner: Runner, project: Project) -> None:
    """Neither by the shell, nor as a further option of what is called."""
    evil = '$(touch pwned)`touch pwned`"; touch pwned; echo "'
    for name in ("shard", "llama-cpp-python", "cmake-args", "against", "report", "profile"):
        runner.run("quantgate-action", "plan", {name: evil})
    assert runner.run("quantgate-action", "plan", {}).returncode == 0
    for name in ("config", "profile", "arguments"):
        given = {name: "$(touch pwned); touch pwned"}
        assert runner.run("quantgate-action", "run", given).returncode != 0
    assert not list(project.root.rglob("pwned"))
    assert not list(runner.home.rglob("pwned"))


def test_wheels_are_kept_apart_by_all_that_makes_them(runner: Runner) -> None:
    keys = []
    for given in (
        {},
        {"cmake-args": "-DGGML_NATIVE=ON"},
        {"llama-cpp-python": "0.3.35"},
        {"llama-cpp-python": "0.3.35", "against": "0.3.36"},
    ):
        (runner.home / "output").write_text("")
        assert runner.run("quantgate-action", "plan", given).returncode == 0
        outputs = runner.outputs()
        assert outputs["wheel"].endswith(outputs["wheel-key"])
        keys.append(outputs["wheel-key"])
        python = f"cp{sys.version_info.major}{sys.version_info.minor}"
        assert f"-Linux-{os.uname().machine}-ubuntu24-{python}-" in outputs["wheel-key"]
    assert len(set(keys[:3])) == 3
    assert keys[2] == keys[3]
    assert outputs["old-wheel-key"] == keys[0]
    assert outputs["artifact"] == "quantgate-0.3.36"


def test_installing_builds_a_wheel_once_and_takes_the_old_engine_apart(
    steps: ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    calls: list[tuple[list[str], str | None]] = []

    def call(command: list[str | Path], **environment: str) -> None:
        words = [str(word) for word in command]
        calls.append((words, environment.get("CMAKE_ARGS")))
        if "wheel" in words:
            folder = Path(words[words.index("--wheel-dir") + 1])
            (folder / "llama_cpp_python-1-py3-none-any.whl").touch()

    made: list[Path] = []
    monkeypatch.setattr(steps, "call", call)
    monkeypatch.setattr(steps.venv, "create", lambda folder, **_: made.append(folder))
    for name, value in {
        "RUNNER_TEMP": str(tmp_path),
        "INPUT_CMAKE_ARGS": "-DGGML_NATIVE=OFF",
        "INPUT_EXTRAS": "hf",
        "INPUT_VERSION": "0.3.36",
        "INPUT_WHEEL": str(tmp_path / "new"),
        "INPUT_AGAINST": "0.3.30",
        "INPUT_OLD_WHEEL": str(tmp_path / "old"),
    }.items():
        monkeypatch.setenv(name, value)
    steps.install()
    built = [(words[-1], arguments) for words, arguments in calls if "wheel" in words]
    assert built == [
        ("llama-cpp-python==0.3.36", "-DGGML_NATIVE=OFF"),
        ("llama-cpp-python==0.3.30", "-DGGML_NATIVE=OFF"),
    ]
    assert calls[1][0][-2:] == [
        str(tmp_path / "new" / "llama_cpp_python-1-py3-none-any.whl"),
        f"{ROOT}[hf]",
    ]
    assert calls[3][0][0] == str(steps.old_python())
    assert made == [tmp_path / "quantgate-old"]
    calls.clear()
    steps.install()
    assert not [words for words, _ in calls if "wheel" in words]


def test_joining_installs_all_but_the_engine(
    steps: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[list[str]] = []
    monkeypatch.setattr(steps, "call", lambda command: calls.append([str(w) for w in command]))
    steps.install_to_merge()
    assert not any("llama" in word for word in calls[0])
    assert {"pydantic>=2.7", "numpy>=1.26"} <= set(calls[0])
    assert calls[1][-2:] == ["--no-deps", str(ROOT)]


def test_a_command_that_fails_is_told(
    steps: ModuleType, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(
        steps.STEPS, "fail", lambda: steps.call([sys.executable, "-c", "raise SystemExit(3)"])
    )
    assert steps.main(["fail"]) == 1
    assert f"::error title=quantgate::{Path(sys.executable).name} exited with 3: " in (
        capsys.readouterr().out
    )


def test_an_empty_token_is_none(
    steps: ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """What a fork gets for a secret is an empty text."""
    seen: list[dict[str, str]] = []

    def run(command: list[str], **options: Any) -> subprocess.CompletedProcess[str]:
        seen.append(options["env"])
        return subprocess.CompletedProcess(command, 0)

    monkeypatch.setattr(steps.subprocess, "run", run)
    monkeypatch.setenv("GITHUB_WORKSPACE", str(tmp_path))
    monkeypatch.setenv("INPUT_RECORD", "run.json")
    for token in ("", "hf_token"):
        monkeypatch.setenv("HF_TOKEN", token)
        assert steps.run() == 0
    assert "HF_TOKEN" not in seen[0]
    assert seen[1]["HF_TOKEN"] == "hf_token"


def test_the_newest_version_is_looked_up(
    steps: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    said = "llama-cpp-python (0.4.0)\nAvailable versions: 0.4.0, 0.3.36\n"

    def run(command: list[str], **_: Any) -> subprocess.CompletedProcess[str]:
        assert command[1:] == ["-m", "pip", "index", "versions", "llama-cpp-python"]
        return subprocess.CompletedProcess(command, 0, stdout=said)

    monkeypatch.setattr(steps.subprocess, "run", run)
    monkeypatch.setenv("INPUT_AGAINST", "newest")
    assert steps.version_of("against") == "0.4.0"
    said = "nothing"
    with pytest.raises(steps.StepError, match="reported no version of llama-cpp-python"):
        steps.version_of("against")
