"""What a baseline's file says, and what of it changed."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest

from pytest_quantgate.errors import ConfigError
from pytest_quantgate.gguf.digests import TensorDigest
from pytest_quantgate.gguf.tensor_changes import compare_tensors, pack_tensors
from pytest_quantgate.results.baseline import Baseline, Divergence, Key, Routing
from pytest_quantgate.results.baseline_file import dump, parse, summarize
from pytest_quantgate.results.baseline_store import Store, file_name, shipped_folder
from tests.gate.judged import BASELINE, KEY


def change(**values: object) -> str:
    """Return the file's text with some values changed."""
    return change_in(BASELINE, values)


def change_in(baseline: Baseline, values: dict[str, object]) -> str:
    """Return a baseline's text with some values changed."""
    raw = json.loads(dump(baseline))
    for path, value in values.items():
        *way, last = path.split("__")
        place = raw
        for part in way:
            place = place[part]
        place[last] = value
    return json.dumps(raw)


def test_a_reviewer_reads_reason_and_figures_first() -> None:
    lines = dump(BASELINE).splitlines()
    assert lines[1] == f' "reason": {json.dumps(BASELINE.reason)},'
    assert lines[2] == f' "summary": {json.dumps(summarize(BASELINE))},'
    assert summarize(BASELINE).startswith(f"PPL {BASELINE.scored.ppl:.4f}, ")


def test_shipped_baselines_are_written_as_a_run_would() -> None:
    """So that the next change of one shows its figures and nothing else."""
    paths = [path for path in shipped_folder().rglob("*.json") if "published" not in path.parts]
    assert len(paths) > 50
    for path in paths:
        text = path.read_text(encoding="utf-8")
        assert dump(parse(text, str(path))) == text, path


def test_a_baseline_survives_its_file() -> None:
    assert parse(dump(BASELINE), "x") == BASELINE


def test_the_file_is_the_same_each_time_and_shows_a_key_a_line() -> None:
    text = dump(BASELINE)
    assert text == dump(parse(text, "x"))
    assert text.endswith("}\n")
    lines = text.splitlines()
    assert ' "version": 1' in lines
    assert any(line.startswith('   "nll_sum_nats": [') for line in lines), "a list on one line"
    assert len(lines) < 68
    names = list(json.loads(text))
    assert names == ["reason", "summary", *sorted(set(names) - {"reason", "summary"})]


def test_a_number_that_is_not_finite_is_never_written() -> None:
    broken = BASELINE.model_copy(
        update={"perplexity": BASELINE.scored.model_copy(update={"ppl": math.nan})}
    )
    with pytest.raises(ValueError, match="not JSON compliant"):
        dump(broken)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "the baseline NAME is no JSON"),
        ("{", "the baseline NAME is no JSON"),
        ("3", "the baseline NAME is damaged"),
        ("[]", "the baseline NAME is damaged"),
        ("{}", "the baseline NAME has version None; this release reads 1"),
        (change(version=0), "has version 0; this release reads 1"),
        (change(version=2), "has version 2; this release reads 1"),
        (change(version="1"), "has version '1'"),
        (change(reason=None), "is damaged: reason: "),
        (change(surprise=3), "is damaged: surprise: "),
        (change(size__file_bytes="many"), "is damaged: size.file_bytes: "),
        (change(size__file_bytes=0), "is damaged: size.file_bytes: "),
        (change(size__bits_per_weight=-4.5), "is damaged: size.bits_per_weight: "),
        (change(size__fallback_fraction=1.5), "is damaged: size.fallback_fraction: "),
        (change(anchor__index=[0]), "is damaged: anchor: .*unequal length"),
        (change(perplexity__chunks__index=[0] * 16), "a chunk is there twice"),
        (change(perplexity__chunks__index=[1]), "is damaged: perplexity.chunks: .*unequal length"),
        (
            change(
                **{
                    f"perplexity__chunks__{name}": []
                    for name in (
                        "index",
                        "tokens",
                        "nll_sum_nats",
                        "token_ids",
                        "top_tokens",
                        "document",
                    )
                }
            ),
            "columns are empty",
        ),
    ],
)
def test_a_file_that_cannot_be_used(text: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message) as caught:
        parse(text, "NAME")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({}, None),
        ({"same_experts": (90, 81)}, "sums by layer are not those by chunk"),
        ({"same_experts": (170, 0)}, "more tokens are routed alike than the 100"),
        ({"same_top_expert": (1,)}, "unequal length"),
        ({"index": (0,)}, "unequal length"),
    ],
)
def test_routes_that_contradict_themselves_are_damage(
    changed: dict[str, tuple[int, ...]], message: str | None
) -> None:
    routes: dict[str, Any] = {
        "tokens": 100,
        "layers": (0, 1),
        "same_experts": (90, 80),
        "same_top_expert": (95, 85),
        "index": (0, 1),
        "chunk_same_experts": (100, 70),
    }
    if message is None:
        Routing(**routes)
        return
    with pytest.raises(ValueError, match=message):
        Routing(**{**routes, **changed})


