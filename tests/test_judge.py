"""Pure decisions: measurement × limit × baseline → verdict, evidence and cause."""

from __future__ import annotations

import hashlib
import math
import re
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytest_quantgate.baselines.schema import (
    Anchor,
    Baseline,
    Chunks,
    Key,
    MadeBy,
    Perplexity,
    Size,
)
from pytest_quantgate.baselines.tensors import pack_tensors
from pytest_quantgate.cause import find_cause
from pytest_quantgate.formats import FILE_TYPES, find_format
from pytest_quantgate.judge import conclude, declared_looks
from pytest_quantgate.judging.bounds import Look
from pytest_quantgate.judging.perplexity import judge_perplexity
from pytest_quantgate.judging.size import judge_size
from pytest_quantgate.limits import default_limits, merge_limits
from pytest_quantgate.metrics.perplexity import (
    ChunkScore,
    PerplexityMeasurement,
    token_changes,
)
from pytest_quantgate.metrics.size import SizeMeasurement
from pytest_quantgate.models.gguf_file import TensorDigest
from pytest_quantgate.observation import Observation, percent
from pytest_quantgate.tables import Limits
from pytest_quantgate.verdicts import Verdict, VerdictKind, worst

LAST = declared_looks((16,))[0]
FORMAT = find_format("Q4_K_M")
TENSORS = (
    TensorDigest(name="token_embd.weight", type="Q6_K", sha256="a" * 64),
    TensorDigest(name="blk.0.attn_q.weight", type="Q4_K", sha256="b" * 64),
    TensorDigest(name="blk.1.attn_q.weight", type="Q4_K", sha256="c" * 64),
)
MADE_BY = MadeBy(
    engine="e 1",
    llama_cpp="b1",
    library_sha256="1",
    quantizer_sha256="2",
    system_info="AVX2",
    cpu="c",
    platform="p",
    n_threads=1,
    n_batch=64,
    n_ubatch=64,
)
METADATA = {"llama.rope.freq_base": "100000.0", "tokenizer.ggml.pre": "smollm"}
KEY = Key(
    model="m",
    format="Q4_K_M",
    imatrix=None,
    text="t",
    n_ctx=64,
    flash_attention=True,
    type_k="F16",
    type_v="F16",
    device_kind="cpu",
)


def measurement(
    shift: float | list[float] = 0.0, n_chunks: int = 16, ids: str = "ids"
) -> PerplexityMeasurement:
    """Return chunks of 100 tokens, a document each, shifted by so many nats a token."""
    shifts = [shift] * n_chunks if isinstance(shift, float) else shift
    random = np.random.default_rng(5)
    nll = random.uniform(1, 3, (n_chunks, 100)) + np.array(shifts)[:, None]
    return PerplexityMeasurement(
        chunks=tuple(
            ChunkScore(
                index=number,
                tokens=100,
                nll_sum_nats=float(nll[number].sum()),
                token_ids_sha256=hashlib.sha256(f"{ids}{number}".encode()).hexdigest(),
                top_tokens_sha256="0" * 64,
                document=number,
                domain=None,
            )
            for number in range(n_chunks)
        ),
        nll_nats=nll.astype(np.float32),
        top_tokens=np.zeros((n_chunks, 100), dtype=np.int32),
        n_chunks_in_text=100,
        seconds_s=1.0,
    )


def size(file_bytes: int = 1_000_000, bits: float = 4.9) -> SizeMeasurement:
    """Return a size."""
    return SizeMeasurement(
        file_bytes=file_bytes,
        tensor_bytes=file_bytes,
        n_weights=1_600_000,
        bits_per_weight=bits,
        bytes_by_type={},
        bytes_by_part={},
        tensors_by_type={},
        tensor_types={},
        fallbacks=(),
        fallback_fraction=0.0,
        no_effect=False,
    )


def observe(**changes: object) -> Observation:
    """Return an observation that equals the baseline, or as changed."""
    usual = Observation(
        perplexity=measurement(),
        reference=None,
        divergence=None,
        reference_file_bytes=None,
        size=size(),
        tensors=TENSORS,
        metadata=METADATA,
        made_by=MADE_BY,
        source_sha256="s",
        text_sha256="t" * 64,
        text_sha256_with_lf="t" * 64,
        quantizer_cpu="AVX2",
        same_computation=False,
        tokens_changed=None,
    )
    return replace(usual, **changes)  # type: ignore[arg-type]


