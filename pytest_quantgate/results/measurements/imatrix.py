"""The importance matrix of a cell: how much of the model its text reached, expert by expert."""

from __future__ import annotations

from dataclasses import dataclass

FEW_TOKENS = 100
"""Below so many tokens an expert is named under the table: its mean squares say little."""


NO_EXPERTS = "the model has no experts that it could miss"


_N_NAMED = 3


@dataclass(frozen=True, kw_only=True)
class LayerCoverage:
    """One layer's experts: ``tokens`` that each saw, of the weight that saw fewest.

    ``tokens`` is empty where the file has one count for all experts, as older ones do.
    """

    layer: int
    tokens: tuple[int, ...]


@dataclass(frozen=True, kw_only=True)
class Expert:
    """One expert of one layer, and the tokens that it saw."""

    layer: int
    expert: int
    tokens: int

    @property
    def name(self) -> str:
        """What a person reads."""
        return f"expert {self.expert} of layer {self.layer} ({self.tokens:,} tokens)"


@dataclass(frozen=True, kw_only=True)
class ImatrixMeasurement:
    """What a cell's importance matrix covers.

    ``tokens`` is what went into the weight that saw most; ``layers`` has the layers with experts;
    ``without`` the weights of the blocks that are quantized and of which the matrix has nothing.
    """

    imatrix: str
    sha256: str
    n_weights: int
    tokens: int
    layers: tuple[LayerCoverage, ...]
    without: tuple[str, ...]

    @property
    def experts(self) -> tuple[Expert, ...]:
        """All experts whose tokens are known, those that saw least first."""
        found = (
            Expert(layer=layer.layer, expert=number, tokens=tokens)
            for layer in self.layers
            for number, tokens in enumerate(layer.tokens)
        )
        return tuple(sorted(found, key=lambda item: item.tokens))

    @property
    def uncounted_layers(self) -> tuple[int, ...]:
        """Layers whose experts have one count together."""
        return tuple(layer.layer for layer in self.layers if not layer.tokens)

    @property
    def notes(self) -> tuple[str, ...]:
        """What must be said aloud of it."""
        notes = []
        if not self.layers:
            notes.append(
                f"importance matrix {self.imatrix!r}: {NO_EXPERTS}, so no coverage was judged"
            )
        unseen = [item for item in self.experts if item.tokens == 0]
        few = [item for item in self.experts if item.tokens < FEW_TOKENS]
        if unseen:
            notes.append(
                f"importance matrix {self.imatrix!r}: {len(unseen)} of {len(self.experts)} experts"
                f" saw no token and are quantized as without one: {_named(unseen)}"
            )
        elif few:
            notes.append(
                f"importance matrix {self.imatrix!r}: {len(few)} of {len(self.experts)} experts saw"
                f" fewer than {FEW_TOKENS} tokens: {_named(few)}"
            )
        if self.without:
            names = ", ".join(self.without[:_N_NAMED])
            more = ", …" if len(self.without) > _N_NAMED else ""
            notes.append(
                f"importance matrix {self.imatrix!r} has nothing of {len(self.without)} quantized"
                f" weights: {names}{more}"
            )
        return tuple(notes)


def _named(experts: list[Expert]) -> str:
    more = ", …" if len(experts) > _N_NAMED else ""
    return ", ".join(item.name for item in experts[:_N_NAMED]) + more
