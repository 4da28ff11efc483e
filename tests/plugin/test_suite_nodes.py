"""The built-in suite's tests are tests like others: to pytest's options, hooks and arguments."""

from __future__ import annotations

import shutil

import pytest

from tests.conftest import FORMATS, Project

WAYS = pytest.mark.parametrize(
    "way",
    [
        pytest.param((), id="plain"),
        pytest.param(("-n0",), id="n0"),
        pytest.param(("-n2",), id="n2", marks=pytest.mark.slow),
    ],
)
Q4_0 = "quant-matrix::test_cell[tiny-Q4_0-cpu]"
Q8_0 = "quant-matrix::test_cell[tiny-Q8_0-cpu]"


@pytest.fixture
def faulty(project: Project) -> Project:
    """A project in which Q4_0 crashes, with a test of its own that passes."""
    project.use_fake_engine(Q4_0="crash")
    project.pytester.makepyfile(test_own="def test_own(): pass")
    return project


def run(project: Project, *arguments: str) -> pytest.RunResult:
    """Run pytest with its own cache, which ``Project.run`` has not."""
    return project.pytester.runpytest_inprocess(f"--quant-cache={project.cache}", *arguments)


def ids(result: pytest.RunResult) -> list[str]:
    """Return the ids that ``--collect-only -q`` lists."""
    return [line for line in result.outlines if "::" in line]


@WAYS
def test_the_root_conftests_hooks_and_fixtures_hold(
    faulty: Project, monkeypatch: pytest.MonkeyPatch, way: tuple[str, ...]
) -> None:
    """Those that pytest calls per test, from a sub-folder too, and no sub-folder's own."""
    conftest = faulty.root / "conftest.py"
    hooks = """
import pytest
from pathlib import Path

def note(name, item):
    with (Path(__file__).parent / "calls.txt").open("a") as stream:
        stream.write(f"{name} {item.nodeid}\\n")

@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item):
    note("call", item)
    return (yield)

@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item, call):
    report = yield
    report.sections.append(("of the conftest", item.name))
    note(call.when, item)
    return report

def pytest_itemcollected(item):
    if item.name.startswith("test_cell"):
        item.add_marker("mine")

@pytest.fixture(autouse=True)
def setup(request):
    note("fixture", request.node)
"""
    conftest.write_text(conftest.read_text() + hooks)
    below = faulty.root / "below"
    below.mkdir()
    (below / "conftest.py").write_text(
        "def pytest_runtest_call(item):\n"
        "    assert not item.name.startswith('test_cell'), 'of another folder'\n"
    )
    text = (faulty.root / "pyproject.toml").read_text()
    (faulty.root / "pyproject.toml").write_text(
        text.replace("[tool.quantgate]", 'markers = ["mine"]\n[tool.quantgate]', 1)
    )
    arguments = ("--quant-matrix", "-m", "mine", f"--rootdir={faulty.root}", *way)
    for folder in (faulty.root, below):
        shutil.copy(faulty.root / "faults.json", below)
        (faulty.root / "calls.txt").unlink(missing_ok=True)
        monkeypatch.chdir(folder)
        result = run(faulty, *arguments)
        result.assert_outcomes(passed=2, failed=1)
        result.stdout.fnmatch_lines(["*of the conftest*", "test_cell[[]tiny-Q4_0-cpu]"])
        calls = (faulty.root / "calls.txt").read_text().splitlines()
        for name in ("call", "setup", "teardown", "fixture"):
            assert f"{name} {Q4_0}" in calls
    result.stdout.fnmatch_lines(["FAILED ../quant-matrix::test_cell[[]tiny-Q4_0-cpu] - *"])
    run(faulty, f"../{Q4_0}", f"--rootdir={faulty.root}", *way).assert_outcomes(failed=1)


@WAYS
@pytest.mark.parametrize("option", [(), ("--quant-matrix",)], ids=["alone", "matrix"])
def test_a_node_id_is_an_argument(
    faulty: Project, way: tuple[str, ...], option: tuple[str, ...]
) -> None:
    """With the option and without, beside the path of a file."""
    result = run(faulty, Q4_0, "test_own.py", *option, *way)
    result.assert_outcomes(failed=1, passed=1)
    result.stdout.fnmatch_lines([f"FAILED {Q4_0} - *".replace("[", "[[]", 1)])


