"""The pytest plugin. This module only routes: what is heavy is imported when it is asked for.

A run without ``--quant-matrix`` and without one of the markers or fixtures in a test imports
neither numpy nor llama_cpp.
"""

from __future__ import annotations

from collections.abc import Generator
from typing import TYPE_CHECKING, Any

import pytest

import pytest_quantgate.plugin.plain_imports  # noqa: F401 # before what it is there for
from pytest_quantgate.config.metrics import MARKERS
from pytest_quantgate.plugin.fixtures import (  # noqa: F401 # found by pytest as fixtures
    _quant_point,
    quant_baseline,
    quant_cell,
    quant_codec,
    quant_codec_profile,
    quant_codecs,
    quant_device,
    quant_engine,
    quant_format,
    quant_imatrix,
    quant_kernels,
    quant_model,
    quant_text,
)
from pytest_quantgate.plugin.markers import CODEC_FIXTURES, QUANT_FIXTURES, quant_marks
from pytest_quantgate.plugin.options import add_options
from pytest_quantgate.plugin.state import STATE, UNWRITTEN, make_state

if TYPE_CHECKING:
    from pytest_quantgate.engines.engine import Engine


def pytest_addoption(parser: pytest.Parser) -> None:
    """Declare the options."""
    add_options(parser)


class Hooks:
    """Hooks that other plugins and conftest files may implement."""

    @pytest.hookspec(firstresult=True)
    def pytest_quantgate_make_engine(self, name: str, settings: Any, log: Any) -> Engine | None:
        """Return an engine of a name from the configuration, None for the usual one."""


def pytest_addhooks(pluginmanager: pytest.PytestPluginManager) -> None:
    """Declare our hooks."""
    pluginmanager.add_hookspecs(Hooks)


def pytest_configure(config: pytest.Config) -> None:
    """Register the markers; check all settings now where the matrix was asked for."""
    for name, metric in MARKERS.items():
        config.addinivalue_line("markers", f"{name}{metric.signature}: {metric.help}")
    state = make_state(config)
    config.stash[STATE] = state
    if state.options.any_suite or state.options.overrides.shard is not None:
        from pytest_quantgate.plugin.suite_nodes import prepare

        prepare(state)


@pytest.hookimpl(optionalhook=True)
def pytest_configure_node(node: Any) -> None:
    """Give a worker of pytest-xdist the id of its run."""
    node.workerinput["quant_run_id"] = node.config.stash[STATE].run_id


def pytest_unconfigure(config: pytest.Config) -> None:
    """End the worker processes, and note that the run was not killed."""
    state = config.stash.get(STATE, None)
    if state is not None:
        state.close()
        state.note_end()


def pytest_cmdline_main(config: pytest.Config) -> int | None:
    """Answer ``--quant-plan`` instead of running tests."""
    if not config.getoption("quant_plan"):
        return None
    from pytest_quantgate.plugin.plan import print_plan

    return print_plan(config)


