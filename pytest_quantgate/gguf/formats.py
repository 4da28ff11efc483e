"""The formats a model is quantized to: one row a llama.cpp file type, and recipes over them.

The numbers are those of ``enum llama_ftype`` (llama.h) and the main tensor type is what
``llama_ftype_get_default_type`` (llama-quant.cpp) gives. A contract test holds the table against
the constants of the installed llama-cpp-python.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType

from pytest_quantgate.errors import ConfigError
from pytest_quantgate.gguf.tensor_groups import PARTS, QUANTIZED_PARTS


@dataclass(frozen=True, kw_only=True)
class TensorType:
    """One ggml tensor type: its number in ``enum ggml_type`` and its block's layout."""

    name: str
    number: int
    block_elements: int
    block_bytes: int

    @property
    def bits_per_weight(self) -> float:
        """Bits of a block over its elements."""
        return 8 * self.block_bytes / self.block_elements


TENSOR_TYPES: Mapping[str, TensorType] = MappingProxyType(
    {
        name: TensorType(name=name, number=number, block_elements=elements, block_bytes=block_bytes)
        for name, number, elements, block_bytes in (
            ("F32", 0, 1, 4),
            ("F16", 1, 1, 2),
            ("Q4_0", 2, 32, 18),
            ("Q4_1", 3, 32, 20),
            ("Q5_0", 6, 32, 22),
            ("Q5_1", 7, 32, 24),
            ("Q8_0", 8, 32, 34),
            ("Q8_1", 9, 32, 40),
            ("Q2_K", 10, 256, 84),
            ("Q3_K", 11, 256, 110),
            ("Q4_K", 12, 256, 144),
            ("Q5_K", 13, 256, 176),
            ("Q6_K", 14, 256, 210),
            ("Q8_K", 15, 256, 292),
            ("IQ2_XXS", 16, 256, 66),
            ("IQ2_XS", 17, 256, 74),
            ("IQ3_XXS", 18, 256, 98),
            ("IQ1_S", 19, 256, 50),
            ("IQ4_NL", 20, 32, 18),
            ("IQ3_S", 21, 256, 110),
            ("IQ2_S", 22, 256, 82),
            ("IQ4_XS", 23, 256, 136),
            ("I8", 24, 1, 1),
            ("I16", 25, 1, 2),
            ("I32", 26, 1, 4),
            ("I64", 27, 1, 8),
            ("F64", 28, 1, 8),
            ("IQ1_M", 29, 256, 56),
            ("BF16", 30, 1, 2),
            ("TQ1_0", 34, 256, 54),
            ("TQ2_0", 35, 256, 66),
            ("MXFP4", 39, 32, 17),
            ("NVFP4", 40, 64, 36),
            ("Q1_0", 41, 128, 18),
            ("Q2_0", 42, 64, 18),
        )
    }
)

NOT_QUANTIZED = frozenset({"Q8_1", "Q8_K", "I8", "I16", "I32", "I64", "F64"})
"""Types of activations and of other numbers, on which llama.cpp's quantizer aborts."""

FULL_PRECISION = frozenset({"F32", "BF16", "F16"})


@dataclass(frozen=True, kw_only=True)
class FileType:
    """One row of the table: a file type that llama.cpp can write.

    ``needs_imatrix`` marks the types that llama.cpp refuses to write without an importance
    matrix for the model's blocks.
    """

    name: str
    number: int
    main_type: str
    needs_imatrix: bool = False
    aliases: tuple[str, ...] = ()

    @property
    def nominal_bits_per_weight(self) -> float:
        """Bits per weight of the main tensor type; a mix also holds wider tensors."""
        return TENSOR_TYPES[self.main_type].bits_per_weight

    @property
    def block_elements(self) -> int:
        """Elements of a block of the main type, of which a row must be a multiple."""
        return TENSOR_TYPES[self.main_type].block_elements


def _row(
    name: str, number: int, main_type: str, *aliases: str, needs_imatrix: bool = False
) -> FileType:
    return FileType(
        name=name,
        number=number,
        main_type=main_type,
        aliases=aliases,
        needs_imatrix=needs_imatrix,
    )