def test_a_functions_id_stands_for_all_its_cells(faulty: Project) -> None:
    run(faulty, "quant-matrix::test_cell", Q4_0).assert_outcomes(passed=2, failed=1)
    run(faulty, "quant-matrix", Q8_0).assert_outcomes(passed=2, failed=1)
    run(faulty, Q8_0, Q8_0).assert_outcomes(passed=1)


@WAYS
def test_an_id_of_no_test_is_an_error(faulty: Project, way: tuple[str, ...]) -> None:
    result = run(faulty, "quant-matrix::test_cell[tiny-Q9-cpu]", *way)
    assert result.ret not in (pytest.ExitCode.OK, pytest.ExitCode.INTERNAL_ERROR)
    result.stdout.fnmatch_lines(
        ["*not found: quant-matrix::test_cell[[]tiny-Q9-cpu]; the suite has test_cell; list all*"]
    )
    result.stdout.no_fnmatch_line("*INTERNALERROR*")


@WAYS
def test_last_failed_knows_the_cells(faulty: Project, way: tuple[str, ...]) -> None:
    """A failed cell is run again beside the tests of one's own, until it passes."""
    both = ("--quant-matrix", ".", *way)
    run(faulty, *both).assert_outcomes(passed=3, failed=1)
    result = run(faulty, "--lf", *both)
    assert result.ret == pytest.ExitCode.TESTS_FAILED
    result.assert_outcomes(failed=1)
    faulty.set_faults()
    run(faulty, "--lf", *both).assert_outcomes(passed=1)
    if "-n2" not in way:
        run(faulty, "--lf", *both).assert_outcomes(passed=4)


def test_last_failed_of_ones_own_is_green_in_a_gated_project(project: Project) -> None:
    """The cells that passed are left out by intent; without ``--lf`` that would be red."""
    project.configure(profile="gate = true")
    project.use_fake_engine()
    project.accept()
    project.pytester.makepyfile(test_own="def test_own(): assert False")
    both = ("--quant-matrix", ".")
    run(project, *both).assert_outcomes(passed=3, failed=1)
    project.pytester.makepyfile(test_own="def test_own(): pass")
    result = run(project, "--lf", *both)
    result.assert_outcomes(passed=1)
    assert result.ret == pytest.ExitCode.OK
    result = run(project, "-k", "own", *both)
    assert result.ret == pytest.ExitCode.TESTS_FAILED
    result.stdout.fnmatch_lines(["quantgate: no cell was judged, so the gated run is red"])


def test_options_that_order_and_choose(faulty: Project) -> None:
    """``--ff``, ``--nf``, ``--sw``, ``--deselect``, ``-k``."""
    both = ("--quant-matrix", ".", "-p", "no:randomly")
    run(faulty, *both)
    run(faulty, *both, "--nf").assert_outcomes(passed=3, failed=1)
    result = run(faulty, *both, "--ff", "--collect-only", "-q")
    assert ids(result)[0] == Q4_0
    assert len(ids(result)) == 4
    run(faulty, *both, "--sw").assert_outcomes(passed=3, failed=1)
    run(faulty, *both, "--sw").assert_outcomes(failed=1, deselected=3)
    run(faulty, *both, "--deselect", Q4_0).assert_outcomes(passed=3, deselected=1)
    run(faulty, *both, "-k", "Q8_0").assert_outcomes(passed=1, deselected=3)


@pytest.mark.parametrize("options", [("--collect-only", "-q"), ("--setup-plan",), ("--fixtures",)])
def test_a_run_that_tests_nothing_is_green_where_the_profile_gates(
    project: Project, options: tuple[str, ...]
) -> None:
    project.configure(profile="gate = true")
    project.use_fake_engine()
    result = run(project, "--quant-matrix", *options)
    assert result.ret == pytest.ExitCode.OK
    result.stdout.no_fnmatch_line("*no cell was judged*")


def test_what_an_editor_discovers_runs_by_its_id(faulty: Project) -> None:
    """The tree of nodes is one of files below the root folder, as editors build it."""
    found = ids(run(faulty, "--quant-matrix", "--collect-only", "-q"))
    assert found == [f"quant-matrix::test_cell[tiny-{name}-cpu]" for name in FORMATS]
    for nodeid in found:
        outcome = {"failed": 1} if "Q4_0" in nodeid else {"passed": 1}
        run(faulty, nodeid).assert_outcomes(**outcome)
    items, _ = faulty.pytester.inline_genitems("--quant-matrix", f"--quant-cache={faulty.cache}")
    module = items[0].getparent(pytest.Module)
    assert module is not None
    assert module.path.is_file()
    assert module.path.parent == items[0].session.path == faulty.root
