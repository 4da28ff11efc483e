"""What the steps of the composite actions run; the standard library alone, so that it starts first.

Inputs come as environment variables, ``INPUT_`` and the input's name, never as text inside of a
command. What a later step needs is written to the file that ``GITHUB_OUTPUT`` names.
"""

from __future__ import annotations

import hashlib
import json
import os
import platform
import re
import shlex
import subprocess
import sys
import tomllib
import venv
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pull_request

REPOSITORY = Path(__file__).resolve().parent.parent
"""This project's checkout, at the version of the action: what is installed."""

ENGINE = "llama-cpp-python"

NEWEST = "newest"
"""A version that is looked up in the package index."""

_VERSION = re.compile(r"\d+(\.\d+)*([a-z]+\d+)?")
_SHARD = re.compile(r"\d+/\d+")


class StepError(Exception):
    """What the workflow's author has to mend; one line."""


def given(name: str) -> str:
    """Return an input, stripped."""
    return os.environ.get(f"INPUT_{name.upper().replace('-', '_')}", "").strip()


def write_outputs(outputs: Mapping[str, str]) -> None:
    """Give later steps values.

    Raises:
        StepError: one has a line break, which could add a value of its own.

    """
    for name, value in outputs.items():
        if "\n" in value or "\r" in value:
            raise StepError(f"the {name} is more than one line: {value!r}")
    with Path(os.environ["GITHUB_OUTPUT"]).open("a", encoding="utf-8") as stream:
        stream.writelines(f"{name}={value}\n" for name, value in outputs.items())


def call(command: Sequence[str | Path], **environment: str) -> None:
    """Run a command.

    Raises:
        StepError: it failed.

    """
    words = [str(word) for word in command]
    print(f"$ {shlex.join(words)}", flush=True)
    status = subprocess.run(words, env={**os.environ, **environment}, check=False).returncode
    if status:
        raise StepError(f"{Path(words[0]).name} exited with {status}: {shlex.join(words)}")


def version_of(name: str) -> str:
    """Return an input that is a version of the engine, "" for none.

    Raises:
        StepError: it is no version.

    """
    version = given(name)
    if version == NEWEST:
        said = subprocess.run(
            [sys.executable, "-m", "pip", "index", "versions", ENGINE],
            check=False,
            capture_output=True,
            text=True,
        ).stdout
        found = re.match(rf"{ENGINE} \(([^)]+)\)", said)
        if found is None:
            raise StepError(f"the package index reported no version of {ENGINE}")
        return found[1]
    if version and not _VERSION.fullmatch(version):
        raise StepError(f"the input {name} is {version!r}; write a version as 0.3.36, or {NEWEST}")
    return version


def machine() -> str:
    """Name what a compiled wheel can run on, but for the instruction sets: those are chosen."""
    image = os.environ.get("ImageOS")  # noqa: SIM112 # so GitHub's runners spell it
    system = image or "-".join(filter(None, platform.libc_ver()))
    parts = (os.environ.get("RUNNER_OS") or platform.system(), platform.machine(), system)
    return "-".join(part for part in parts if part)


def home() -> Path:
    """Return the folder of what is kept between runs: at the same place on every runner."""
    return Path.home() / ".cache" / "quantgate-action"


def plan() -> None:
    """Check the inputs, and tell the next steps where everything is."""
    shard = given("shard")
    if shard and not _SHARD.fullmatch(shard):
        raise StepError(f"the input shard is {shard!r}; write K/N, as 2/4")
    version, against = version_of("llama-cpp-python"), version_of("against")
    if not version:
        raise StepError(f"the input {ENGINE} is empty; write a version as 0.3.36, or {NEWEST}")
    record = Path(os.environ["GITHUB_WORKSPACE"]) / given("report")
    if record.suffix != ".json":
        raise StepError(f"the input report is {given('report')!r}; its ending must be .json")
    outputs = {
        "record": str(record),
        "markdown": str(record.with_suffix(".md")),
        "html": str(record.with_suffix(".html")),
        "artifact": "-".join(filter(None, ("quantgate", against, shard.replace("/", "-of-")))),
        "cache": str(home() / "cache"),
        "cache-key": f"quantgate-cache-{machine()}-{shard.replace('/', '-')}",
        "version": version,
        "against": against,
    }
    build = hashlib.sha256(given("cmake-args").encode()).hexdigest()[:16]
    python = f"cp{sys.version_info.major}{sys.version_info.minor}"
    for name, wanted in (("wheel", version), ("old-wheel", against)):
        key = f"quantgate-wheel-{wanted}-{machine()}-{python}-{build}" if wanted else ""
        outputs |= {name: str(home() / "wheels" / key) if wanted else "", f"{name}-key": key}
    write_outputs(outputs)


