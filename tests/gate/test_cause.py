"""What moved a cell away from its baseline, found by hashes."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest

from pytest_quantgate.results.measurements.perplexity import token_changes
from pytest_quantgate.results.verdicts import VerdictKind
from tests.gate.judged import (
    BASELINE,
    MADE_BY,
    METADATA,
    TENSORS,
    change_cell,
    judge,
    measurement,
    observe,
    wobble,
)


def test_other_token_ids_are_the_tokenizers_regression() -> None:
    verdict = judge(observe(perplexity=measurement(ids="other")))
    assert verdict.kind is VerdictKind.REGRESSED
    assert "the same text has other token ids in 16 of 16 chunks" in verdict.reason
    assert str(verdict.cause) == (
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
    verdict = judge(observe(tensors=changed, perplexity=measurement(wobble(0.05))))
    assert verdict.kind is VerdictKind.REGRESSED
    expected = "1 of 3 tensors changed type (attn_q Q4_K → Q3_K in blk.0)"
    assert expected in verdict.reason
    assert str(verdict.cause).startswith(f"cause: quantizer (tokenization same; {expected}")


def test_changed_tensor_bytes_are_the_quantizers_on_the_same_kind_of_cpu() -> None:
    changed = (TENSORS[0], *(replace(t, sha256="d" * 64) for t in TENSORS[1:]))
    seen = observe(tensors=changed, perplexity=measurement(wobble(0.05)))
    assert str(judge(seen).cause).startswith(
        "cause: quantizer (tokenization same; 2 of 3 tensors changed bytes at equal type"
        " (attn_q in blk.0-1); PPL +5.13 % ["
    )
    other = judge(change_cell(seen, quantizer_cpu="AVX512")).cause
    assert "cause: not attributable: made on another kind of CPU" in str(other)


def test_changed_tensor_bytes_are_the_matrixs_where_it_changed() -> None:
    changed = (TENSORS[0], *(replace(t, sha256="d" * 64) for t in TENSORS[1:]))
    made_by = MADE_BY.model_copy(update={"imatrix_sha256": "e" * 64})
    seen = observe(tensors=changed, perplexity=measurement(wobble(0.05)), made_by=made_by)
    cause = str(judge(seen).cause)
    assert cause.startswith("cause: importance matrix: its values are not the baseline's (")
    other = judge(change_cell(seen, quantizer_cpu="AVX512")).cause
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
    scored = measurement(wobble(0.025, 0.002))
    changes = token_changes(scored, measurement())
    seen = observe(scored, tensors=changed, file_bytes=969_000, tokens_changed=changes)
    assert str(judge(seen).cause) == (
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
    scored = measurement(wobble(0.05))
    changes = token_changes(scored, measurement())
    seen = observe(scored, made_by=MADE_BY.model_copy(update=made_by), tokens_changed=changes)
    assert str(judge(seen).cause) == (
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


def test_a_file_that_grew_around_equal_tensors_did_so_in_its_metadata() -> None:
    cause = judge(observe(file_bytes=1_100_000)).cause
    assert str(cause) == (
        "cause: the file's metadata (tokenization same; all 3 tensors same; size +10.00 %; PPL"
        " identical)"
    )
