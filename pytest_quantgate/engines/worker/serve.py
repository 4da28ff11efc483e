"""The worker's loop: a request in, progress and a result out.

Runs in the worker alone: standard library, numpy and llama_cpp.
"""

from __future__ import annotations

import errno
import sys
import traceback
from collections.abc import Iterable
from typing import Any, Protocol

import pytest_quantgate.engines.worker.loading  # noqa: F401 # before numpy, which the others import
from pytest_quantgate.engines.messages import (
    CollectImatrix,
    CompareBatches,
    CompareExperts,
    CompareNodes,
    CompareOracle,
    Decode,
    Encode,
    Failed,
    Identify,
    ListCodecs,
    ListDevices,
    MatMul,
    MeasureMemory,
    MeasureSpeed,
    Message,
    PlanQuantization,
    Quantize,
    RecordNodes,
    Score,
    SweepConditions,
    Tokenize,
    VecDot,
    from_wire,
)
from pytest_quantgate.engines.worker.batches import compare_batches
from pytest_quantgate.engines.worker.coding import Coder, WrongValueError
from pytest_quantgate.engines.worker.devices import list_devices
from pytest_quantgate.engines.worker.errors import EngineRefusal, KeptDamaged
from pytest_quantgate.engines.worker.experts import compare_experts
from pytest_quantgate.engines.worker.identity import identify
from pytest_quantgate.engines.worker.imatrix import collect_imatrix
from pytest_quantgate.engines.worker.llama import LogTap
from pytest_quantgate.engines.worker.memory import measure_memory
from pytest_quantgate.engines.worker.oracle import compare_oracle
from pytest_quantgate.engines.worker.quantizing import plan_quantization, quantize
from pytest_quantgate.engines.worker.scoring import Scorer
from pytest_quantgate.engines.worker.speed import measure_speed
from pytest_quantgate.engines.worker.sweeping import sweep_conditions
from pytest_quantgate.engines.worker.tracing import compare_nodes, record_nodes

REFUSED_BY_THE_MACHINE = frozenset(
    {errno.ENOSPC, errno.EROFS, errno.EACCES, errno.EPERM, getattr(errno, "EDQUOT", errno.ENOSPC)}
)
"""Errors of a full disk and of missing rights."""


class Channel(Protocol):
    """The part of an execnet channel that is used."""

    def send(self, item: object) -> None:
        """Send one message."""

    def __iter__(self) -> Any: ...


def serve(channel: Channel) -> None:
    """Answer requests until the channel closes."""

    def send(message: Message) -> None:
        channel.send(message.to_wire())

    log = LogTap()
    scorer = Scorer(send, log)
    coder = Coder()
    items: Iterable[object] = channel
    for item in items:
        try:
            send(_answer(from_wire(item), scorer, coder, log, send))
        except WrongValueError as error:
            send(Failed(kind="VALUE", reason=str(error)))
        except EngineRefusal as error:
            send(Failed(kind="UNSUPPORTED", reason=str(error)))
        except OSError as error:
            traceback.print_exc(file=sys.stderr)
            kind = "ENVIRONMENT" if error.errno in REFUSED_BY_THE_MACHINE else "CRASHED"
            send(Failed(kind=kind, reason=f"{type(error).__name__}: {error}"))
        except KeptDamaged as error:
            send(Failed(kind="CRASHED", reason=str(error)))
        except MemoryError:
            send(Failed(kind="CRASHED", reason="out of memory"))
        except Exception as error:  # noqa: BLE001 # any fault is the cell's, told with its log
            traceback.print_exc(file=sys.stderr)
            send(Failed(kind="CRASHED", reason=f"{type(error).__name__}: {error}"))


def _answer(
    request: Message,
    scorer: Scorer,
    coder: Coder,
    log: LogTap,
    send: Any,
) -> Message:
    match request:
        case Identify():
            return identify()
        case ListDevices():
            return list_devices()
        case Quantize():
            scorer.close()
            return quantize(request, log, send)
        case CollectImatrix():
            scorer.close()
            return collect_imatrix(request, log, send)
        case PlanQuantization():
            return plan_quantization(request, log)
        case Tokenize():
            return scorer.tokenize(request)
        case Score():
            return scorer.score(request)
        case CompareBatches():
            scorer.close()
            return compare_batches(request, log, send)
        case CompareOracle():
            scorer.close()
            return compare_oracle(request, log, send)
        case CompareExperts():
            return compare_experts(request, send)
        case SweepConditions():
            scorer.close()
            return sweep_conditions(request, log, send)
        case RecordNodes():
            scorer.close()
            return record_nodes(request, log, send)
        case CompareNodes():
            scorer.close()
            return compare_nodes(request, log, send)
        case MeasureSpeed():
            scorer.close()
            return measure_speed(request, log, send)
        case MeasureMemory():
            scorer.close()
            return measure_memory(request, log, send)
        case ListCodecs() | Encode() | Decode() | VecDot() | MatMul():
            return coder.answer(request)
        case _:
            raise ValueError(f"not a request: {type(request).__name__}")
