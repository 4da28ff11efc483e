"""What all messages are: what is asked, what is answered, and what any request may bring."""

from __future__ import annotations

import typing
from dataclasses import dataclass, fields
from enum import Enum
from typing import Annotated, Any, ClassVar, Generic, TypeAlias, TypeGuard, TypeVar

ReplyT = TypeVar("ReplyT", bound="Message")


class PathUse(Enum):
    """What an engine does with a path of a message: on another machine it is another path."""

    READ = "a file that is read"
    WRITTEN = "a file that is written"
    FOLDER = "a folder that is read and written"


ReadFile: TypeAlias = Annotated[str, PathUse.READ]
WrittenFile: TypeAlias = Annotated[str, PathUse.WRITTEN]
Folder: TypeAlias = Annotated[str, PathUse.FOLDER]


_KINDS: dict[str, type[Message]] = {}
_HINTS: dict[type[Message], dict[str, Any]] = {}
_PATH_USES: dict[str, dict[str, PathUse]] = {}


@dataclass(frozen=True, kw_only=True)
class Message:
    """Base of all messages, and of the rows in them; a subclass is known by its name."""

    def __init_subclass__(cls) -> None:
        super().__init_subclass__()
        _KINDS[cls.__name__] = cls

    def to_wire(self) -> tuple[str, dict[str, Any]]:
        """Return the message as what ``execnet`` can carry."""
        return type(self).__name__, {
            item.name: _encode(getattr(self, item.name)) for item in fields(self)
        }


def path_uses(kind: type[Message]) -> dict[str, PathUse]:
    """Return which fields of a message are paths, and of what."""
    if kind.__name__ not in _PATH_USES:
        hints = typing.get_type_hints(kind, include_extras=True)
        uses = {name: getattr(hint, "__metadata__", (None,))[0] for name, hint in hints.items()}
        paths = {name: use for name, use in uses.items() if isinstance(use, PathUse)}
        _PATH_USES[kind.__name__] = paths
    return _PATH_USES[kind.__name__]


def from_wire(item: object) -> Message:
    """Rebuild a message.

    Raises:
        ValueError: what came over the channel is no message, or a field is of another type.

    """
    if not _is_message(item):
        raise ValueError(f"not a message: {str(item)[:200]!r}")
    name, values = item
    try:
        kind = _KINDS[name]
        message = kind(**{field: _decode(value) for field, value in values.items()})
    except (KeyError, TypeError) as error:
        raise ValueError(f"not a {name[:200]}: {error}"[:400]) from error
    for field, hint in _hints(kind).items():
        if not _is_of(getattr(message, field), hint):
            wrong = repr(getattr(message, field))[:200]
            raise ValueError(f"not a {name}: {field} is {wrong}, not {hint}")
    return message


def _hints(kind: type[Message]) -> dict[str, Any]:
    """Return the types of a message's fields."""
    if kind not in _HINTS:
        hints = typing.get_type_hints(kind)
        _HINTS[kind] = {item.name: hints[item.name] for item in fields(kind)}
    return _HINTS[kind]


def _is_of(value: object, hint: Any) -> bool:
    """Return whether a value has a type; a whole number may stand for a float."""
    arguments = typing.get_args(hint)
    if typing.get_origin(hint) is tuple:
        if not isinstance(value, tuple):
            return False
        if arguments[1:] == (...,):
            arguments = arguments[:1] * len(value)
        return len(value) == len(arguments) and all(map(_is_of, value, arguments))
    if arguments:  # of a union
        return any(_is_of(value, argument) for argument in arguments)
    if isinstance(value, bool):
        return hint is bool
    return isinstance(value, hint) or (hint is float and isinstance(value, int))


def _is_message(item: object) -> TypeGuard[tuple[str, dict[str, Any]]]:
    return (
        isinstance(item, tuple)
        and len(item) == 2
        and isinstance(item[0], str)
        and isinstance(item[1], dict)
    )


def _encode(value: Any) -> Any:
    if isinstance(value, Message):
        return value.to_wire()
    return tuple(map(_encode, value)) if isinstance(value, tuple) else value


def _decode(value: Any) -> Any:
    if _is_message(value):
        return from_wire(value)
    return tuple(map(_decode, value)) if isinstance(value, tuple) else value


@dataclass(frozen=True, kw_only=True)
class Request(Message, Generic[ReplyT]):
    """Base of all questions; ``reply`` is the class of the answer.

    ``alone`` asks for a process that has done nothing before and does nothing afterwards, whose
    threads wait for each other as the engine has it by itself.
    """

    reply: ClassVar[type[Message]]
    alone: ClassVar[bool] = False


@dataclass(frozen=True, kw_only=True)
class ModelRequest(Request[ReplyT]):
    """Base of the questions for which a model is loaded, and how it computes.

    ``device`` is a placement as
    :meth:`~pytest_quantgate.engines.messages.placement.Placement.to_text` writes it: ``cpu``,
    which hides every other device, or names that ggml lists. ``type_k`` and ``type_v`` are
    numbers of ggml types; ``repack`` allows the CPU's repacked weights.
    """

    model: ReadFile
    device: str
    n_threads: int
    flash_attention: bool
    type_k: int
    type_v: int
    repack: bool = True


@dataclass(frozen=True, kw_only=True)
class BatchedRequest(ModelRequest[ReplyT]):
    """Base of those that say in which batches: at most so many tokens, logical and physical."""

    n_batch: int
    n_ubatch: int


@dataclass(frozen=True, kw_only=True)
class Interim(Message):
    """Base of the replies on the way, after which others follow."""


@dataclass(frozen=True, kw_only=True)
class Progress(Interim):
    """The worker is alive: ``done`` of ``total`` units; it also renews the deadline."""

    what: str
    done: int
    total: int


@dataclass(frozen=True, kw_only=True)
class Failed(Message):
    """The request cannot be done; the worker lives on.

    ``command`` is what to type next, "" where no single command helps. ``kind`` is a verdict's
    name, ``VALUE`` for arguments that are wrong, or ``ENVIRONMENT`` for a
    full disk and missing rights.
    """

    kind: str
    reason: str
    command: str = ""
