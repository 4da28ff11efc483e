"""Cuts a text into a model's chunks, which the model's tokens decide."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from pytest_quantgate.artifacts.texts.chunks import ChunkPlan, make_plan
from pytest_quantgate.engines.messages import Tokenize
from pytest_quantgate.errors import ConfigError
from pytest_quantgate.gguf.digests import digest_header
from pytest_quantgate.gguf.reader import read_one
from pytest_quantgate.storage.atomic import read_json, write_json
from pytest_quantgate.storage.cache import Cache
from pytest_quantgate.storage.keys import code_sha256, key_of

if TYPE_CHECKING:
    from pytest_quantgate.artifacts.texts import Text
    from pytest_quantgate.config.schema import ProfileSettings
    from pytest_quantgate.engines.engine import Engine


def cut_text(
    text: Text,
    name: str,
    model: Path,
    engine: Engine,
    profile: ProfileSettings,
    n_ctx: int,
    cache: Cache,
) -> ChunkPlan:
    """Cut a text into chunks of ``n_ctx`` tokens for a model, and put them into visiting order.

    What the engine's tokenizer said is kept in the cache.

    Raises:
        ConfigError: the text is too short for two chunks.
        CellError: the engine could not tokenize.

    """
    too_short = (
        f"text {name!r} is too short: {{}} of {2 * n_ctx:,} tokens that two"
        f" chunks of n_ctx = {n_ctx} need; take a longer text or a smaller n_ctx"
    )
    if len(text.data) < n_ctx // 2:
        raise ConfigError(too_short.format(f"{len(text.data):,} bytes instead"))
    key = key_of(
        kind="chunks",
        code=code_sha256("engines"),
        model=digest_header(model),
        text=text.sha256,
        n_ctx=n_ctx,
        engine=engine.identity().library_sha256,
    )
    with cache.lock(f"chunks-{key[:32]}"):
        stored = cache.sub("chunks") / f"{key}.json"
        token_ids = stored.with_suffix(".npy")
        facts = read_json(stored)
        if not isinstance(facts, dict) or "token_ids_sha256" not in facts:
            reply = engine.ask(
                Tokenize(
                    model=str(model),
                    text=str(cache.text(text.data, text.sha256)),
                    n_ctx=n_ctx,
                    token_ids=str(token_ids),
                )
            )
            facts = {
                "n_tokens": reply.n_tokens,
                "scored_bytes": reply.scored_bytes,
                "token_ids_sha256": reply.token_ids_sha256,
            }
            write_json(stored, facts)
    if facts["n_tokens"] < 2 * n_ctx:
        raise ConfigError(too_short.format(f"{facts['n_tokens']:,}"))
    spans = [(int(start), int(end)) for start, end in facts["scored_bytes"]]
    seed = profile.seed if profile.chunk_order == "seeded" else None
    plan = make_plan(text, spans, seed)
    # An engine that is a folder of programs writes none.
    return replace(
        plan,
        token_ids=token_ids if token_ids.is_file() else None,
        hashes=tuple(facts["token_ids_sha256"]),
        tokenized_by=(read_one(model).tokenizer_sha256, engine.identity().library_sha256),
    )