FILE_TYPES: Mapping[str, FileType] = MappingProxyType(
    {
        row.name: row
        for row in (
            _row("F32", 0, "F32"),
            _row("F16", 1, "F16", "FP16"),
            _row("BF16", 32, "BF16"),
            _row("Q8_0", 7, "Q8_0"),
            _row("Q6_K", 18, "Q6_K"),
            _row("Q5_K_M", 17, "Q5_K", "Q5_K"),
            _row("Q5_K_S", 16, "Q5_K"),
            _row("Q5_1", 9, "Q5_1"),
            _row("Q5_0", 8, "Q5_0"),
            _row("Q4_K_M", 15, "Q4_K", "Q4_K"),
            _row("Q4_K_S", 14, "Q4_K"),
            _row("Q4_1", 3, "Q4_1"),
            _row("Q4_0", 2, "Q4_0"),
            _row("IQ4_NL", 25, "IQ4_NL"),
            _row("IQ4_XS", 30, "IQ4_XS"),
            _row("MXFP4_MOE", 38, "MXFP4", "MXFP4"),
            _row("Q3_K_L", 13, "Q3_K"),
            _row("Q3_K_M", 12, "Q3_K", "Q3_K"),
            _row("Q3_K_S", 11, "Q3_K"),
            _row("IQ3_M", 27, "IQ3_S"),
            _row("IQ3_S", 26, "IQ3_S"),
            _row("IQ3_XS", 22, "IQ3_S", needs_imatrix=True),
            _row("IQ3_XXS", 23, "IQ3_XXS", needs_imatrix=True),
            _row("Q2_K", 10, "Q2_K"),
            _row("Q2_K_S", 21, "Q2_K", needs_imatrix=True),
            _row("Q2_0", 41, "Q2_0"),
            _row("IQ2_M", 29, "IQ2_S", needs_imatrix=True),
            _row("IQ2_S", 28, "IQ2_XS", needs_imatrix=True),
            _row("IQ2_XS", 20, "IQ2_XS", needs_imatrix=True),
            _row("IQ2_XXS", 19, "IQ2_XXS", needs_imatrix=True),
            _row("TQ2_0", 37, "TQ2_0"),
            _row("TQ1_0", 36, "TQ1_0"),
            _row("IQ1_M", 31, "IQ1_M", needs_imatrix=True),
            _row("IQ1_S", 24, "IQ1_S", needs_imatrix=True),
            _row("Q1_0", 40, "Q1_0"),
        )
    }
)

NOT_WRITABLE: Mapping[str, str] = MappingProxyType(
    {"NVFP4": "llama.cpp has a file type for it but cannot quantize to it"}
)
"""File types that llama.cpp names and refuses to write, each with the reason."""

DEFAULT_FORMATS = (
    "F16",
    "Q8_0",
    "Q6_K",
    "Q5_K_M",
    "Q5_K_S",
    "Q5_0",
    "Q4_K_M",
    "Q4_K_S",
    "Q4_0",
    "IQ4_NL",
    "IQ4_XS",
    "MXFP4_MOE",
    "Q3_K_M",
    "Q2_K",
)

TENSOR_GROUPS: Mapping[str, str] = MappingProxyType(
    {
        **{name: PARTS[name] for name in ("experts", "router", "attention", "feed_forward")},
        "output": r"^output\.weight$",
        "embedding": r"^token_embd\.weight$",
    }
)
"""Names that a recipe may use for a group of tensors, as the pattern llama.cpp is given."""


@dataclass(frozen=True, kw_only=True)
class Format:
    """What a model is quantized to: a file type, or a recipe that overrides some tensors.

    ``overrides`` are ``(pattern, tensor type)`` in the order in which llama.cpp tries them; the
    pattern is searched for in the tensor's name. ``part`` is set where only that part of a model
    is quantized, the rest at full precision (see :mod:`pytest_quantgate.gguf.tensor_groups`).
    """

    name: str
    file_type: FileType
    overrides: tuple[tuple[str, str], ...] = ()
    part: str | None = None

    def overridden_type(self, tensor_name: str) -> str | None:
        """Return the type that an override gives to a tensor, None where none fits."""
        for pattern, type_name in self.overrides:
            if re.search(pattern, tensor_name):
                return type_name
        return None

    @property
    def is_full_precision(self) -> bool:
        """Whether this is F32, BF16 or F16 throughout."""
        return self.file_type.name in FULL_PRECISION and not self.overrides

    @property
    def needs_imatrix(self) -> bool:
        """Whether llama.cpp refuses to write it without an importance matrix."""
        return self.file_type.needs_imatrix

    @property
    def nominal_bits_per_weight(self) -> float:
        """Bits per weight of the main tensor type."""
        return self.file_type.nominal_bits_per_weight


def _did_you_mean(name: str, valid: list[str]) -> str:
    close = difflib.get_close_matches(name.upper(), valid, n=1, cutoff=0.5)
    return f" (did you mean {close[0]}?)" if close else ""