def baseline_of(seen: Observation) -> Baseline:
    """Return the baseline that accepts an observation."""
    chunks = seen.scored.chunks
    sums = tuple(chunk.nll_sum_nats for chunk in chunks)
    indices = tuple(chunk.index for chunk in chunks)
    return Baseline(
        key=KEY,
        source_sha256=seen.source_sha256,
        made_by=MADE_BY,
        perplexity=Perplexity(
            ppl=seen.scored.perplexity,
            text_sha256=seen.text_sha256,
            per_token_sha256="",
            chunks=Chunks(
                index=indices,
                tokens=tuple(chunk.tokens for chunk in chunks),
                nll_sum_nats=sums,
                token_ids=tuple(chunk.token_ids_sha256[:16] for chunk in chunks),
                top_tokens=("0" * 16,) * len(chunks),
                document=tuple(chunk.document for chunk in chunks),
            ),
        ),
        size=Size(
            file_bytes=seen.size.file_bytes,
            bits_per_weight=seen.size.bits_per_weight,
            fallback_fraction=0.0,
            tensors=pack_tensors(seen.tensors),
        ),
        metadata=seen.metadata,
        anchor=Anchor(index=indices, nll_sum_nats=sums, file_bytes=seen.size.file_bytes),
        reason="first",
    )


BASELINE = baseline_of(observe())


def judge(
    seen: Observation,
    limits: Limits | None = None,
    baseline: Baseline | None = BASELINE,
    *,
    look: Look = LAST,
) -> Verdict:
    """Judge both metrics by the format's default limits, or by some."""
    limits = limits or default_limits(FORMAT)
    judgements = judge_perplexity(seen, limits, baseline, look)
    judgements += judge_size(seen, limits, baseline, look)
    return conclude(judgements, seen, baseline)


def wobble(shift: float, amplitude: float = 0.0005) -> list[float]:
    """Return shifts around a mean that are not all equal."""
    return [shift + amplitude * math.sin(number) for number in range(16)]


def test_equal_values_pass_as_identical() -> None:
    verdict = judge(observe())
    assert verdict.kind is VerdictKind.PASS
    assert "PPL identical to the baseline's on 1,600 tokens" in verdict.reason
    assert verdict.cause is None


def test_a_clear_loss_is_regressed_with_its_evidence() -> None:
    seen = observe(perplexity=measurement(wobble(0.05)))
    verdict = judge(seen)
    assert verdict.kind is VerdictKind.REGRESSED
    (judgement,) = [item for item in verdict.judgements if item.metric == "perplexity"]
    assert judgement.estimate == pytest.approx(math.expm1(0.05), abs=0.001)
    assert judgement.low is not None
    assert judgement.estimate is not None
    assert 0.0025 < judgement.low < judgement.estimate
    assert judgement.limit == 0.0025
    assert "over 16 chunks in 16 clusters, limit +0.25 %" in judgement.reason


def test_a_clear_gain_is_improved_and_green() -> None:
    verdict = judge(observe(perplexity=measurement(wobble(-0.05))))
    assert verdict.kind is VerdictKind.IMPROVED
    assert verdict.kind.is_green


def test_a_gain_of_perplexity_does_not_hide_a_larger_file() -> None:
    seen = observe(perplexity=measurement(wobble(-0.05)), size=size(1_100_000))
    assert judge(seen).kind is VerdictKind.REGRESSED


def test_a_small_loss_within_the_limit_passes() -> None:
    assert judge(observe(perplexity=measurement(wobble(0.001, 0.0002)))).kind is VerdictKind.PASS


def test_a_limit_between_the_bounds_is_inconclusive_and_says_how_many_more_chunks() -> None:
    verdict = judge(observe(perplexity=measurement(wobble(0.004, 0.05))))
    assert verdict.kind is VerdictKind.INCONCLUSIVE
    assert "the limit lies between the confidence bounds" in verdict.reason
    (judgement,) = [item for item in verdict.judgements if item.metric == "perplexity"]
    assert judgement.more_chunks is not None
    assert f"about {judgement.more_chunks:,} more chunks would decide" in verdict.reason
    assert "(the text has 84 more)" in verdict.reason


