"""The table of a shape: an architecture's sizes."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from pytest_quantgate.config.values import Positive, Table

Count = Annotated[int, Field(ge=1, le=1 << 20)]
"""How many of something a shape has."""


class ShapeSettings(Table):
    """An architecture's sizes: all that a model's size and speed depend on."""

    architecture: Literal["llama", "olmoe", "lfm2moe"]
    """The architecture."""
    layers: Annotated[int, Field(ge=1, le=512)]
    """The number of layers."""
    hidden: Count
    """The width; an even multiple of `heads`."""
    feed_forward: Count
    """The width of the feed-forward part: of each expert in `olmoe`, of the dense layers in
    `lfm2moe`."""
    heads: Count
    """Attention heads; a multiple of `kv_heads`."""
    kv_heads: Count
    """Heads of keys and values."""
    vocabulary: Annotated[int, Field(ge=258, le=1 << 20)]
    """Tokens in the vocabulary."""
    tied: bool = False
    """Whether the output matrix is the embedding; not with `olmoe`."""
    context: Count = 4096
    """The context length the model was trained for, in tokens."""
    rope_base: Positive = 10_000.0
    """The base frequency of the rotary embedding."""
    experts: Annotated[int, Field(ge=0, le=512)] = 0
    """Experts in a layer; 0 is a dense `llama`."""
    experts_used: Annotated[int, Field(ge=0)] = 0
    """Experts that each token uses."""
    expert_feed_forward: Count | None = None
    """`lfm2moe` only: the width of an expert."""
    dense_layers: Annotated[int, Field(ge=0)] = 0
    """`lfm2moe` only: how many layers, from the first, have no experts."""
    attention_layers: tuple[int, ...] = ()
    """`lfm2moe` only: the attention layers, counted from 0; the others are convolutions."""

    @model_validator(mode="after")
    def _consistent(self) -> ShapeSettings:
        # What llama.cpp asserts or refuses is said here, in the words of the configuration.
        if self.hidden % self.heads or self.hidden // self.heads % 2:
            raise ValueError(
                f"hidden = {self.hidden} must be an even multiple of heads = {self.heads}"
            )
        if self.heads % self.kv_heads:
            raise ValueError(
                f"heads = {self.heads} must be a multiple of kv_heads = {self.kv_heads}"
            )
        if not 0 <= self.experts_used <= self.experts or (self.experts and not self.experts_used):
            raise ValueError(
                f"experts_used = {self.experts_used} must be 1 to experts = {self.experts}"
            )
        if self.architecture != "llama" and not self.experts:
            raise ValueError(f"architecture = {self.architecture!r} needs experts")
        if self.architecture == "olmoe" and self.tied:
            raise ValueError("tied = true: architecture = 'olmoe' has an output matrix of its own")
        self._check_lfm2moe()
        return self

    def _check_lfm2moe(self) -> None:
        if self.architecture != "lfm2moe":
            for name in ("expert_feed_forward", "dense_layers", "attention_layers"):
                if getattr(self, name):
                    raise ValueError(f"{name} is for architecture = 'lfm2moe' only")
            return
        if self.expert_feed_forward is None:
            raise ValueError("architecture = 'lfm2moe' needs expert_feed_forward")
        if self.dense_layers > self.layers:
            raise ValueError(f"dense_layers = {self.dense_layers} is above layers = {self.layers}")
        if not self.attention_layers or not set(self.attention_layers) <= set(range(self.layers)):
            raise ValueError(
                f"attention_layers = {list(self.attention_layers)} must name some of the layers"
                f" 0 to {self.layers - 1}"
            )
