"""Cells, and how a profile expands into them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import product

from pytest_quantgate.config.settings import NO_IMATRIX, Settings
from pytest_quantgate.errors import ConfigError
from pytest_quantgate.gguf.formats import FULL_PRECISION, Format, find_format, keep_at, only_part
from pytest_quantgate.gguf.reader import GgufFile
from pytest_quantgate.gguf.tensor_groups import quantized_parts

NO_TEXT = ""
"""The text of a cell that has no quality to be measured: a shape's."""


@dataclass(frozen=True, kw_only=True)
class Cell:
    """The unit that is measured, judged, cached and reported.

    ``id`` is stable and readable: model, format, importance matrix if any, device, and the text,
    the length of its chunks and the engine where they are not the profile's only one. A shape's
    cell has ``NO_TEXT``; its speed and memory are measured at the profile's first length.
    ``engine`` measures, ``quantizer`` is the engine that makes the file: another one only where
    two engines are held against each other.
    """

    id: str
    model: str
    format: Format
    imatrix: str | None
    device: str
    engine: str
    quantizer: str
    text: str
    n_ctx: int


def model_formats(
    settings: Settings,
    model: str,
    full_precision: str | None = None,
    parts: Sequence[str] = (),
) -> tuple[Format, ...]:
    """Return the formats in which the profile wants a model.

    A model with files of its own comes in the formats of these files that the profile lists or,
    if the profile lists none of them, in all of them. Where the source is of full precision,
    that type is the reference: it takes the place of another full precision in the list, since
    BF16 turned into F16 would be a loss of its own. The formats of the profile's ``parts`` come
    last, each as one format a part of the model.

    Raises:
        ConfigError: a file's key is no format.

    """
    files = settings.models[model].files
    if files is None:
        split = [only_part(item, part) for item in settings.parts for part in parts]
        wanted_formats = (
            *settings.formats,
            *(item for item in split if item not in settings.formats),
        )
        if full_precision is None:
            return wanted_formats
        own_type = find_format(full_precision)
        swapped = (
            own_type if item.is_full_precision else keep_at(item, full_precision)
            for item in wanted_formats
        )
        return tuple(dict.fromkeys(swapped))
    own = tuple(find_format(name, settings.recipes) for name in files)
    wanted = {item.name for item in settings.formats}
    return tuple(item for item in own if item.name in wanted) or own


def format_imatrices(settings: Settings, model: str, wanted: Format) -> tuple[str | None, ...]:
    """Return the importance matrices with which the profile wants a format; None is none.

    A file that exists was made with or without one, full precision is no matter of one, and a
    shape has no activations to make one from.
    """
    found = settings.models[model]
    if found.files is not None or found.is_shape or wanted.is_full_precision:
        return (None,)
    names = settings.profile.imatrices
    return tuple(None if name == NO_IMATRIX else name for name in names)


def expand(
    settings: Settings,
    full_precision: Mapping[str, str] | None = None,
    parts: Mapping[str, Sequence[str]] | None = None,
) -> tuple[Cell, ...]:
    """Return the cells of the active profile, in the profile's order.

    ``full_precision`` has the source's type of each model whose source is F32, BF16 or F16,
    ``parts`` the parts of each model that can be quantized.

    Raises:
        ConfigError: two cells would have one id.

    """
    cells = []
    own = full_precision or {}
    profile = settings.profile
    for model in profile.models:
        is_shape = settings.models[model].is_shape
        texts = (NO_TEXT,) if is_shape else profile.texts
        for text, n_ctx in product(texts, profile.n_ctx[:1] if is_shape else profile.n_ctx):
            for device in profile.devices:
                for item in model_formats(
                    settings, model, own.get(model), (parts or {}).get(model, ())
                ):
                    for imatrix in format_imatrices(settings, model, item):
                        blank = Cell(
                            id="",
                            model=model,
                            format=item,
                            imatrix=imatrix,
                            device=device,
                            engine=profile.engine,
                            quantizer=profile.engine,
                            text=text,
                            n_ctx=n_ctx,
                        )
                        cells.append(make_cell(settings, blank, item, imatrix))
    ids = [cell.id for cell in cells]
    for cell_id in ids:
        if ids.count(cell_id) > 1:
            raise ConfigError(f"two cells have the id {cell_id!r}; name one format once")
    return tuple(cells)


def expand_sources(settings: Settings, sources: Mapping[str, GgufFile]) -> tuple[Cell, ...]:
    """Return the cells of the active profile, as the models' sources that were found have them.

    Raises:
        ConfigError: as :func:`expand`.

    """
    types = {name: source.main_type() for name, source in sources.items()}
    return expand(
        settings,
        {name: found for name, found in types.items() if found in FULL_PRECISION},
        {
            name: quantized_parts(tensor.name for tensor in source.tensors)
            for name, source in sources.items()
        },
    )


def make_cell(settings: Settings, like: Cell, wanted: Format, imatrix: str | None) -> Cell:
    """Return the cell of another format and importance matrix, everything else like a cell's."""
    parts = [like.model, wanted.name, *([imatrix] if imatrix else []), like.device]
    if len(settings.profile.texts) > 1 and like.text != NO_TEXT:
        parts.append(like.text)
    if len(settings.profile.n_ctx) > 1 and like.text != NO_TEXT:
        parts.append(f"c{like.n_ctx}")
    if settings.profile.engine != "default":
        parts.append(settings.profile.engine)
    side = ""
    if like.quantizer != like.engine:
        side = f"@{like.quantizer}-on-{like.engine}"
    elif like.engine != settings.profile.engine:
        side = f"@{like.engine}"
    return replace(like, id="-".join(parts) + side, format=wanted, imatrix=imatrix)


def with_engines(settings: Settings, cell: Cell, *, quantizer: str, engine: str) -> Cell:
    """Return the cell whose file one engine makes and another measures, else like a cell."""
    other = replace(cell, quantizer=quantizer, engine=engine)
    return make_cell(settings, other, cell.format, cell.imatrix)


def on_device(settings: Settings, cell: Cell, device: str) -> Cell:
    """Return the cell of another device, everything else like a cell's."""
    return make_cell(settings, replace(cell, device=device), cell.format, cell.imatrix)


def reference_format(formats: tuple[Format, ...]) -> Format:
    """Return the format that the others are compared with: the most precise one.

    F32, BF16 and F16 are references; without one of them, the widest is a stand-in.
    """
    order = {"F32": 0, "BF16": 1, "F16": 2}
    return min(
        formats,
        key=lambda item: (
            order.get(item.name, 9) if item.is_full_precision else 9,
            -item.nominal_bits_per_weight,
        ),
    )