def test_few_clusters_are_inconclusive_unless_bit_equal() -> None:
    short = baseline_of(observe(perplexity=measurement(n_chunks=5)))
    assert judge(observe(perplexity=measurement(n_chunks=5)), baseline=short).kind is (
        VerdictKind.PASS
    )
    other = judge(observe(perplexity=measurement([0.05] * 5, n_chunks=5)), baseline=short)
    assert other.kind is VerdictKind.INCONCLUSIVE
    assert "too few clusters" in other.reason


def test_equal_values_at_an_early_look_wait_for_the_rest_of_the_text() -> None:
    """Unless file, libraries and processor are the baseline's: then they stay equal."""
    early = declared_looks((16, 64))[0]
    assert judge(observe(), look=early).kind is VerdictKind.INCONCLUSIVE
    assert judge(observe(same_computation=True), look=early).kind is VerdictKind.PASS


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize(
    "limits",
    [
        Limits(),
        Limits(ppl_max=1e9),
        Limits(ppl_vs_baseline=1e9),
        Limits(ppl_vs_reference=1e9),
        Limits(ppl_max=1e9, size_max_bytes=1e9),
    ],
)
def test_what_is_not_finite_is_invalid_whatever_the_limits(value: float, limits: Limits) -> None:
    shifts = [0.0] * 15 + [value]
    with np.errstate(invalid="ignore"):
        seen = observe(perplexity=measurement(shifts), reference=measurement())
    verdict = judge(seen, limits)
    assert verdict.kind is VerdictKind.INVALID
    assert not verdict.kind.is_green


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_reference_that_is_not_finite_passes_nothing(value: float) -> None:
    reference = measurement([value] + [0.0] * 15)
    verdict = judge(observe(reference=reference), Limits(ppl_vs_reference=0.05))
    assert verdict.kind is VerdictKind.INVALID


@given(
    shifts=st.lists(
        st.floats(-0.5, 0.5) | st.sampled_from([math.nan, math.inf]), min_size=16, max_size=16
    )
)
def test_green_means_that_every_chunk_was_finite_and_the_mean_within_the_limit(
    shifts: list[float],
) -> None:
    verdict = judge(observe(perplexity=measurement(shifts)))
    if verdict.kind.is_green:
        assert all(math.isfinite(shift) for shift in shifts)
        assert sum(shifts) / 16 <= math.log1p(0.0025) + 1e-9


def test_without_limits_a_cell_is_measured() -> None:
    assert judge(observe(), Limits(), None).kind is VerdictKind.MEASURED


def test_a_text_with_other_line_ends_is_not_comparable_and_named() -> None:
    seen = observe(text_sha256="x" * 64, text_sha256_with_lf="t" * 64)
    verdict = judge(seen)
    assert verdict.kind is VerdictKind.NOT_COMPARABLE
    assert "it has CRLF line ends where the baseline's text had LF" in verdict.reason


def test_another_text_is_not_comparable() -> None:
    verdict = judge(observe(text_sha256="x" * 64, text_sha256_with_lf="x" * 64))
    assert verdict.kind is VerdictKind.NOT_COMPARABLE
    assert "CRLF" not in verdict.reason


def test_another_source_is_not_comparable_whatever_its_size() -> None:
    """A size against the baseline of another model would say nothing either."""
    verdict = judge(observe(source_sha256="other", size=size(2_000_000)))
    assert verdict.kind is VerdictKind.NOT_COMPARABLE
    assert "the model's source is another file than the baseline's" in verdict.reason


def test_a_baseline_of_other_chunks_is_not_comparable() -> None:
    few = observe(perplexity=measurement().first(4))
    later = replace(
        few.scored, chunks=tuple(replace(c, index=c.index + 50) for c in few.scored.chunks)
    )
    verdict = judge(few, baseline=baseline_of(observe(perplexity=later)))
    assert verdict.kind is VerdictKind.NOT_COMPARABLE
    assert "none of the chunks" in verdict.reason


