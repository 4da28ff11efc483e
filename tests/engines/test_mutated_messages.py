"""What a faulty worker sends is refused in one line: benchmarks/message_mutations.py, shortly."""

from __future__ import annotations

from pathlib import Path

import message_mutations
import pytest

from pytest_quantgate.engines import messages
from pytest_quantgate.engines.messages import Progress, from_wire


def test_damaged_replies_and_base_files_are_refused_in_one_line(tmp_path: Path) -> None:
    outcomes = message_mutations.run(400, 3, tmp_path)
    assert set(outcomes) == {
        "reply: refused",
        "reply: read",
        "measurement: refused as CellCrashed",
        "measurement: read",
        "base file: refused as CellCrashed",
    }
    assert min(outcomes.values()) > 10


@pytest.mark.parametrize("name", message_mutations.REPLIES)
def test_every_reply_comes_back_as_it_was(name: str) -> None:
    kind = getattr(messages, name)
    message = message_mutations.message(kind)
    assert from_wire(message.to_wire()) == message


@pytest.mark.parametrize("value", ["3", None, 3.0, True, (3,), b"3"])
def test_a_field_of_another_type_is_no_message(value: object) -> None:
    wire = Progress(what="x", done=1, total=2).to_wire()
    with pytest.raises(ValueError, match="^not a Progress: done is "):
        from_wire((wire[0], wire[1] | {"done": value}))