@pytest.mark.parametrize("value", ["NaN", "Infinity", "-Infinity"])
def test_a_stored_number_that_is_not_finite_is_damage(value: str) -> None:
    """JSON has no such number, but Python reads one: it must not become a comparison."""
    text = change(perplexity__ppl=12345.5).replace("12345.5", value)
    with pytest.raises(ConfigError, match="is damaged|is no JSON"):
        parse(text, "NAME")


def test_files_have_readable_names_that_name_unusual_settings() -> None:
    assert file_name(KEY) == "m/Q4_K_M-cpu-t-c64.json"
    changed = {
        "format": "Q8_0",
        "imatrix": "wiki",
        "flash_attention": False,
        "type_k": "Q8_0",
        "n_ctx": 512,
    }
    assert file_name(KEY.model_copy(update=changed)) == (
        "m/Q8_0-imatrix-wiki-cpu-t-c512-no-fa-kv-Q8_0-F16.json"
    )


def test_every_part_of_the_key_names_another_file() -> None:
    changes: dict[str, object] = {
        "model": "n",
        "format": "Q8_0",
        "imatrix": "w",
        "text": "u",
        "n_ctx": 128,
        "flash_attention": False,
        "type_k": "Q8_0",
        "type_v": "Q8_0",
        "device_kind": "cuda",
    }
    assert set(changes) == set(Key.model_fields)
    names = {file_name(KEY.model_copy(update={name: value})) for name, value in changes.items()}
    assert len({*names, file_name(KEY)}) == len(changes) + 1


def write(folder: Path, text: str) -> Path:
    """Write a baseline's file where it is looked for."""
    path = folder / file_name(KEY)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    return path


def test_a_store_tells_missing_from_damaged(tmp_path: Path) -> None:
    store = Store(tmp_path, use_shipped=False)
    missing = store.find(KEY)
    assert (missing.baseline, missing.problem) == (None, None)
    assert not store.has_any([KEY])
    path = write(tmp_path, dump(BASELINE))
    assert store.find(KEY).baseline == BASELINE
    assert store.has_any([KEY])
    write(tmp_path, "{")
    damaged = store.find(KEY)
    assert damaged.baseline is None
    assert damaged.problem is not None
    assert str(path) in damaged.problem
    path.write_bytes(b"\xff\xfe")
    assert "cannot be read" in str(store.find(KEY).problem)


def test_a_baseline_of_one_key_under_the_name_of_another_is_damage(tmp_path: Path) -> None:
    """A copied or renamed file must not be compared with another cell."""
    other: Baseline = BASELINE.model_copy(update={"key": KEY.model_copy(update={"format": "Q8_0"})})
    write(tmp_path, dump(other))
    found = Store(tmp_path, use_shipped=False).find(KEY)
    assert found.baseline is None
    assert "is of another cell" in str(found.problem)


def digest(name: str, kind: str = "Q4_K", sha256: str = "a") -> TensorDigest:
    """Return a tensor's digest."""
    return TensorDigest(name=name, type=kind, sha256=sha256 * 64)


