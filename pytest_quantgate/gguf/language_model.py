"""Whether a file is a model that predicts text."""

from __future__ import annotations

import re

from pytest_quantgate.errors import ModelFileError
from pytest_quantgate.gguf.reader import GgufFile

# Encoders, projectors and speech models load in llama.cpp but predict no next token.
_NOT_LANGUAGE = re.compile(r"^(clip|.*bert.*|t5encoder|wavtokenizer.*|gemma-embedding)$")


def check_language_model(file: GgufFile) -> None:
    """Refuse what llama.cpp loads but cannot take perplexity of.

    Raises:
        ModelFileError: an importance matrix, an adapter, a projector, an encoder, or a file
            without tensors or vocabulary.

    """
    path = file.files[0]
    kind = str(file.metadata.get("general.type", "model"))
    if kind != "model":
        raise ModelFileError(
            f"model file {path} is no language model: general.type is {kind!r}; name the model"
        )
    if not file.architecture:
        raise ModelFileError(
            f"model file {path} is no language model: it has no general.architecture"
        )
    if _NOT_LANGUAGE.match(file.architecture):
        raise ModelFileError(
            f"model file {path} is no language model: its architecture {file.architecture!r}"
            " predicts no next token"
        )
    if "tokenizer.ggml.model" not in file.metadata:
        raise ModelFileError(f"model file {path} is no language model: it has no tokenizer")
    if not any(tensor.name == "token_embd.weight" for tensor in file.tensors):
        raise ModelFileError(
            f"model file {path} is no language model: it has no tensor token_embd.weight"
        )