def build_wheel(folder: Path, version: str) -> Path:
    """Return the engine's wheel from a folder, compiled now if the folder has none."""
    if not any(folder.glob("*.whl")):
        folder.mkdir(parents=True, exist_ok=True)
        # pip's own cache may hold a wheel of other options: its key does not know them.
        pip = [sys.executable, "-m", "pip", "wheel", "--no-cache-dir", "--no-deps"]
        options = ["--no-binary", ENGINE, "--wheel-dir", str(folder), f"{ENGINE}=={version}"]
        call([*pip, *options], CMAKE_ARGS=given("cmake-args"))
    return next(folder.glob("*.whl"))


def old_python() -> Path:
    """Return the interpreter that the old engine is installed for."""
    folder = Path(os.environ["RUNNER_TEMP"]) / "quantgate-old"
    return folder / ("Scripts/python.exe" if os.name == "nt" else "bin/python")


def install() -> None:
    """Install the engine, this project, and for an upgrade the old engine beside them."""
    wheel = build_wheel(Path(given("wheel")), given("version"))
    extras = given("extras")
    project = f"{REPOSITORY}[{extras}]" if extras else str(REPOSITORY)
    call([sys.executable, "-m", "pip", "install", wheel, project])
    if given("against"):
        old_wheel = build_wheel(Path(given("old-wheel")), given("against"))
        venv.create(old_python().parent.parent, with_pip=True)
        call([old_python(), "-m", "pip", "install", old_wheel])


def pytest_arguments() -> list[str]:
    """Return what pytest is called with.

    A value stands behind its option's ``=``: of one that stands apart and is a path, pytest takes
    the folder for one of tests, and may find another root folder than the project's.
    """
    record = Path(given("record"))
    values = [
        ("report", str(record)),
        ("report", str(record.with_suffix(".md"))),
        ("report", str(record.with_suffix(".html"))),
        ("cache", given("cache")),
        ("profile", given("profile")),
        ("shard", given("shard")),
        ("against", f"python={old_python()}" if given("against") else ""),
    ]
    arguments = [f"--quant-{name}={value}" for name, value in values if value]
    return ["--quant-matrix", *arguments, *shlex.split(given("arguments"))]


def run() -> int:
    """Run the matrix in the folder of the configuration, and return pytest's exit status."""
    folder = Path(os.environ["GITHUB_WORKSPACE"]) / given("config")
    if not folder.is_dir():
        raise StepError(f"the input config is {given('config')!r}, which is no folder")
    environment = {**os.environ, "PYTHONUTF8": "1"}
    # What a fork has instead of the secret: no token is something else than an empty one.
    if not environment.get("HF_TOKEN"):
        environment.pop("HF_TOKEN", None)
    command = [sys.executable, "-m", "pytest", *pytest_arguments()]
    print(f"$ {shlex.join(command)}", flush=True)
    return subprocess.run(command, cwd=folder, env=environment, check=False).returncode


def _quantgate_command(*arguments: str | Path) -> list[str]:
    program = "import sys; from pytest_quantgate.cli.main import main; sys.exit(main())"
    return [sys.executable, "-c", program, *(str(word) for word in arguments)]


def _quantgate(*arguments: str | Path) -> int:
    environment = {**os.environ, "PYTHONUTF8": "1"}
    return subprocess.run(_quantgate_command(*arguments), env=environment, check=False).returncode


def report() -> int:
    """Show the record as the step's summary and as annotations."""
    record = Path(given("record"))
    if not record.is_file():
        raise StepError("no run record was written: the run ended before; see the step above")
    return _quantgate("report", record, "--github")


def comment() -> int:
    """Write what a reviewer needs into one comment of the pull request, or update it.

    A comment that cannot be written is a warning: whether the job is red is the gate's matter.
    """
    event = json.loads(Path(os.environ["GITHUB_EVENT_PATH"]).read_text(encoding="utf-8"))
    number = pull_request.number_of(event)
    if number is None:
        print("no pull request, so no comment")
        return 0
    job = (os.environ["GITHUB_WORKFLOW"], os.environ["GITHUB_JOB"], given("artifact"))
    # Two dashes end an HTML comment.
    mark = f"<!-- quantgate: {' / '.join(job).replace('--', '- -')} -->"
    api = pull_request.Api(
        url=os.environ["GITHUB_API_URL"],
        repository=os.environ["GITHUB_REPOSITORY"],
        token=given("github-token"),
    )
    heading, _, rest = comment_text(event).partition("\n")
    text = "\n".join([heading, "", links(event), rest])
    try:
        print(f"commented: {pull_request.put_comment(api, number, mark, text)}")
    except pull_request.Refused as error:
        needs = "the job needs permissions: pull-requests: write, which a fork's has not"
        text = escaped(f"no comment was written ({error}); {needs}")
        print(f"::warning title=quantgate::{text}")
    return 0


