"""The plugin costs nothing where it is not asked."""

from __future__ import annotations

import subprocess
import sys

import pytest

HEAVY = ("numpy", "scipy", "pydantic", "llama_cpp", "gguf", "psutil", "filelock")


@pytest.mark.parametrize("arguments", [(), ("--markers",), ("--fixtures",), ("--help",)])
def test_plain_pytest_imports_nothing_heavy(
    pytester: pytest.Pytester, arguments: tuple[str, ...]
) -> None:
    """In a process of its own: with the plugin, as in any project."""
    pytester.makeconftest(
        f"""
        import sys

        def pytest_unconfigure():
            loaded = [name for name in {HEAVY!r} if name in sys.modules]
            assert "pytest_quantgate.plugin" in sys.modules
            sys.stderr.write(f"heavy: {{loaded}}\\n")
        """
    )
    pytester.makepyfile("def test_mine(tmp_path): pass")
    plain = [sys.executable, "-m", "pytest", "-p", "no:xdist", "-p", "no:anyio", *arguments]
    done = subprocess.run(plain, cwd=pytester.path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout
    assert "heavy: []" in done.stderr


def test_a_collection_error_of_any_project_stays_what_it_is(pytester: pytest.Pytester) -> None:
    pytester.makepyfile("import no_such_module_anywhere")
    result = pytester.runpytest_inprocess()
    assert result.ret == pytest.ExitCode.INTERRUPTED
    result.assert_outcomes(errors=1)
    result.stdout.fnmatch_lines(["*No module named 'no_such_module_anywhere'*"])


def test_the_hooks_are_silent_without_a_cell(pytester: pytest.Pytester) -> None:
    pytester.makepyfile("def test_mine(): pass")
    result = pytester.runpytest_inprocess("-v")
    result.assert_outcomes(passed=1)
    result.stdout.no_fnmatch_line("*quant-matrix*")
