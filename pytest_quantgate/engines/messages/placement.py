"""Where a model is loaded: which devices, how many layers, how they are split.

A message carries it as one text: the devices as llama.cpp's ``--device`` takes them, then options,
as in ``CUDA0,CUDA1;split_mode=row;tensor_split=3/1``. Runs in the worker too: standard library.
"""

from __future__ import annotations

from dataclasses import dataclass

CPU = "cpu"

SPLIT_MODES = {"none": 0, "layer": 1, "row": 2}
"""``enum llama_split_mode``."""


@dataclass(frozen=True, kw_only=True)
class Placement:
    """Where a model is loaded.

    ``names`` are devices that ggml lists, or ``cpu`` alone, which hides every other device;
    ``n_gpu_layers`` None is all layers; ``tensor_split`` are the devices' shares, empty for
    llama.cpp's own; ``repack`` tells whether the CPU's repacked weights are allowed.
    """

    names: tuple[str, ...] = (CPU,)
    n_gpu_layers: int | None = None
    split_mode: str = "layer"
    tensor_split: tuple[float, ...] = ()
    repack: bool = True

    @property
    def is_cpu(self) -> bool:
        """Whether the processor alone computes."""
        return self.names == (CPU,)

    @property
    def devices(self) -> tuple[str, ...]:
        """The devices besides the processor."""
        return () if self.is_cpu else self.names

    def to_text(self) -> str:
        """Write it as a message carries it."""
        parts = [",".join(self.names)]
        if self.n_gpu_layers is not None:
            parts.append(f"n_gpu_layers={self.n_gpu_layers}")
        if self.split_mode != "layer":
            parts.append(f"split_mode={self.split_mode}")
        if self.tensor_split:
            parts.append(f"tensor_split={'/'.join(f'{share:g}' for share in self.tensor_split)}")
        if not self.repack:
            parts.append("repack=0")
        return ";".join(parts)


def read_placement(text: str) -> Placement:
    """Read what :meth:`Placement.to_text` wrote.

    Raises:
        ValueError: an option that is none.

    """
    names, *options = text.split(";")
    given = dict(option.split("=", 1) for option in options)
    layers = given.pop("n_gpu_layers", None)
    shares = given.pop("tensor_split", "")
    placement = Placement(
        names=tuple(name.strip() for name in names.split(",")),
        n_gpu_layers=None if layers is None else int(layers),
        split_mode=given.pop("split_mode", "layer"),
        tensor_split=tuple(float(share) for share in shares.split("/") if share),
        repack=given.pop("repack", "1") == "1",
    )
    if given:
        raise ValueError(f"a placement has no {', '.join(given)}")
    return placement