@pytest.hookimpl(tryfirst=True)
def pytest_collection(session: pytest.Session) -> None:
    """Keep the built-in suites' node ids from being looked for on disk."""
    if session.config.stash[STATE].options.selected:
        from pytest_quantgate.plugin.suite_nodes import remove_arguments

        remove_arguments(session.config)


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(
    session: pytest.Session, config: pytest.Config, items: list[pytest.Item]
) -> None:
    """Add the built-in suite and leave other shards out, before ``-k`` and ``-m`` deselect."""
    state = config.stash[STATE]
    if state.options.any_suite:
        from pytest_quantgate.plugin.suite_nodes import collect

        items.extend(collect(session, state))
    if state.options.overrides.shard is not None:
        from pytest_quantgate.plugin.suite_nodes import deselect_other_shards

        deselect_other_shards(config, state, items)


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Parametrize a test that asks for one of the fixtures."""
    used = QUANT_FIXTURES.intersection(metafunc.fixturenames)
    if used:
        from pytest_quantgate.plugin.parametrize import generate

        generate(metafunc, used)


@pytest.hookimpl(tryfirst=True)
def pytest_collection_finish(session: pytest.Session) -> None:
    """Refuse markers and fixtures that judge nothing; let the lanes begin with the rest."""
    suspects = [
        item
        for item in session.items
        if quant_marks(item) or QUANT_FIXTURES.intersection(getattr(item, "fixturenames", ()))
    ]
    if suspects:
        from pytest_quantgate.plugin.unjudged import refuse_unjudged

        refuse_unjudged(session, suspects)
        state = session.config.stash[STATE]
        if not session.config.option.collectonly and not session.testsfailed:
            from pytest_quantgate.plugin.lanes import start_lanes

            state.lanes = start_lanes(state, session.items)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item: pytest.Item) -> Generator[None, None, None]:
    """After a test's own body, judge its cell by its markers."""
    marks = quant_marks(item)
    if marks:
        from pytest_quantgate.plugin.unjudged import fail_unjudged

        fail_unjudged(item)  # a fixture may have added one
    if CODEC_FIXTURES.intersection(getattr(item, "fixturenames", ())):
        from pytest_quantgate.plugin.gating import beside_no_speed

        yield from beside_no_speed(item)
    elif hasattr(item, "callspec") and "_quant_point" in item.callspec.params:
        from pytest_quantgate.plugin.gating import gate

        yield from gate(item)
    else:
        yield
    if quant_marks(item) != marks:
        pytest.fail(
            f"{item.nodeid}: a quant_* marker added by the test's own body judges nothing; add it"
            " in a fixture or before",
            pytrace=False,
        )


def pytest_report_teststatus(
    report: pytest.TestReport | pytest.CollectReport, config: pytest.Config
) -> tuple[str, str, str] | None:
    """Show a built-in test by its line of figures; notice that a cell was judged."""
    state = config.stash.get(STATE, None)
    if state is None or not isinstance(report, pytest.TestReport):
        return None  # a collection error is reported here too
    if any(name == "quant_verdict" for name, _ in report.user_properties):
        state.saw_cells = True  # perhaps in another process of pytest-xdist
    for name, value in report.user_properties:
        if name == UNWRITTEN:
            state.unwritten[report.nodeid] = str(value)
    if state.progress is None:
        return None
    answer: tuple[str, str, str] | None = state.progress.test_status(report)
    return answer


def pytest_report_header(config: pytest.Config) -> str | None:
    """Return which configuration the built-in suites use."""
    state = config.stash[STATE]
    if not state.options.any_suite:
        return None
    from pytest_quantgate.plugin.suite_nodes import header_line

    return header_line(state)


def pytest_sessionstart(session: pytest.Session) -> None:
    """Start to show progress, in the process that has the terminal."""
    state = session.config.stash[STATE]
    if state.options.shows_cells and not state.is_xdist_worker:
        from pytest_quantgate.plugin.progress import Progress

        state.progress = Progress.start(state.open_session())


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_sessionfinish(session: pytest.Session) -> Generator[None, None, None]:
    """Make a gated run that judged no cell red, and a shard that has none green."""
    state = session.config.stash[STATE]
    if state.lanes is not None:
        state.lanes.stop()
    if state.progress is not None:
        state.progress.stop()
    if state.session is not None and not state.is_xdist_worker:
        from pytest_quantgate.plugin.terminal import check_something_judged, silence_hypothesis

        check_something_judged(session, state)
        silence_hypothesis(session.config)
    yield
    if state.options.overrides.shard is not None and not state.is_xdist_worker:
        # After the others: syrupy joins its exit status to the one that the run had.
        from pytest_quantgate.plugin.terminal import excuse_empty_shard

        excuse_empty_shard(session, state)
    if state.lost_report:
        session.exitstatus = session.exitstatus or pytest.ExitCode.TESTS_FAILED


def pytest_terminal_summary(
    terminalreporter: pytest.TerminalReporter, config: pytest.Config
) -> None:
    """Print the table and write the report, once: in the process with the terminal."""
    state = config.stash[STATE]
    judged = state.session is not None or state.saw_cells
    if judged and not state.is_xdist_worker:
        from pytest_quantgate.plugin.terminal import summarize

        summarize(terminalreporter, state)
