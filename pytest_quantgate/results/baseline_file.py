"""A baseline as the text of a file, laid out for whoever reviews what moved."""

from __future__ import annotations

import json
import reprlib
from typing import Any

from pydantic import (
    ValidationError,
)

from pytest_quantgate.errors import ConfigError
from pytest_quantgate.results.baseline import VERSION, Baseline
from pytest_quantgate.storage.parsing import first_problem, parse_json

_FIRST = ("reason", "summary")
"""What a reviewer reads first of a file."""


def _render(value: object, depth: int = 0) -> str:
    """JSON with a key a line and lists on one line, so that a review shows what moved."""
    if isinstance(value, dict) and value:
        pad = " " * (depth + 1)
        leading = _FIRST if depth == 0 else ()
        items = sorted(value.items(), key=lambda item: (item[0] not in leading, item[0]))
        lines = (f"{pad}{json.dumps(k)}: {_render(v, depth + 1)}" for k, v in items)
        return "{\n" + ",\n".join(lines) + "\n" + " " * depth + "}"
    return json.dumps(value, ensure_ascii=False, allow_nan=False)


def summarize(baseline: Baseline) -> str:
    """Return a baseline's figures in a line, for who reviews its file."""
    figures = []
    if baseline.perplexity is not None:
        figures.append(f"PPL {baseline.perplexity.ppl:.4f}")
    if baseline.divergence is not None:
        figures.append(f"mean KLD {baseline.divergence.mean_kld_nats:.5f} nats")
        figures.append(f"same top {100 * baseline.divergence.same_top:.2f} %")
    figures += [f"{baseline.size.file_bytes:,} bytes", baseline.made_by.engine]
    return ", ".join(figures)


def dump(baseline: Baseline) -> str:
    """Return the file's text: its reason and a summary first, then all by name.

    Raises:
        ValueError: a number that is not finite.

    """
    content = _split_columns(baseline.model_dump(mode="json"))
    return _render({**content, "summary": summarize(baseline)}) + "\n"


_OF_DIVERGENCE = {"kld_sum_nats": "kld_sum_nats", "same_top": "same_top_tokens"}
"""Columns of the chunks that a file keeps with the divergence, and their names there."""


def _split_columns(plain: dict[str, Any]) -> dict[str, Any]:
    """Lay a baseline's chunks out as files of version 1 have them."""
    if plain["perplexity"] is not None:
        columns = plain["perplexity"]["chunks"]
        del columns["domain"]  # the text's own, which is there when it is scored again
        for name, name_in_file in _OF_DIVERGENCE.items():
            values = columns.pop(name)
            if plain["divergence"] is not None:
                plain["divergence"][name_in_file] = [] if None in values else values
    return plain


def _join_columns(raw: Any) -> Any:
    """Gather a file's columns of the chunks in one table; what is malformed is left as it is."""
    try:
        columns, divergence = raw["perplexity"]["chunks"], raw.get("divergence")
        for name, name_in_file in _OF_DIVERGENCE.items():
            if divergence is not None:
                columns[name] = divergence.pop(name_in_file)
    except (KeyError, TypeError, AttributeError):
        pass  # the model says what is wrong
    return raw


def parse(text: str, name: str) -> Baseline:
    """Read a file's text.

    Raises:
        ConfigError: no JSON, a number that is not finite, another version, a field that is
            missing or wrong.

    """
    try:
        raw = parse_json(text)
    except ValueError as error:
        raise ConfigError(f"the baseline {name} is no JSON ({error})") from error
    if isinstance(raw, dict) and raw.get("version") != VERSION:
        raise ConfigError(
            f"the baseline {name} has version {reprlib.repr(raw.get('version'))};"
            f" this release reads {VERSION}"
        )
    if isinstance(raw, dict):
        raw.pop("summary", None)  # for people: the figures below are what counts
    try:
        return Baseline.model_validate(_join_columns(raw))
    except ValidationError as error:
        raise ConfigError(f"the baseline {name} is damaged: {first_problem(error)}") from error
