"""What llama.cpp's programs print is read back, on every platform's line ends and signs."""

from __future__ import annotations

import math

import pytest

from pytest_quantgate.engines.programs.output import (
    PairedReader,
    PlainReader,
    Tokens,
    read_commit,
    read_compiler,
    read_device,
    read_refusal,
    read_system_info,
    read_tensor,
    read_tokens,
    read_version,
)

ROW = (
    "   1      13.1847 {s}    2.5224       0.01760 {s}    0.02179       0.05517 {s}    0.00523"
    "     7.207 {s}  0.788 %    87.843 {s}  2.050 %"
)
STATISTICS = """
====== Perplexity statistics ======
Mean PPL(Q)                   :  13.184693 {s}   2.522400
Mean PPL(base)                :  12.950000 {s}   2.522400
Cor(ln(PPL(Q)), ln(PPL(base))):  99.30%
Mean PPL(Q)-PPL(base)         :   0.212497 {s}   0.440454
====== KL divergence statistics ======
Mean    KLD:   0.055171 {s}   0.005230
Maximum KLD:   0.899416
99.0%   KLD:   0.429457
Median  KLD:   0.038829
 0.1%   KLD:   0.000003
Minimum KLD:  -0.000003
====== Token probability statistics ======
Mean    {d}p: -0.740 {s} 0.287 %
Maximum {d}p: 33.585%
75.0%   {d}p:  0.471%
Median  {d}p: -0.015%
RMS {d}p    :  7.207 {s} 0.788 %
Same top p: 87.843 {s} 2.050 %
"""


@pytest.mark.parametrize(
    ("line", "version"),
    [
        ("version: 4589 (eb7cf15a)", "4589 (eb7cf15a)"),
        ("version: 0.5.0-dev (build 1, commit 0c1e570)", "0.5.0-dev (build 1, commit 0c1e570)"),
        ("ls (GNU coreutils) 9.1", None),
    ],
)
def test_a_version_is_all_that_stands_behind_the_word(line: str, version: str | None) -> None:
    assert read_version(line) == version


@pytest.mark.parametrize(
    ("version", "commit"),
    [
        ("4589 (eb7cf15a)", "eb7cf15a"),
        ("0.5.0-dev (build 1, commit 0c1e570)", "0c1e570"),
        ("0 (unknown)", None),
    ],
)
def test_a_version_names_its_commit(version: str, commit: str | None) -> None:
    assert read_commit(version) == commit


def test_a_version_is_followed_by_its_compiler() -> None:
    assert read_compiler("built with GNU 12.2.0 for Linux x86_64") == "GNU 12.2.0 for Linux x86_64"
    assert read_compiler("version: 4589 (eb7cf15a)") is None


def test_devices_stand_in_a_list() -> None:
    lines = ["Available devices:", "  CUDA0: NVIDIA H100 (80000 MiB)", "  (none)", "warning: none"]
    assert [read_device(line) for line in lines] == [None, "CUDA0", None, None]


def test_threads_are_no_part_of_the_system() -> None:
    line = (
        "0.00.1 I system_info: n_threads = 2 (n_threads_batch = 2) / 2 | CPU : AVX2 = 1 | X = 1 |"
    )
    assert read_system_info(line) == "CPU : AVX2 = 1 | X = 1 |"


def test_a_tensors_place_is_its_progress() -> None:
    assert read_tensor("[  12/ 272]  blk.1.attn_k.weight - [576, 192]") == (12, 272)
    assert read_tensor("llama_model_quantize_impl: quant size = 98.87 MiB") is None


def test_a_refusal_has_the_line_that_gives_the_reason() -> None:
    lines = [
        "0.00.01.000 W llama_model_loader: unknown type",
        "0.00.01.001 E llama_model_load: error loading model: missing tensor 'x'",
        "0.00.01.002 E llama_model_load_from_file_impl: failed to load model",
    ]
    assert read_refusal(lines[1:]) == "llama_model_load: error loading model: missing tensor 'x'"
    assert read_refusal(lines[:1]) is None, "a warning alone refuses nothing"
    only_that = "llama_model_load_from_file_impl: failed to load model"
    assert read_refusal(lines[2:]) == only_that


@pytest.mark.parametrize("end", [b"\n", b"\r\n"])
def test_tokens_have_the_bytes_of_their_pieces(end: bytes) -> None:
    pieces = {12: b"a", 201: b"\n", 7: b"it's", 300: "\u00e4".encode()[:1]}
    lines = [b"%6d -> '%s'" % item for item in pieces.items()]
    printed = end.join([*lines, b"Total number of tokens: 4"]) + end
    assert read_tokens(printed) == Tokens(ids=(12, 201, 7, 300), n_bytes=(1, 1, 4, 1))
    assert read_tokens(printed.replace(b"tokens: 4", b"tokens: 5")) is None
    assert read_tokens(printed[: -len(b"Total number of tokens: 4") - len(end)]) is None


@pytest.mark.parametrize(
    ("ppl", "log", "expected"), [(12.9547, 2.561455, 2.561455), (158.3411, 5.1, 5.064752)]
)
def test_the_more_exact_of_two_figures_is_taken(ppl: float, log: float, expected: float) -> None:
    """PPL above 100 has more digits than its logarithm."""
    reader = PlainReader(1)
    row = reader.read(f"       0  {ppl:.4f}  {log:.6f}  0.192490")
    assert row is not None
    assert row.mean_nll_nats == pytest.approx(expected, abs=5e-7)
    assert not reader.is_complete
    reader.read("0.03.313.882 I Final estimate: PPL = 21.3756 +/- 3.12846")
    assert reader.is_complete


@pytest.mark.parametrize("nan", ["nan", "-nan", "-nan(ind)"])
def test_not_a_number_ends_with_a_complaint(nan: str) -> None:
    reader = PlainReader(1)
    row = reader.read(f"       0  {nan}  {nan}  {nan}")
    assert row is not None
    assert math.isnan(row.mean_nll_nats)
    reader.read("Unexpected negative standard deviation of log(prob)")
    assert reader.is_complete


@pytest.mark.parametrize(
    ("sign", "delta"), [("\u00b1", "\u0394"), ("+-", "?"), ("\ufffd", "\ufffd\ufffd")]
)
def test_statistics_are_read_whatever_the_consoles_signs(sign: str, delta: str) -> None:
    reader = PairedReader(1, 255)
    assert reader.read(ROW.format(s=sign)) is None, "the last chunk waits for the statistics"
    rows = [reader.read(line) for line in STATISTICS.format(s=sign, d=delta).splitlines()]
    (last,) = (row for row in rows if row is not None)
    assert last.mean_nll_nats == pytest.approx(math.log(13.184693))
    assert last.mean_kld_nats == 0.055171
    assert last.same_top == pytest.approx(0.87843)
    assert reader.is_complete
    assert reader.summary is not None
    assert reader.summary.kld_percentiles_nats == (
        ("99", 0.429457),
        ("50", 0.038829),
        ("0.1", 3e-6),
    )
    assert reader.summary.mean_delta_p == pytest.approx(-0.0074)
    assert reader.summary.rms_delta_p == pytest.approx(0.07207)


def test_few_tokens_have_no_statistics() -> None:
    reader = PairedReader(2, 62)
    for number in (1, 2):
        row = reader.read(ROW.format(s="+-").replace("   1 ", f"   {number} ", 1))
        assert row is not None
        assert row.mean_kld_nats == 0.05517
    assert reader.is_complete
