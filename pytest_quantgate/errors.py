"""The exception tree.

QuantgateError
├── ConfigError            a setting, option or marker that cannot be used; a usage error in pytest
│   └── ModelFileError     a model file that is no GGUF, is truncated or is no language model
└── CellError              one cell cannot be measured; it becomes that cell's verdict
    ├── CellCrashed        the worker process died
    ├── CellTimeout        the worker made no progress within its deadline
    ├── CellUnavailable    a device, model, text or token that should be there is not
    │   ├── EnvironmentProblem  the machine: a full disk, no right to write, no home folder
    │   └── HostLost       another machine cannot be reached, lacks an engine, or is gone
    ├── CellUnsupported    the engine cannot do it, and says why
    │   └── RequestUnknown the engine has no way to answer this kind of request
    └── CellInvalid        a number that is not finite came out
"""


class QuantgateError(Exception):
    """Base of everything that this package raises on purpose.

    ``problem`` is the message without the command; ``command`` is what to type next, "" where the
    problem says it or no single command helps.
    """

    def __init__(self, problem: str = "", *, command: str = "") -> None:
        super().__init__(f"{problem}; type: {command}" if command else problem)
        self.problem, self.command = problem, command


class ConfigError(QuantgateError):
    """A setting that cannot be used; the message is one line and names the valid choices."""


class ModelFileError(ConfigError):
    """A model file that cannot be measured; the message names the file and what to do."""


class CellError(QuantgateError):
    """One cell cannot be measured; every other cell goes on."""


class CellCrashed(CellError):
    """The worker died; the message holds the signal or exit status and the last log lines.

    ``exit_code`` is the process's: negative for a signal, None where it did not end.
    """

    def __init__(self, problem: str = "", *, exit_code: int | None = None) -> None:
        super().__init__(problem)
        self.exit_code = exit_code


class CellTimeout(CellError):
    """The worker made no progress within its deadline and was ended."""


class CellUnavailable(CellError):
    """A device, model, text or token that should be there is not."""


class EnvironmentProblem(CellUnavailable):
    """The machine refused: a full disk, no right to write, no home folder; one line says which.

    It is nobody's fault but the machine's: no engine is blamed for it, and nothing excuses it.
    """


class HostLost(CellUnavailable):
    """Another machine cannot be reached, lacks an engine or is gone; an equal one can stand in."""


class CellUnsupported(CellError):
    """The engine refused, with its reason: a type that it does not know, a missing matrix."""


class RequestUnknown(CellUnsupported):
    """The engine has no way to answer this kind of request, whatever the model."""


class CellInvalid(CellError):
    """The engine produced a number that is not finite."""