def test_tensors_are_packed_by_name() -> None:
    tensors = [
        digest("token_embd.weight", "Q6_K"),
        digest("blk.0.attn_q.weight"),
        digest("blk.10.attn_q.weight", "Q5_K", "b"),
    ]
    packed = pack_tensors(tensors)
    assert packed == {
        "token_embd.weight": "Q6_K:aaaaaaaa",
        "blk.*.attn_q.weight": "0=Q4_K:aaaaaaaa 10=Q5_K:bbbbbbbb",
    }
    assert not compare_tensors(packed, pack_tensors(reversed(tensors))).any


def test_changes_of_tensors_are_told_apart() -> None:
    before = pack_tensors([digest(f"blk.{n}.ffn_up.weight") for n in range(8)] + [digest("old")])
    after = pack_tensors(
        [digest(f"blk.{n}.ffn_up.weight", "Q3_K") for n in range(6)]
        + [digest("blk.6.ffn_up.weight", sha256="c"), digest("blk.7.ffn_up.weight"), digest("new")]
    )
    changes = compare_tensors(before, after)
    assert changes.any
    assert changes.n_tensors == 9
    assert len(changes.types_changed) == 6
    assert changes.bytes_changed == ("blk.6.ffn_up.weight",)
    assert changes.added_or_gone == ("new", "old")
    assert changes.describe() == (
        "6 of 9 tensors changed type (ffn_up Q4_K → Q3_K in blk.0-5); 1 of 9 tensors changed bytes"
        " at equal type (ffn_up in blk.6); 2 tensors added or gone (new, old)"
    )


def test_equal_tables_have_no_changes() -> None:
    packed = pack_tensors([digest("blk.0.x")])
    assert compare_tensors(packed, packed).describe() == "all 1 tensors same"


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"perplexity__ppl": 7.0}, "is damaged: perplexity: .*ppl is 7.0, but its chunks give "),
        (
            {"divergence__mean_kld_nats": 0.5},
            "is damaged: Value error, mean_kld_nats is 0.5, but its chunks give 0.02",
        ),
        ({"divergence__same_top": 0.5}, "same_top is 0.5, but its chunks give 0.9"),
        ({"divergence__kld_sum_nats": []}, "has no kld_sum_nats for each of the chunks"),
        ({"divergence__kld_sum_nats": [0.1]}, "unequal length"),
    ],
)
def test_a_figure_that_its_own_chunks_do_not_give_is_damage(
    values: dict[str, object], message: str
) -> None:
    """A figure that a person edited, or half of a merge, must not become what is held against."""
    chunks = BASELINE.scored.chunks
    whole = BASELINE.model_copy(
        update={
            "perplexity": BASELINE.scored.model_copy(
                update={
                    "chunks": chunks.replace(
                        kld_sum_nats=[0.02 * n for n in chunks.tokens],
                        same_top=[n * 9 // 10 for n in chunks.tokens],
                    )
                }
            ),
            "divergence": Divergence(
                mean_kld_nats=0.02, same_top=0.9, reference_per_token_sha256=""
            ),
        }
    )
    assert parse(dump(whole), "NAME") == whole
    with pytest.raises(ConfigError, match=message):
        parse(change_in(whole, values), "NAME")


def test_routes_of_more_tokens_than_the_chunks_have_are_damaged() -> None:
    """More tokens would make more routes changed then, and a loss of routes now look allowed."""
    index = BASELINE.scored.chunks.index[:2]
    routes = Routing(
        tokens=200,
        layers=(0,),
        same_experts=(190,),
        same_top_expert=(195,),
        index=index,
        chunk_same_experts=(95, 95),
    )
    whole = BASELINE.model_copy(update={"routing": routes})
    parse(dump(whole), "NAME")
    with pytest.raises(ConfigError, match="400 tokens are routed, but the chunks have 200"):
        parse(change_in(whole, {"routing__tokens": 400}), "NAME")
