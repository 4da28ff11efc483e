"""Which fields of messages are paths: on another machine they are other ones."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import fields

from pytest_quantgate.engines import messages
from pytest_quantgate.engines.messages import Message, Quantize, Request, Score, Tokenize
from pytest_quantgate.engines.messages.base import PathUse, path_uses

NO_PATHS = {"device", "against", "type_name", "name", "overrides", "changed_tensors"}
"""Fields of requests that are text and no path."""


def requests(kind: type[Request[Message]] = Request) -> Iterator[type[Request[Message]]]:
    """Return all classes of questions."""
    for child in kind.__subclasses__():
        yield child
        yield from requests(child)


def test_every_text_of_a_request_is_a_path_or_known_to_be_none() -> None:
    """A path that is not marked would be sent to a host as it is here."""
    rows = [messages.ImportanceRow, messages.MatrixPlace, messages.TensorPlace]
    texts = {
        (kind.__name__, item.name): item.name in path_uses(kind)
        for kind in (*requests(), *rows)
        for item in fields(kind)
        if "str" in str(item.type) or item.name in path_uses(kind)
    }
    unmarked = {key for key, is_path in texts.items() if not is_path}
    assert {name for _, name in unmarked} <= NO_PATHS
    assert len(texts) - len(unmarked) >= 20


def test_what_is_read_written_or_both() -> None:
    assert path_uses(Quantize) == {"source": PathUse.READ, "destination": PathUse.WRITTEN}
    assert path_uses(Tokenize)["token_ids"] is PathUse.WRITTEN
    assert path_uses(Score) == {
        "model": PathUse.READ,
        "next_model": PathUse.READ,
        "text": PathUse.READ,
        "token_ids": PathUse.READ,
        "reference": PathUse.FOLDER,
    }
