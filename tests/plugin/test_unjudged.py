"""A marker or fixture that judges nothing is an error, wherever it was added."""

from __future__ import annotations

import pytest

from tests.conftest import Project

WITHOUT_CELL = "@quant_ppl is on a test without a cell; add the argument quant_cell"
UNKNOWN = "@quant_ppl has the unknown keyword 'nonsense'; valid: max, max_vs_reference,"

TEST_CASE = """
    import unittest, pytest

    class TestIt(unittest.TestCase):
        @pytest.mark.quant_ppl(max=1, nonsense=3)
        def test_it(self): pass
"""
CLASS = """
    import pytest

    @pytest.mark.quant_ppl(max=1)
    class TestIt:
        def test_it(self): pass
"""
MODULE = """
    import unittest, pytest
    pytestmark = pytest.mark.quant_ppl(max=1)

    class TestIt(unittest.TestCase):
        def test_it(self): pass
"""
USED_BY_TEST_CASE = """
    import unittest, pytest

    @pytest.mark.usefixtures("quant_cell")
    class TestIt(unittest.TestCase):
        def test_it(self): pass
"""
SKIPPED = """
    import pytest

    @pytest.mark.skip
    @pytest.mark.quant_ppl(max=1)
    def test_it(): pass
"""
SKIPPED_KEYWORD = """
    import pytest

    @pytest.mark.skipif(True, reason="why not")
    @pytest.mark.quant_ppl(nonsense=1)
    def test_it(quant_cell): pass
"""
PARAM = """
    import pytest

    @pytest.mark.parametrize("x", [pytest.param(1, marks=pytest.mark.quant_ppl(nonsense=1))])
    def test_it(quant_cell, x): pass
"""
OTHER_FIXTURE = """
    import pytest

    @pytest.mark.quant_ppl(max=1)
    def test_it(quant_model, quant_codec_profile): pass
"""
MISSPELT = """
    import pytest

    @pytest.mark.quant_pll(max=1)
    def test_it(quant_cell): pass
"""
IN_SOURCE = {
    "TestCase": (TEST_CASE, UNKNOWN),
    "class": (CLASS, WITHOUT_CELL),
    "module": (MODULE, WITHOUT_CELL),
    "fixture of a TestCase": (
        USED_BY_TEST_CASE,
        "the fixture quant_cell cannot be used here: pytest parametrizes no TestCaseFunction;",
    ),
    "skipped": (SKIPPED, WITHOUT_CELL),
    "keyword of a skipped one": (SKIPPED_KEYWORD, UNKNOWN),
    "param": (PARAM, UNKNOWN),
    "other fixture": (OTHER_FIXTURE, WITHOUT_CELL),
    "misspelt": (MISSPELT, "@quant_pll is unknown (did you mean @quant_ppl?); valid: quant_ppl,"),
}

PLAIN_TEST = "def test_it(quant_model): pass\n"
DOCTEST = 'def double(x):\n    """Double.\n\n    >>> 1 + 1\n    2\n    """\n'
YAML_ITEMS = """
class YamlFile(pytest.File):
    def collect(self):
        yield YamlItem.from_parent(self, name="of_yaml")

class YamlItem(pytest.Item):
    def runtest(self): pass

def pytest_collect_file(file_path, parent):
    if file_path.suffix == ".yaml":
        return YamlFile.from_parent(parent, path=file_path)
"""
ADDED = """
    for item in items:
        item.add_marker(pytest.mark.quant_ppl({}))
"""
HOOKS = {
    "first": "@pytest.hookimpl(tryfirst=True)\ndef pytest_collection_modifyitems(items):" + ADDED,
    "wrapper": "@pytest.hookimpl(wrapper=True)\ndef pytest_collection_modifyitems(items):"
    "\n    yield" + ADDED,
    "itemcollected": "def pytest_itemcollected(item):\n    items = [item]" + ADDED,
}


