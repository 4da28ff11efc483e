"""An oracle: how far an engine is from another implementation of the same model."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class OracleMeasurement:
    """An engine's divergence from the stored figures, in nats a token.

    An F16 file rounds, and where two experts are nearly tied that sends a token to another one:
    4 of 1,000 tokens then differ by up to a nat, and so do those that attend to them. One such
    token outweighs all others in a mean, so ``typical_`` figures leave the tokens out that
    differ most (:data:`LEFT_OUT_ROWS`, :data:`LEFT_OUT_TOKENS`); a fault of the engine touches
    nearly all.

    Attributes:
        rows: stored distributions.
        mean_kld_nats: mean KL divergence of the engine from them, over all.
        typical_kld_nats: the same without those that differ most.
        tokens: scored tokens, the second halves of the chunks as in perplexity.
        nll_kld_nats: half the mean square of the tokens' differences in negative log-likelihood,
            which to second order is the mean KL divergence, over all.
        typical_nll_kld_nats: the same without those that differ most.
        max_nll_difference_nats: the largest absolute difference.

    """

    rows: int
    mean_kld_nats: float
    typical_kld_nats: float
    tokens: int
    nll_kld_nats: float
    typical_nll_kld_nats: float
    max_nll_difference_nats: float