def test_other_token_ids_are_the_tokenizers_regression() -> None:
    verdict = judge(observe(perplexity=measurement(ids="other")))
    assert verdict.kind is VerdictKind.REGRESSED
    assert "the same text has other token ids in 16 of 16 chunks" in verdict.reason
    assert verdict.cause == (
        "cause: tokenizer (the same text has other token ids in 16 of 16 chunks; all 3 tensors"
        " same; PPL 7.328, was 7.328)"
    )


def test_a_tokenizers_setting_that_changed_is_named() -> None:
    metadata = {**METADATA, "tokenizer.ggml.pre": "falcon"}
    cause = str(judge(observe(perplexity=measurement(ids="other"), metadata=metadata)).cause)
    assert cause.startswith("cause: tokenizer (")
    assert "; metadata changed: tokenizer.ggml.pre smollm → falcon; " in cause


def test_a_setting_of_the_file_that_changed_is_not_the_runtimes_fault() -> None:
    """Another RoPE base: same tokens, same tensors, same libraries."""
    metadata = {**METADATA, "llama.rope.freq_base": "10000.0"}
    seen = observe(perplexity=measurement(wobble(0.05)), metadata=metadata)
    cause = str(judge(seen).cause)
    assert cause.startswith("cause: the file's metadata (tokenization same; metadata changed:")
    assert "llama.rope.freq_base 100000.0 → 10000.0; all 3 tensors same; PPL +5.13 %" in cause
    assert "not the runtime: the libraries, the processor and the batch are the same" in cause


def test_a_baseline_without_metadata_blames_none() -> None:
    old = BASELINE.model_copy(update={"metadata": None})
    cause = judge(observe(perplexity=measurement(wobble(0.05))), baseline=old).cause
    assert str(cause).startswith("cause: not reproducible")


def test_changed_tensor_types_are_the_quantizers_regression() -> None:
    changed = (TENSORS[0], replace(TENSORS[1], type="Q3_K", sha256="d" * 64), TENSORS[2])
    verdict = judge(observe(tensors=changed))
    assert verdict.kind is VerdictKind.REGRESSED
    expected = "1 of 3 tensors changed type (attn_q Q4_K → Q3_K in blk.0)"
    assert expected in verdict.reason
    assert verdict.cause is not None
    assert verdict.cause.startswith(f"cause: quantizer (tokenization same; {expected}")


def test_changed_tensor_bytes_are_the_quantizers_on_the_same_kind_of_cpu() -> None:
    changed = (TENSORS[0], *(replace(t, sha256="d" * 64) for t in TENSORS[1:]))
    seen = observe(tensors=changed, perplexity=measurement(wobble(0.05)))
    assert str(judge(seen).cause).startswith(
        "cause: quantizer (tokenization same; 2 of 3 tensors changed bytes at equal type"
        " (attn_q in blk.0-1); PPL +5.13 % ["
    )
    other = judge(replace(seen, quantizer_cpu="AVX512")).cause
    assert "cause: not attributable: made on another kind of CPU" in str(other)


def test_changed_tensor_bytes_are_the_matrixs_where_it_changed() -> None:
    changed = (TENSORS[0], *(replace(t, sha256="d" * 64) for t in TENSORS[1:]))
    made_by = MADE_BY.model_copy(update={"imatrix_sha256": "e" * 64})
    seen = observe(tensors=changed, perplexity=measurement(wobble(0.05)), made_by=made_by)
    cause = str(judge(seen).cause)
    assert cause.startswith("cause: importance matrix: its values are not the baseline's (")
    other = judge(replace(seen, quantizer_cpu="AVX512")).cause
    assert "cause: not attributable: made on another kind of CPU" in str(other)


def test_a_users_own_file_was_made_on_a_cpu_that_is_not_known() -> None:
    own = BASELINE.model_copy(
        update={"made_by": MADE_BY.model_copy(update={"quantizer_sha256": None})}
    )
    changed = (TENSORS[0], replace(TENSORS[1], sha256="d" * 64), TENSORS[2])
    seen = observe(tensors=changed, perplexity=measurement(wobble(0.05)), quantizer_cpu=None)
    cause = str(judge(seen, baseline=own).cause)
    assert "cause: quantizer, or the kind of CPU that it ran on: the file was made el" in cause
    assert "1 of 3 tensors changed bytes at equal type (attn_q in blk.0)" in cause