def find_file_type(name: str) -> FileType:
    """Return the row of a file type's name or alias, whatever its case.

    Raises:
        ConfigError: no such file type, or one that llama.cpp cannot write.

    """
    upper = name.upper()
    for row in FILE_TYPES.values():
        if upper == row.name or upper in row.aliases:
            return row
    if upper in NOT_WRITABLE:
        raise ConfigError(f"format {name!r} cannot be made: {NOT_WRITABLE[upper]}")
    raise ConfigError(
        f"unknown format {name!r}{_did_you_mean(name, list(FILE_TYPES))}; valid:"
        f" {', '.join(FILE_TYPES)}, or a recipe under [tool.quantgate.formats]"
    )


CACHE_TYPES = ("F32", "F16", "BF16", "Q8_0", "Q4_0", "Q4_1", "IQ4_NL", "Q5_0", "Q5_1")
"""Types of keys and values in llama.cpp's memory, as its option ``--cache-type-k`` has them."""


def find_tensor_type(name: str) -> TensorType:
    """Return a tensor type that llama.cpp quantizes to, by name, whatever its case.

    Raises:
        ConfigError: no such tensor type, or one that weights are never stored in.

    """
    valid = [item for item in TENSOR_TYPES if item not in NOT_QUANTIZED]
    if name.upper() in valid:
        return TENSOR_TYPES[name.upper()]
    if name.upper() in NOT_QUANTIZED:
        raise ConfigError(
            f"tensor type {name!r}: llama.cpp quantizes no weights to it; valid: {', '.join(valid)}"
        )
    raise ConfigError(
        f"unknown tensor type {name!r}{_did_you_mean(name, valid)}; valid: {', '.join(valid)}"
    )


def make_recipe(name: str, base: str, overrides: Mapping[str, str]) -> Format:
    """Build a recipe: a base file type and tensor overrides.

    Args:
        name: what the recipe is called in cells and tables.
        base: the file type that all other tensors follow.
        overrides: a group of ``TENSOR_GROUPS`` or a regular expression → a tensor type.

    Raises:
        ConfigError: an unknown base or tensor type, a pattern that is no regular expression, or
            a name that is already a file type's.

    """
    taken = {alias for row in FILE_TYPES.values() for alias in (row.name, *row.aliases)}
    if name.upper() in taken:
        raise ConfigError(f"recipe {name!r} has the name of a file type; choose another name")
    file_type = find_file_type(base)
    if overrides and file_type.name in FULL_PRECISION:
        raise ConfigError(
            f"recipe {name!r}: llama.cpp ignores tensor overrides on the base {file_type.name};"
            " take a quantized base and override the rest"
        )
    pairs = []
    for pattern, type_name in overrides.items():
        expression = TENSOR_GROUPS.get(pattern, pattern)
        try:
            re.compile(expression)
        except re.error as error:
            raise ConfigError(
                f"recipe {name!r}: {pattern!r} is neither one of {', '.join(TENSOR_GROUPS)}"
                f" nor a regular expression ({error})"
            ) from error
        pairs.append((expression, find_tensor_type(type_name).name))
    return Format(name=name, file_type=file_type, overrides=tuple(pairs))


def only_part(whole: Format, part: str, kept: str = "F16") -> Format:
    """Return a format of which only one part is quantized, as ``Q4_K_M.experts``.

    Args:
        whole: the format whose tensor types the part takes.
        part: one of ``QUANTIZED_PARTS``.
        kept: the full precision of everything else.

    Raises:
        ConfigError: no such part, or a format that quantizes nothing.

    """
    name = f"{whole.name}.{part}"
    if part not in QUANTIZED_PARTS:
        raise ConfigError(
            f"format {name!r}: llama.cpp quantizes no part {part!r};"
            f" valid: {', '.join(QUANTIZED_PARTS)}"
        )
    if whole.is_full_precision:
        raise ConfigError(
            f"format {name!r}: {whole.name} quantizes nothing; take a format that does"
        )
    others = (f"^(?!.*(?:{PARTS[part]}))", kept)
    return replace(whole, name=name, part=part, overrides=(others, *whole.overrides))


def keep_at(item: Format, full_precision: str) -> Format:
    """Return a format of one part with its other tensors at the model's own full precision."""
    if item.part is None:
        return item
    (others, _), *more = item.overrides
    return replace(item, overrides=((others, full_precision), *more))


def find_format(name: str, recipes: Mapping[str, Format] | None = None) -> Format:
    """Return the format of a name: a recipe's, a file type's, an alias, or ``FORMAT.PART``.

    Raises:
        ConfigError: neither a recipe nor a file type.

    """
    if recipes and name in recipes:
        return recipes[name]
    whole, dot, part = name.rpartition(".")
    if dot:
        return only_part(find_format(whole, recipes), part.lower())
    file_type = find_file_type(name)
    return Format(name=file_type.name, file_type=file_type)
