"""One file's distributions under many conditions, each against one reference condition."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from pytest_quantgate.engines.messages.base import BatchedRequest, Message, ReadFile


@dataclass(frozen=True, kw_only=True)
class SweptCondition(Message):
    """One set of conditions: ``n_tokens`` are decoded in a context with room for ``n_ctx``.

    The fields are those of :class:`~pytest_quantgate.engines.messages.base.BatchedRequest`.
    """

    n_tokens: int
    n_ctx: int
    n_ubatch: int
    n_threads: int
    device: str
    flash_attention: bool
    type_k: int
    type_v: int
    repack: bool


@dataclass(frozen=True, kw_only=True)
class ConditionCompared(Message):
    """How far the distributions under a condition are from those under the reference condition.

    ``block_kld_nats`` are float64, one mean for each block of compared tokens, which begins at the
    token of ``block_starts`` (int32). ``nll_increase_nats`` is by how much the tokens are less
    likely than with at most ``n_tokens`` of the reference before them, and ``nll_error_nats`` its
    standard error over blocks; both 0 where the condition has no more tokens than the reference.
    ``problem`` says why the condition was refused, "" where it was not.
    """

    mean_kld_nats: float = 0.0
    top_tokens_changed: int = 0
    block_starts: bytes = b""
    block_kld_nats: bytes = b""
    nll_increase_nats: float = 0.0
    nll_error_nats: float = 0.0
    problem: str = ""


@dataclass(frozen=True, kw_only=True)
class ConditionsCompared(Message):
    """A row a condition, in the request's order."""

    rows: tuple[ConditionCompared, ...]


@dataclass(frozen=True, kw_only=True)
class SweepConditions(BatchedRequest[ConditionsCompared]):
    """Compare conditions with the request's own, token by token on the beginning of a text.

    The request's conditions are the reference, which decodes ``n_tokens`` at once, or as many as
    the condition that it is compared with.
    """

    reply: ClassVar[type[Message]] = ConditionsCompared

    text: ReadFile
    n_tokens: int
    conditions: tuple[SweptCondition, ...]