def test_a_diagnosis_has_every_part() -> None:
    """Tokenization, tensors with types and layers, size, PPL with its interval, tokens, runtime."""
    changed = (TENSORS[0], *(replace(t, type="Q3_K", sha256="d" * 64) for t in TENSORS[1:]))
    seen = observe(
        tensors=changed, perplexity=measurement(wobble(0.025, 0.002)), size=size(969_000)
    )
    seen = replace(seen, tokens_changed=token_changes(seen.scored, measurement()))
    assert judge(seen).cause == (
        "cause: quantizer (tokenization same; 2 of 3 tensors changed type (attn_q Q4_K → Q3_K in"
        " blk.0-1); size −3.10 %; PPL +2.56 % [+2.48 %, +2.63 %] over 16 documents; 1,600 of 1,600"
        " tokens changed, largest |Δ| 0.027 nats; not the runtime: the libraries, the processor"
        " and the batch are the same)"
    )


@pytest.mark.parametrize(
    ("made_by", "told"),
    [
        ({"library_sha256": "9"}, "the libraries changed (another build of e 1 b1)"),
        ({"library_sha256": "9", "llama_cpp": "b2"}, "the libraries changed (e 1 b1 → e 1 b2)"),
        ({"cpu": "d"}, "the processor changed (c → d)"),
        ({"system_info": "AVX512"}, "the instruction sets changed (AVX2 → AVX512)"),
        ({"n_ubatch": 32}, "n_ubatch changed (64 → 32)"),
    ],
)
def test_equal_tokens_and_tensors_leave_the_runtime(made_by: dict[str, object], told: str) -> None:
    seen = observe(perplexity=measurement(wobble(0.05)), made_by=MADE_BY.model_copy(update=made_by))
    seen = replace(seen, tokens_changed=token_changes(seen.scored, measurement()))
    assert judge(seen).cause == (
        "cause: runtime kernels (tokenization same; all 3 tensors same; PPL +5.13 % [+5.11 %,"
        f" +5.15 %] over 16 documents; 1,600 of 1,600 tokens changed, largest |Δ| 0.0505 nats;"
        f" {told})"
    )


def test_changed_tensors_do_not_rule_out_changed_libraries() -> None:
    changed = (TENSORS[0], replace(TENSORS[1], sha256="d" * 64), TENSORS[2])
    other = MADE_BY.model_copy(update={"library_sha256": "9"})
    seen = observe(tensors=changed, perplexity=measurement(wobble(0.05)), made_by=other)
    assert "the libraries changed (another build of e 1 b1) too: the runtime is not ruled" in str(
        judge(seen).cause
    )


def test_other_values_of_the_same_computation_are_not_reproducible() -> None:
    cause = str(judge(observe(perplexity=measurement(wobble(0.05)))).cause)
    assert cause.startswith("cause: not reproducible: the same file, libraries, processor and")


def test_what_is_not_finite_has_a_cause_too() -> None:
    changed = (TENSORS[0], replace(TENSORS[1], sha256="d" * 64), TENSORS[2])
    with np.errstate(invalid="ignore"):
        verdict = judge(observe(perplexity=measurement([0.0] * 15 + [math.nan]), tensors=changed))
    assert verdict.kind is VerdictKind.INVALID
    assert (
        "1 of 3 tensors changed bytes at equal type (attn_q in blk.0); PPL not finite in 1 of 16"
        in (str(verdict.cause))
    )


def test_a_green_verdict_says_how_many_tokens_changed() -> None:
    shifts = [0.0] * 12 + [1e-6] * 4
    seen = observe(perplexity=measurement(shifts))
    seen = replace(seen, tokens_changed=token_changes(seen.scored, measurement()))
    verdict = judge(seen)
    assert verdict.kind is VerdictKind.PASS
    assert re.search(r"; [1-9]\d* of 1,600 tokens changed, largest \|Δ\| ", verdict.reason)
    assert verdict.cause is None


def test_sums_that_were_printed_are_identical_to_their_digits_only() -> None:
    """And which tokens changed is not known where sums are all there is."""
    plain = measurement()
    chunks = tuple(replace(chunk, top_tokens_sha256=None) for chunk in plain.chunks)
    seen = observe(perplexity=replace(plain, chunks=chunks, nll_nats=None, top_tokens=None))
    reason = judge(seen).reason
    assert "PPL identical to the baseline's on 1,600 tokens, to the digits printed" in reason
    cause = str(find_cause(seen, BASELINE, moved={"perplexity"}))
    assert "which tokens changed is not known: the engine tells sums by chunk" in cause


