"""The models and texts of a configuration, each looked for and read once."""

from __future__ import annotations

import json
from pathlib import Path

from pytest_quantgate.artifacts.imatrix import read_header
from pytest_quantgate.artifacts.models import Model, find_model
from pytest_quantgate.artifacts.texts import Text, check_held_out, domain_of, load_text
from pytest_quantgate.config.limit import ALL_DOMAINS
from pytest_quantgate.config.limits import by_domain
from pytest_quantgate.config.settings import NO_IMATRIX, Settings
from pytest_quantgate.errors import CellUnavailable, ConfigError, ModelFileError


class Library:
    """Models and texts by their names in the configuration."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._models: dict[str, Model | CellUnavailable] = {}
        self._texts: dict[str, Text] = {}

    def model(self, name: str) -> Model:
        """Return a model with its headers.

        Raises:
            ModelFileError: a file that cannot be used.
            CellUnavailable: it is on a hub and could not be downloaded, which is tried once.

        """
        if name not in self._models:
            try:
                self._models[name] = find_model(name, self._settings)
            except CellUnavailable as error:
                self._models[name] = error
        model = self._models[name]
        if isinstance(model, CellUnavailable):
            raise model
        return model

    def find_model(self, name: str) -> Model | None:
        """Return a model, None where it could not be downloaded."""
        try:
            return self.model(name)
        except CellUnavailable:
            return None

    def local_model(self, name: str) -> Model | None:
        """Return a model whose files are on this machine and no hub's, else None.

        A hub's may be in one job's cache and not in another's, so that it tells two jobs apart.
        """
        if (self._settings.models[name].source or "").startswith("hf:"):
            return None
        try:
            return self.model(name)
        except (ModelFileError, CellUnavailable):
            return None

    def text(self, name: str) -> Text:
        """Return a text."""
        if name not in self._texts:
            self._texts[name] = load_text(name, self._settings.texts, self._settings.root)
        return self._texts[name]

    def imatrix_text(self, name: str) -> Text:
        """Return the text, or the domain of one, that an importance matrix is collected from."""
        matrix = self._settings.imatrices[name]
        text = self.text(str(matrix.text))
        if matrix.domain is None:
            return text
        return domain_of(text, matrix.domain, f"[tool.quantgate.imatrices.{name}]")

    def check_domains(self) -> None:
        """Refuse a limit on a domain that no text of the profile has.

        Raises:
            ConfigError: in one line.

        """
        texts = [self.text(name) for name in self._settings.profile.texts]
        domains = sorted({span.name for text in texts for span in text.domains})
        for format_, limits in self._settings.limits.items():
            for name in by_domain(limits.domains or {}):
                if name not in {*domains, ALL_DOMAINS}:
                    raise ConfigError(
                        f"limits.{json.dumps(format_)}.domains names {name!r}, which no text of the"
                        f" profile has; valid: {', '.join([*domains, ALL_DOMAINS])}"
                    )

    def check_imatrices(self) -> None:
        """Refuse a file that is no importance matrix, and a matrix of what is scored.

        Raises:
            ConfigError: in one line.

        """
        profile = self._settings.profile
        for name in profile.imatrices:
            if name == NO_IMATRIX:
                continue
            matrix = self._settings.imatrices[name]
            if matrix.file is not None:
                read_header(name, self._settings.root / Path(matrix.file).expanduser())
                continue
            for scored in profile.texts:
                check_held_out(name, self.imatrix_text(name), self.text(scored))