def links(event: Mapping[str, Any]) -> str:
    """Return where the HTML report and the job's log are, and of which commit they are."""
    server, run = os.environ["GITHUB_SERVER_URL"], os.environ["GITHUB_RUN_ID"]
    told = [f"[log]({server}/{os.environ['GITHUB_REPOSITORY']}/actions/runs/{run})"]
    if given("artifact-url"):
        told.insert(0, f"[HTML report]({given('artifact-url')}) (zipped)")
    head = event.get("pull_request", {}).get("head", {}).get("sha", "")
    if head:
        told.append(f"of {head[:9]}")
    return " · ".join(told)


def comment_text(event: Mapping[str, Any]) -> str:
    """Return the comment's Markdown: the verdict, what changed of the baselines, and the rest."""
    record = Path(given("record"))
    if not record.is_file():
        return (
            "# Quantization gate: no result\n\nThe run ended before it wrote a record; see the log."
        )
    words: list[str | Path] = ["report", record, "--comment"]
    folder = Path(os.environ["GITHUB_WORKSPACE"]) / given("config")
    base = fetched_base(folder, event)
    told = _quantgate_output(folder, *words, *(["--since", base] if base else []))
    # Whatever is wrong with the baselines' past, the verdict is not lost by it.
    return told or _quantgate_output(folder, *words)


def fetched_base(folder: Path, event: Mapping[str, Any]) -> str:
    """Return the commit that the pull request would be merged into, "" where it cannot be had.

    A checkout of GitHub's test merge has one commit alone: its first parent is fetched.
    """
    commit = os.environ["GITHUB_SHA"]
    name = event.get("pull_request", {}).get("base", {}).get("sha", "")
    if os.environ["GITHUB_EVENT_NAME"] == "pull_request":
        _git(folder, "fetch", "--quiet", "--no-tags", "--depth=2", "origin", commit)
        name = f"{commit}^1"
    elif name:
        _git(folder, "fetch", "--quiet", "--no-tags", "--depth=1", "origin", name)
    return _git(folder, "rev-parse", "--verify", "--quiet", f"{name}^{{commit}}") if name else ""


def _git(folder: Path, *arguments: str) -> str:
    command = ["git", "-C", str(folder), *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return "" if done.returncode else done.stdout.strip()


def _quantgate_output(folder: Path, *arguments: str | Path) -> str:
    """Return what ``quantgate`` prints in a folder, "" where it failed; its error is in the log."""
    command = _quantgate_command(*arguments)
    environment = {**os.environ, "PYTHONUTF8": "1"}
    done = subprocess.run(
        command, cwd=folder, env=environment, stdout=subprocess.PIPE, encoding="utf-8", check=False
    )
    return "" if done.returncode else done.stdout


def install_to_merge() -> None:
    """Install this project without an engine, which joining records does not need."""
    with (REPOSITORY / "pyproject.toml").open("rb") as stream:
        needed = tomllib.load(stream)["project"]["dependencies"]
    others = [item for item in needed if not item.startswith(ENGINE)]
    call([sys.executable, "-m", "pip", "install", *others])
    call([sys.executable, "-m", "pip", "install", "--no-deps", REPOSITORY])


def merge() -> int:
    """Join the records below a folder; 1 where a cell is red or missing."""
    workspace = Path(os.environ["GITHUB_WORKSPACE"])
    folder = workspace / given("records")
    # The .json of the joined record may stand there too, from a try before.
    joined = workspace / given("report")
    if joined.suffix != ".json":
        raise StepError(f"the input report is {given('report')!r}; its ending must be .json")
    records = sorted(path for path in folder.rglob("*.json") if path != joined)
    if not records:
        raise StepError(f"there is no run record below {given('records')!r}: no shard wrote one")
    others = {"markdown": joined.with_suffix(".md"), "html": joined.with_suffix(".html")}
    write_outputs({"record": str(joined), **{name: str(path) for name, path in others.items()}})
    outputs = [word for path in (joined, *others.values()) for word in ("-o", path)]
    return _quantgate("merge", *records, *outputs)


STEPS: Mapping[str, Callable[[], int | None]] = {
    "plan": plan,
    "install": install,
    "run": run,
    "report": report,
    "comment": comment,
    "install-to-merge": install_to_merge,
    "merge": merge,
}


def escaped(text: str) -> str:
    """Return a text as a workflow command's message: one line."""
    return text.replace("%", "%25").replace("\r", "%0D").replace("\n", "%0A")


def main(arguments: Sequence[str]) -> int:
    """Run one step and return its exit status; an error becomes an annotation."""
    try:
        return STEPS[arguments[0]]() or 0
    except StepError as error:
        print(f"::error title=quantgate::{escaped(str(error))}")
        return 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
