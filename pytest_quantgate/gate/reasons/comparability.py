"""Why figures cannot be compared, or what is missing."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

from pytest_quantgate.gate.observation import Versus
from pytest_quantgate.gguf.digests import is_identity
from pytest_quantgate.gguf.tensor_changes import TensorChanges
from pytest_quantgate.results.verdicts import Fact

_STORE = "store it with --snapshot-update"


class Plain(Fact, Enum):
    """Facts without figures."""

    NLL_NOT_FINITE = "a token's log-likelihood is not finite"
    KLD_NOT_FINITE = "a token's divergence is not finite"
    NO_DISTRIBUTIONS = "the engine gave no distributions to compare with the reference's"
    NO_PERCENTILES = "the engine gave no percentiles of the divergence from the reference"
    NO_PEAK_MEMORY = "this platform does not report a process's peak memory"
    NO_ANCHORED_CHUNK = (
        "no scored chunk is among the first accepted ones: what drifted up to here cannot be"
        " judged, and is lost once this is accepted"
    )
    NO_HARDWARE_OF_FLOOR = "no speed is stored that says of which hardware the floor is"
    OTHER_TOKENS_ROUTED = "the same text has other token ids, so that other tokens were routed"
    OLD_ENGINE_WITHOUT_ROUTES = "the old engine cannot report routing; routing was not compared"
    OLD_NOT_FINITE = "the old perplexity, or its reference's, is not finite"
    NOT_STORED_YET = "measured; no baseline is stored yet"
    RECORD_INCOMPLETE = (
        "a record lacks what two are compared by: it is of an older pytest-quantgate"
    )
    END_OF_TEXT = "the text ends here: score another text besides, or widen the limit"

    def __str__(self) -> str:
        return self.value


def _short(identity: str) -> str:
    """Return the beginning of a file's identity, or of a plain SHA-256."""
    return identity[:17] if is_identity(identity) else f"SHA-256 {identity[:12]}"


@dataclass(frozen=True, kw_only=True)
class OtherSource(Fact):
    """A model was made from another file than the baseline's."""

    versus: Versus
    now: str
    before: str

    def __str__(self) -> str:
        return (
            f"the model's source is another file than {self.versus}'s ({_short(self.now)}, was"
            f" {_short(self.before)})"
        )


@dataclass(frozen=True, kw_only=True)
class OtherText(Fact):
    """The text has other bytes than the baseline's, or the same with CRLF line ends."""

    versus: Versus
    now_sha256: str
    before_sha256: str
    is_crlf: bool

    def __str__(self) -> str:
        hint = f": it has CRLF line ends where {self.versus}'s text had LF" if self.is_crlf else ""
        return (
            f"the text's bytes are not {self.versus}'s (SHA-256 {self.now_sha256[:12]}, was"
            f" {self.before_sha256[:12]}){hint}"
        )


@dataclass(frozen=True, kw_only=True)
class NoCommonChunks(Fact):
    """The baseline has none of the chunks."""

    versus: Versus

    def __str__(self) -> str:
        return f"{self.versus} has none of the chunks that were measured"


@dataclass(frozen=True, kw_only=True)
class Retokenized(Fact):
    """So many chunks of the same text have other token ids."""

    changed: int
    chunks: int

    def __str__(self) -> str:
        return f"the same text has other token ids in {self.changed} of {self.chunks} chunks"


@dataclass(frozen=True, kw_only=True)
class TypesChanged(Fact):
    """Tensors of other types than the baseline's."""

    changes: TensorChanges

    def __str__(self) -> str:
        return self.changes.describe_types()


@dataclass(frozen=True, kw_only=True)
class SectionMissing(Fact):
    """A baseline lacks figures that were asked for: the stored one, or the first accepted."""

    what: str
    of: str = "stored"

    def __str__(self) -> str:
        return f"the {self.of} baseline has no {self.what}; delete its file and store it anew"


@dataclass(frozen=True, kw_only=True)
class NotStored(Fact):
    """A stored baseline lacks figures that it may be without."""

    what: str

    def __str__(self) -> str:
        return f"the stored baseline has no {self.what}; {_STORE}"


@dataclass(frozen=True, kw_only=True)
class OtherSettings(Fact):
    """A stored figure is of other settings, each with both values."""

    what: str
    differing: tuple[str, ...]

    def __str__(self) -> str:
        differing = "; ".join(self.differing)
        return f"the stored {self.what} is of other settings: {differing}; {_STORE}"


@dataclass(frozen=True, kw_only=True)
class RecordsOfOtherSettings(Fact):
    """Two records are of other settings."""

    differing: tuple[str, ...]

    def __str__(self) -> str:
        return f"other settings: {', '.join(self.differing)}"


@dataclass(frozen=True, kw_only=True)
class OtherHardware(Fact):
    """No stored figure is of this hardware; what differs from the nearest."""

    what: str
    differing: tuple[str, ...]

    def __str__(self) -> str:
        differing = "; ".join(self.differing)
        return f"no stored {self.what} is of this hardware: {differing}; {_STORE}"


@dataclass(frozen=True, kw_only=True)
class OtherBuild(Fact):
    """The stored figure is of another build on the same machine."""

    differing: tuple[str, ...]

    def __str__(self) -> str:
        return f"likely because of the build: {'; '.join(self.differing)}"


@dataclass(frozen=True, kw_only=True)
class DamagedBaseline(Fact):
    """The stored baseline cannot be read."""

    problem: str
    command: str

    def __str__(self) -> str:
        return f"{self.problem}; store it anew: {self.command}"


@dataclass(frozen=True, kw_only=True)
class BaselineOfOtherSettings(Fact):
    """The only stored baselines are of other settings; those of the nearest."""

    differing: tuple[str, ...]
    command: str

    def __str__(self) -> str:
        return (
            f"the stored baseline is of other settings: {'; '.join(self.differing)}; set them"
            f" back, or store one of these: {self.command}"
        )


@dataclass(frozen=True, kw_only=True)
class NoBaseline(Fact):
    """No baseline is stored."""

    command: str

    def __str__(self) -> str:
        return f"no baseline is stored; store one: {self.command}"


@dataclass(frozen=True, kw_only=True)
class OldEngineUnable(Fact):
    """The old engine could not measure the cell."""

    verdict: str
    problem: str

    def __str__(self) -> str:
        return f"not compared: the old engine could not ({self.verdict}: {self.problem})"
