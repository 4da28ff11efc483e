"""Which shard of a matrix a run is: ``--quant-shard K/N``, or ``auto`` by the job's environment."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial

from pytest_quantgate.errors import ConfigError

AUTO = "auto"
"""Takes the shard from the array or job that the run is in."""

_SHARD = re.compile(r"([1-9]\d{0,5})/([1-9]\d{0,5})")
_NUMBER = re.compile(r"\d{1,9}")


@dataclass(frozen=True, kw_only=True)
class Shard:
    """Shard ``number`` of ``count``, counted from 1."""

    number: int
    count: int

    def __str__(self) -> str:
        return f"{self.number}/{self.count}"


@dataclass(frozen=True, kw_only=True)
class Scheduler:
    """What a batch system or CI service tells the jobs of one array.

    ``index`` and ``count`` are variables of the environment, the index counted from ``first``.
    ``advice`` is what to do where the count is missing.
    """

    name: str
    index: str
    count: str
    first: int
    advice: str = ""


SCHEDULERS = (
    Scheduler(name="Slurm", index="SLURM_ARRAY_TASK_ID", count="SLURM_ARRAY_TASK_COUNT", first=0),
    Scheduler(
        name="Kubernetes",
        index="JOB_COMPLETION_INDEX",
        count="JOB_COMPLETIONS",
        first=0,
        advice="; Kubernetes does not set it: set it in the container's env to the completions",
    ),
    Scheduler(name="GitLab", index="CI_NODE_INDEX", count="CI_NODE_TOTAL", first=1),
    Scheduler(name="CircleCI", index="CIRCLE_NODE_INDEX", count="CIRCLE_NODE_TOTAL", first=0),
    Scheduler(
        name="Buildkite",
        index="BUILDKITE_PARALLEL_JOB",
        count="BUILDKITE_PARALLEL_JOB_COUNT",
        first=0,
    ),
    Scheduler(
        name="Azure Pipelines",
        index="SYSTEM_JOBPOSITIONINPHASE",
        count="SYSTEM_TOTALJOBSINPHASE",
        first=1,
    ),
    Scheduler(
        name="Bitbucket",
        index="BITBUCKET_PARALLEL_STEP",
        count="BITBUCKET_PARALLEL_STEP_COUNT",
        first=0,
    ),
    Scheduler(name="Semaphore", index="SEMAPHORE_JOB_INDEX", count="SEMAPHORE_JOB_COUNT", first=1),
)
"""The first one whose index is set counts: a batch system may have been started by a CI job."""


def parse_shard(text: str, environment: Mapping[str, str]) -> Shard:
    """Read ``K/N``, or ``auto`` by the variables of the environment.

    Raises:
        ConfigError: it is of neither form, K is not 1 to N, or the environment tells no shard.

    """
    if text == AUTO:
        return _shard_of_job(environment)
    match = _SHARD.fullmatch(text)
    if match is None or int(match[1]) > int(match[2]):
        raise ConfigError(
            f"--quant-shard {text!r} is no shard; write K/N with K from 1 to N, as 2/4, or auto"
        )
    return Shard(number=int(match[1]), count=int(match[2]))


def _shard_of_job(environment: Mapping[str, str]) -> Shard:
    for scheduler in SCHEDULERS:
        if scheduler.index in environment:
            read = _slurm_shard if scheduler.name == "Slurm" else _indexed_shard
            return read(scheduler, partial(_number, environment, scheduler))
    raise ConfigError(
        "--quant-shard auto: this is no job of an array; none of"
        f" {', '.join(item.index for item in SCHEDULERS)} is set; write K/N, as 2/4"
    )


def _indexed_shard(scheduler: Scheduler, number: Callable[[str], int]) -> Shard:
    index, count = number(scheduler.index), number(scheduler.count)
    shard = Shard(number=index - scheduler.first + 1, count=count)
    if not 1 <= shard.number <= count:
        last = scheduler.first + count - 1
        raise ConfigError(
            f"--quant-shard auto: {scheduler.index} = {index} is not {scheduler.first} to {last},"
            f" as {scheduler.count} = {count} has it; write K/N, as 2/4"
        )
    return shard


def _slurm_shard(scheduler: Scheduler, number: Callable[[str], int]) -> Shard:
    """Return the shard of a task of an array, which begins and steps as its user likes.

    A single task may be one that is run again, which is told of the others nothing.
    """
    index, count = number(scheduler.index), number(scheduler.count)
    if count == 1:
        raise ConfigError(
            f"--quant-shard auto: the array has the one task {index}; to run a task of an earlier"
            " array again, requeue it (scontrol requeue JOB_TASK) or write its shard K/N, as 2/4"
        )
    first, step = number("SLURM_ARRAY_TASK_MIN"), number("SLURM_ARRAY_TASK_STEP")
    last = number("SLURM_ARRAY_TASK_MAX")
    if step < 1 or last - first != step * (count - 1) or (index - first) % step:
        raise ConfigError(
            f"--quant-shard auto: the array's {count} tasks from {first} to {last} are not evenly"
            f" spaced; submit one that is, as --array=0-{count - 1}, or write K/N, as 2/4"
        )
    return Shard(number=(index - first) // step + 1, count=count)


def _number(environment: Mapping[str, str], scheduler: Scheduler, name: str) -> int:
    given = environment.get(name)
    if given is None or not _NUMBER.fullmatch(given):
        what = "is not set" if given is None else f"= {given!r} is no number"
        advice = scheduler.advice if name == scheduler.count else ""
        raise ConfigError(
            f"--quant-shard auto: {scheduler.index} says a job of {scheduler.name}, but {name}"
            f" {what}{advice or '; write K/N, as 2/4'}"
        )
    return int(given)
