"""The public fixtures and markers in tests of one's own."""

from __future__ import annotations

import pytest

from tests.conftest import Project


def test_each_fixture_parametrizes_by_its_own_dimension(project: Project) -> None:
    """A test that sees only the device runs once a device, not once a cell."""
    project.use_fake_engine()
    project.pytester.makepyfile(
        """
        def test_device(quant_device): assert quant_device == "cpu"
        def test_format(quant_format): assert quant_format.nominal_bits_per_weight > 4
        def test_both(quant_model, quant_format): assert quant_model == "tiny"
        def test_text(quant_text): assert quant_text == "story"
        def test_engine(quant_engine): assert quant_engine == "default"
        def test_imatrix(quant_imatrix): assert quant_imatrix is None
        def test_cell(quant_cell, quant_format): assert quant_cell.format == quant_format
        """
    )
    result = project.run("-v")
    result.assert_outcomes(passed=1 + 3 + 3 + 1 + 1 + 1 + 3)
    for name in (
        "test_device[[]cpu[]]",
        "test_format[[]Q4_0[]]",
        "test_both[[]tiny-Q4_0[]]",
        "test_text[[]story[]]",
        "test_engine[[]default[]]",
        "test_imatrix[[]None[]]",
        "test_cell[[]tiny-Q4_0-cpu[]]",
    ):
        result.stdout.fnmatch_lines([f"*::{name} PASSED*"])


def test_a_cell_has_figures_of_the_real_engine(project: Project) -> None:
    project.pytester.makepyfile(
        """
        import math

        def test_figures(quant_cell, quant_baseline):
            assert quant_cell.path.is_file()
            assert quant_cell.file_bytes == quant_cell.path.stat().st_size
            kind = quant_cell.tensor_types["blk.0.ffn_up.weight"]
            assert kind == quant_cell.format.name
            assert quant_cell.bits_per_weight < 17
            assert len(quant_cell.scores.chunks) == 16
            nats = sum(quant_cell.scores.chunks.nll_sum_nats)
            assert math.isclose(math.log(quant_cell.perplexity), nats / (16 * 31))
            assert quant_cell.scores.nll_nats.shape == (16, 31)
            assert quant_baseline is None
            assert quant_cell.is_reference == (quant_cell.format.name == "F16")
        """
    )
    result = project.run()
    assert result.ret == pytest.ExitCode.OK
    result.assert_outcomes(passed=3)


def test_markers_judge_the_cell_after_the_body(project: Project) -> None:
    project.use_fake_engine()
    project.pytester.makepyfile(
        """
        import pytest

        @pytest.mark.quant_ppl(max=7.5)
        def test_absolute(quant_cell): pass

        @pytest.mark.quant_size(max_bits_per_weight=16.5, max_vs_reference="+1%")
        def test_size(quant_cell): pass

        @pytest.mark.quant_size(max_bytes=1000)
        def test_small(quant_cell): pass

        @pytest.mark.quant_ppl(max=100)
        def test_body(quant_cell): assert quant_cell.format.name != "Q4_0"
        """
    )
    result = project.run()
    assert result.ret == pytest.ExitCode.TESTS_FAILED
    result.assert_outcomes(passed=2 + 3 + 0 + 2, failed=1 + 0 + 3 + 1)
    for line in (
        "tiny-Q4_0-cpu: REGRESSED: PPL 7.* is above 7.5",
        "tiny-Q4_0-cpu: REGRESSED: size 2,111,022 bytes is above 1,000 bytes",
    ):
        result.stdout.fnmatch_lines([line])
    assert result.stdout.str().count("= quantization gate =") == 1


def test_a_question_of_the_file_alone_scores_no_text(project: Project) -> None:
    """Every fault of scoring stays unseen, since nothing is scored."""
    project.use_fake_engine(**{"*": "crash"})
    project.pytester.makepyfile(
        """
        import pytest

        @pytest.mark.quant_size(max_bytes=10_000_000)
        def test_size(quant_cell): pass
        """
    )
    result = project.run()
    result.assert_outcomes(passed=3)
    result.stdout.fnmatch_lines(["Q4_0 * size 2,111,022 bytes is within 10,000,000 bytes*"])


def test_a_marker_against_the_reference(project: Project) -> None:
    project.use_fake_engine()
    project.pytester.makepyfile(
        """
        import pytest

        @pytest.mark.quant_ppl(max_vs_reference="+40%")
        def test_wide(quant_cell): pass

        @pytest.mark.quant_ppl(max_vs_reference="+0%")
        def test_narrow(quant_cell): pass
        """
    )
    result = project.run("-k", "wide or F16")
    result.assert_outcomes(passed=4, deselected=2)


def test_a_crash_while_a_body_measures_is_the_cells_verdict(project: Project) -> None:
    project.use_fake_engine(Q4_0="crash")
    project.pytester.makepyfile("def test_mine(quant_cell): assert quant_cell.perplexity > 1")
    result = project.run()
    assert result.ret == pytest.ExitCode.TESTS_FAILED
    result.assert_outcomes(passed=2, failed=1)
    result.stdout.fnmatch_lines(["tiny-Q4_0-cpu: CRASHED: the worker died: killed by SIGABRT*"])


def test_other_tests_are_not_touched(project: Project) -> None:
    project.pytester.makepyfile(
        """
        import pytest

        @pytest.mark.parametrize("x", [1, 2])
        def test_mine(x): pass
        """
    )
    result = project.run()
    result.assert_outcomes(passed=2)
    result.stdout.no_fnmatch_line("*quantization gate*")