@pytest.mark.parametrize(
    ("limits", "kind"),
    [
        (Limits(ppl_max=8.0), VerdictKind.PASS),
        (Limits(ppl_max=7.0), VerdictKind.REGRESSED),
        (Limits(size_max_bytes=1_000_000), VerdictKind.PASS),
        (Limits(size_max_bytes=999_999), VerdictKind.REGRESSED),
        (Limits(bits_per_weight_max=4.9), VerdictKind.PASS),
        (Limits(bits_per_weight_max=4.89), VerdictKind.REGRESSED),
        (Limits(size_vs_reference=0.0), VerdictKind.PASS),
        (Limits(size_vs_baseline=0.005), VerdictKind.PASS),
    ],
)
def test_limits_without_sampling_error(limits: Limits, kind: VerdictKind) -> None:
    assert judge(observe(reference_file_bytes=1_000_000), limits).kind is kind


@pytest.mark.parametrize(("grown", "kind"), [(5000, "PASS"), (5001, "REGRESSED"), (-9, "PASS")])
def test_a_size_against_the_baseline(grown: int, kind: str) -> None:
    assert judge(observe(size=size(1_000_000 + grown))).kind.value == kind


def test_a_file_that_grew_around_equal_tensors_did_so_in_its_metadata() -> None:
    cause = judge(observe(size=size(1_100_000))).cause
    assert cause == (
        "cause: the file's metadata (tokenization same; all 3 tensors same; size +10.00 %; PPL"
        " identical)"
    )


def test_an_absolute_limit_has_no_baselines_cause() -> None:
    assert judge(observe(), Limits(ppl_max=1.0)).cause is None


@pytest.mark.parametrize(
    ("name", "limit"),
    [("Q8_0", 0.0025), ("Q4_0", 0.0025), ("IQ4_XS", 0.0025), ("Q3_K_M", 0.005), ("Q2_K", 0.01)],
)
def test_the_default_limits_follow_the_bits(name: str, limit: float) -> None:
    assert default_limits(find_format(name)).ppl_vs_baseline == limit


def test_every_format_has_default_limits() -> None:
    for name in FILE_TYPES:
        limits = default_limits(find_format(name))
        assert limits.ppl_vs_baseline is not None
        assert limits.size_vs_baseline == 0.005
        assert limits.ppl_vs_reference is None


def test_later_limits_stand_above_earlier_ones() -> None:
    merged = merge_limits(
        Limits(ppl_max=1.0, size_max_bytes=2.0), Limits(ppl_max=3.0), Limits(ppl_vs_baseline=0.1)
    )
    assert merged == Limits(ppl_max=3.0, size_max_bytes=2.0, ppl_vs_baseline=0.1)


def test_looks_spend_their_errors_once() -> None:
    looks = declared_looks((16, 32, 64))
    assert sum(look.alpha_pass for look in looks) == pytest.approx(0.05)
    assert sum(look.alpha_regressed for look in looks) == pytest.approx(0.001)
    assert [look.is_last for look in looks] == [False, False, True]


def test_the_worst_judgement_decides() -> None:
    assert worst([]) is VerdictKind.MEASURED
    assert worst([VerdictKind.PASS, VerdictKind.IMPROVED]) is VerdictKind.IMPROVED
    for red in VerdictKind:
        if not red.is_green:
            for green in (VerdictKind.PASS, VerdictKind.IMPROVED, VerdictKind.MEASURED):
                assert worst([green, red, green]) is red


def test_only_three_verdicts_are_green() -> None:
    assert {kind.value for kind in VerdictKind if kind.is_green} == {"PASS", "IMPROVED", "MEASURED"}
    assert len(VerdictKind) == 12


@pytest.mark.parametrize(
    ("fraction", "text"),
    [
        (0.05, "+5.00 %"),
        (-0.05, "−5.00 %"),
        (None, "–"),
        (math.nan, "not finite"),
        (0.0, "+0.00 %"),
    ],
)
def test_percent(fraction: float | None, text: str) -> None:
    assert percent(fraction) == text
