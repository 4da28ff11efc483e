"""The llama-cpp-python of some interpreter, in a worker process that is reused over cells."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import cast

from pytest_quantgate.engines.engine import OnReply
from pytest_quantgate.engines.interpreter import check_interpreter
from pytest_quantgate.engines.kept_identity import identity_key, keep_identity, read_identity
from pytest_quantgate.engines.messages import (
    BeginComparison,
    ComparisonBegun,
    Identify,
    Identity,
    Message,
    ReplyT,
    Request,
)
from pytest_quantgate.engines.worker_process import ENTRY, Place, Worker
from pytest_quantgate.errors import CellCrashed, CellError


class LlamaCppPython:
    """An engine of one interpreter.

    Args:
        python: the interpreter; None is this one.
        log: the file for the worker's output.
        stall_s: seconds without a sign of life after which the worker is ended.
        entry: what serves the worker's channel.
        extra_sources: further modules for the worker.
        place: the machine that it is on, None for this one; the interpreter is then checked there.
        identities: the folder in which this interpreter's identity is kept; None keeps none.

    """

    def __init__(
        self,
        *,
        python: str | None,
        log: Path,
        stall_s: float,
        entry: str = ENTRY,
        extra_sources: Iterable[tuple[str, tuple[bool, str]]] = (),
        place: Place | None = None,
        identities: Path | None = None,
    ) -> None:
        self._make_worker = partial(
            Worker,
            python=python,
            log=log,
            stall_s=stall_s,
            entry=entry,
            extra_sources=tuple(extra_sources),
            place=place,
        )
        self._worker = self._make_worker()
        self._beside = _Beside(self._make_worker(log=log.with_suffix(".beside.log")))
        self.python = None if python == sys.executable else python
        self._log = log
        self._stall_s = stall_s
        self._is_checked = place is not None
        self._unusable: CellError | None = None
        self._identity: Identity | None = None
        self._identities = identities if place is None else None

    def identity(self) -> Identity:
        """Describe the engine; what keeps it from answering is found out once, not by each cell."""
        if self._identity is None:
            folder = self._identities if self.python is None else None
            key = None if folder is None else identity_key()
            if folder is not None and key is not None:
                self._identity = read_identity(folder, key)
            if self._identity is None:
                self._identity = self._ask_identity()
                if folder is not None and key is not None:
                    keep_identity(folder, key, self._identity)
        return self._identity

    def _ask_identity(self) -> Identity:
        try:
            return self.ask(Identify())
        except CellError as error:
            self._unusable = error
            raise

    def _check(self) -> None:
        """Check once whether another interpreter can run a worker."""
        if self.python is not None and not self._is_checked:
            self._is_checked = True
            try:
                self._log.parent.mkdir(parents=True, exist_ok=True)
                check_interpreter(self.python, log=self._log, timeout_s=self._stall_s)
            except CellError as error:
                self._unusable = error

    def ask(self, request: Request[ReplyT], on_reply: OnReply | None = None) -> ReplyT:
        """Ask the worker; see :class:`~pytest_quantgate.engines.engine.Engine`."""
        self._check()
        if self._unusable is not None:
            raise self._unusable
        if isinstance(request, BeginComparison):
            self._beside.begin(request.comparison)
            reply: Message = ComparisonBegun()
        elif self._beside.has_begun(request):
            reply = self._beside.result()
        elif request.alone:
            reply = self._ask_alone(request, on_reply)
        else:
            reply = self._worker.request(request, on_reply)
        if not isinstance(reply, request.reply):
            raise CellCrashed(
                f"the worker answered with a {type(reply).__name__}, not {request.reply.__name__}"
            )
        return cast("ReplyT", reply)

    def _ask_alone(self, request: Message, on_reply: OnReply | None) -> Message:
        # The other worker's model would stay in memory meanwhile.
        self._worker.close()
        worker = self._make_worker(environment={})
        try:
            return worker.request(request, on_reply)
        finally:
            worker.close()

    def close(self) -> None:
        """End the workers."""
        self._worker.close()
        self._beside.close()


class _Beside:
    """A second worker, for what takes the processor while the first one's device computes.

    A process of its own: in one, the threads of both would wait for the interpreter's lock.
    """

    def __init__(self, worker: Worker) -> None:
        self._worker = worker
        self._thread: ThreadPoolExecutor | None = None
        self._request: Message | None = None
        self._reply: Future[Message] | None = None

    def begin(self, request: Message) -> None:
        """Begin with a request; what was begun before and not asked for is given up."""
        if self._reply is not None:
            self.close()
        if self._thread is None:
            self._thread = ThreadPoolExecutor(1)
        self._request = request
        self._reply = self._thread.submit(self._worker.request, request)

    def has_begun(self, request: Message) -> bool:
        """Return whether this is what was begun last."""
        return self._reply is not None and self._request == request

    def result(self) -> Message:
        """Wait for the reply, or raise the error, of what was begun."""
        assert self._reply is not None
        reply, self._reply = self._reply, None
        return reply.result()

    def close(self) -> None:
        """End the worker; what it was at is given up."""
        self._worker.close()
        if self._thread is not None:
            self._thread.shutdown()
        self._thread = self._reply = None