def check(project: Project, line: str, *arguments: str) -> None:
    """Run and expect one error of collection, which names the test, and nothing of it run."""
    result = project.run(*arguments)
    assert result.ret == pytest.ExitCode.INTERRUPTED
    assert result.parseoutcomes() == {"errors": 1} | (
        {"warnings": 1} if "quant_pll" in line else {}
    )
    assert any(line in text and "::" in text for text in result.outlines)


@pytest.mark.parametrize(("source", "line"), IN_SOURCE.values(), ids=IN_SOURCE.keys())
def test_in_a_tests_own_source(project: Project, source: str, line: str) -> None:
    project.use_fake_engine()
    project.pytester.makepyfile(source)
    check(project, line, "-W", "default")


@pytest.mark.parametrize("hook", HOOKS.values(), ids=HOOKS.keys())
@pytest.mark.parametrize("kind", ["function", "doctest", "yaml"])
def test_added_by_a_hook(project: Project, hook: str, kind: str) -> None:
    project.use_fake_engine()
    plugin = "import pytest\n" + YAML_ITEMS + hook.format("max=1")
    project.pytester.makepyfile(hooks=plugin)
    match kind:
        case "function":
            project.pytester.makepyfile(PLAIN_TEST)
        case "doctest":
            project.pytester.makepyfile(documented=DOCTEST)
        case "yaml":
            (project.root / "cells.yaml").touch()
    project.pytester.syspathinsert()
    check(project, WITHOUT_CELL, "-p", "hooks", "--doctest-modules")


def test_an_unknown_keyword_added_by_a_hook(project: Project) -> None:
    """After the test was parametrized; a keyword that is known judges."""
    project.use_fake_engine()
    project.pytester.makepyfile("def test_it(quant_cell): pass")
    project.pytester.syspathinsert()
    for keywords in ("nonsense=1", "max=1"):
        hook = HOOKS["wrapper"].format(keywords)
        project.pytester.makepyfile(**{f"hooks_{keywords[:3]}": "import pytest\n" + hook})
    check(project, UNKNOWN, "-p", "hooks_non")
    project.run("-p", "hooks_max").assert_outcomes(failed=3)


def test_the_others_run_under_xdist(project: Project) -> None:
    project.use_fake_engine()
    project.pytester.makepyfile(test_case=TEST_CASE, test_other="def test_other(): pass")
    result = project.run("-n2")
    assert result.ret != pytest.ExitCode.OK
    assert result.parseoutcomes() == {"passed": 1, "errors": 1}
    result.stdout.no_fnmatch_line("*INTERNALERROR*")


@pytest.mark.parametrize(
    ("source", "line"),
    [
        ("def test_it(request): request.getfixturevalue('quant_cell')", "quant_cell is no arg*"),
        (
            "def test_it(quant_model, request): request.getfixturevalue('quant_format')",
            "quant_format is no argument of the test*",
        ),
        (
            "import pytest\n"
            "def test_it(request):\n    request.node.add_marker(pytest.mark.quant_ppl(max=1))",
            "*::test_it: a quant_[*] marker added by the test's own body judges nothing; *",
        ),
        (
            "import pytest\n@pytest.fixture(autouse=True)\n"
            "def mark(request): request.applymarker(pytest.mark.quant_ppl(max=1))\n"
            "def test_it(): pass",
            "*::test_it: @quant_ppl is on a test without a cell; add the argument quant_cell",
        ),
    ],
    ids=["no cell", "part of a cell", "marker in the body", "marker in a fixture"],
)
def test_asked_for_while_a_test_runs(project: Project, source: str, line: str) -> None:
    project.use_fake_engine()
    project.pytester.makepyfile(source)
    result = project.run()
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines([line])
    result.stdout.no_fnmatch_line("*Traceback*")


def test_usefixtures_and_markers_of_ones_own_are_no_errors(project: Project) -> None:
    project.use_fake_engine()
    project.pytester.makepyfile(
        """
        import pytest

        @pytest.mark.usefixtures("quant_cell")
        @pytest.mark.quant_ppl(max=1)
        def test_used(): pass

        @pytest.mark.quant_mine
        def test_own(): pass
        """
    )
    result = project.run("-o", "markers=quant_mine: of this project")
    result.assert_outcomes(failed=3, passed=1)
