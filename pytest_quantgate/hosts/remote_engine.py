"""The engine of another machine: requests go there with their files, replies are checked."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from copy import copy
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any, TypeVar, cast

from pydantic import TypeAdapter, ValidationError

from pytest_quantgate.engines.engine import OnReply
from pytest_quantgate.engines.llama_cpp_python import LlamaCppPython
from pytest_quantgate.engines.messages import (
    Identity,
    Message,
    PlanQuantization,
    ReplyT,
    Request,
    Score,
)
from pytest_quantgate.engines.messages.base import PathUse, path_uses
from pytest_quantgate.errors import CellCrashed, CellError, CellUnsupported, HostLost
from pytest_quantgate.hosts.host_files import HostFiles, OnCopy
from pytest_quantgate.hosts.link import HostLink, keep_alive
from pytest_quantgate.hosts.ssh import start

MessageT = TypeVar("MessageT", bound=Message)


class HostPlace:
    """A host as the place of worker processes."""

    def __init__(self, link: HostLink, files: HostFiles, log: Path) -> None:
        self._link = link
        self._files = files
        self._log = log
        self._fetched = 0

    def start(self, arguments: list[str], stdin: int, stdout: int) -> subprocess.Popen[bytes]:
        """Start a command there."""
        return start(self._link.host, arguments, self._log, stdin, stdout)

    def begin(self, gateway: Any) -> str:
        """Let the process end when this one is gone; return the path of its log."""
        keep_alive(gateway)
        return self._link.facts.log

    def fetch_log(self, log: Path) -> None:
        """Append what was logged there since to a log that is here."""
        data = self._files.tail(self._link.facts.log, self._fetched)
        self._fetched += len(data)
        with log.open("ab") as stream:
            stream.write(self._link.scrub(data.decode(errors="replace")).encode())


@dataclass(frozen=True, kw_only=True)
class _Sent:
    """A request as the host gets it, and what is to be brought back."""

    request: Message
    made: tuple[tuple[str, Path], ...] = ()
    folder: tuple[str, Path] | None = None


class RemoteEngine:
    """The llama-cpp-python of an interpreter on a host.

    Args:
        link: the host.
        name: the engine's name in the configuration.
        log: the file for the workers' output.
        stall_s: seconds without a sign of life after which a worker is ended.
        sha256_of: hashes a file here.
        on_copy: takes the progress of copying.

    """

    def __init__(
        self,
        *,
        link: HostLink,
        name: str,
        log: Path,
        stall_s: float,
        sha256_of: Callable[[Path], str],
        on_copy: OnCopy,
    ) -> None:
        self._link = link
        self._files = HostFiles(link, sha256_of, on_copy)
        place = HostPlace(link, self._files, log.with_suffix(".ssh.log"))
        self._engine = LlamaCppPython(
            python=link.host.interpreter(name), log=log, stall_s=stall_s, place=place
        )
        self._identity: Identity | None = None

    def identity(self) -> Identity:
        """Describe the engine."""
        if self._identity is None:
            self._link.facts  # noqa: B018 # says what is missing there
            try:
                self._identity = _checked(self._engine.identity())
            except CellError as error:
                raise self._told(error) from error
        return self._identity

    def ask(self, request: Request[ReplyT], on_reply: OnReply | None = None) -> ReplyT:
        """Have the host answer; see :class:`~pytest_quantgate.engines.engine.Engine`.

        Raises:
            HostLost: it is gone, or cannot be reached.

        """
        if isinstance(request, PlanQuantization):
            raise CellUnsupported(
                "the sizes of a shape are worked out on this machine alone; give its profile a"
                ' device without a host, as devices = ["cpu"]'
            )
        self._link.facts  # noqa: B018 # says what is missing there
        sent = self._send(request)

        def on_checked(reply: Message) -> None:
            if on_reply is not None:
                on_reply(_checked(reply))

        try:
            reply = _checked(self._engine.ask(cast("Request[ReplyT]", sent.request), on_checked))
        except HostLost:
            raise
        except CellError as error:
            raise self._told(error) from error
        for there, path in sent.made:
            self._files.fetch(there, path)
        if sent.folder is not None:
            self._files.pull_folder(*sent.folder)
        return reply

    def _told(self, error: CellError) -> CellError:
        """Return an error without the host's folders, or that the host is gone."""
        try:
            self._link.check_alive()
        except CellError as lost:
            return lost
        told = copy(error)
        told.problem = f"host {self._link.label!r}: {self._link.scrub(error.problem)}"
        told.args = (told.problem,)
        return told

    def _send(self, request: Message) -> _Sent:
        changes: dict[str, Any] = {}
        made: list[tuple[str, Path]] = []
        folder = None
        for item in fields(request):
            value, use = getattr(request, item.name), path_uses(type(request)).get(item.name)
            if use is PathUse.WRITTEN and value:
                there = self._link.ask(str, "destination", Path(value).name)
                made.append((there, Path(value)))
                changes[item.name] = there
            elif use is PathUse.FOLDER and value:
                there = self._files.push_folder(Path(value))
                changes[item.name] = there
                if isinstance(request, Score) and request.captures:
                    folder = there, Path(value)
            else:
                changes[item.name] = self._there(use, value)
        return _Sent(request=replace(request, **changes), made=tuple(made), folder=folder)

    def _there(self, use: PathUse | None, value: Any) -> Any:
        """Return a field's value with the paths of the host."""
        if use is PathUse.READ and value:
            return self._files.put(Path(value))
        if isinstance(value, tuple):
            return tuple(self._there(None, item) for item in value)
        if isinstance(value, Message):
            uses = path_uses(type(value))
            rows = {
                item.name: self._there(uses.get(item.name), getattr(value, item.name))
                for item in fields(value)
            }
            return replace(value, **rows)
        return value

    def close(self) -> None:
        """End the worker; the connection to the host's agent is the session's to end."""
        self._engine.close()


def _checked(reply: MessageT) -> MessageT:
    """Return a reply whose fields have their types.

    Raises:
        CellCrashed: they have not: what a host sends is data, and may be anything.

    """
    values = {item.name: getattr(reply, item.name) for item in fields(reply)}
    try:
        TypeAdapter(type(reply)).validate_python(values)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"]))
        raise CellCrashed(
            f"the host sent a {type(reply).__name__} whose {where} is wrong: {first['msg']}"
        ) from None
    return reply
