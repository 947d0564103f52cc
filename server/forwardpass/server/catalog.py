"""The models that a server offers, in memory: by name, by version."""

import logging
import re
from collections.abc import Iterable, Iterator, Mapping

from forwardpass.server.errors import (
    InvalidRequestError,
    ModelFailedError,
    ModelLoadingError,
    ModelNotFoundError,
    VersionNotFoundError,
)
from forwardpass.server.model import Model
from forwardpass.server.plan import Plan
from forwardpass.server.repository import ModelFile

logger = logging.getLogger(__name__)

_VERSION = re.compile(r"[0-9]{1,18}")


_Entry = Model | ModelFailedError | None
"""A version that answers, one that failed, or one that is still loading."""


class Catalog:
    """Every version that loaded, and the reason of every one that did not.

    A snapshot is replaced, never changed, so that a call sees one state from end to end.
    """

    def __init__(self) -> None:
        self._entries: Mapping[str, Mapping[int, _Entry]] = {}
        self.plans: dict[bytes, Plan] = {}
        """By the bytes that calls of one form share; new with every snapshot."""

    def load(self, files: Iterable[ModelFile]) -> None:
        """Load every file; each answers as soon as it is loaded.

        One that fails stands in the catalog with its reason.
        """
        files = list(files)
        for file in files:
            self._put(file, None)
        for file in files:
            try:
                self._put(file, Model(file))
            except ModelFailedError as error:
                logger.error("%s", error)
                self._put(file, error)
            else:
                logger.info("model %r version %d is ready", file.name, file.version)

    def __iter__(self) -> Iterator[str]:
        """Iterate over the names, failed models included."""
        return iter(self._entries)

    def versions(self, name: str) -> list[int]:
        """List the versions that answer, oldest first.

        Raises ModelNotFoundError for an unknown name.
        """
        return sorted(_answering(self._versions(name)))

    def failures(self) -> list[ModelFailedError]:
        """List what did not load."""
        return [
            entry
            for versions in self._entries.values()
            for entry in versions.values()
            if isinstance(entry, ModelFailedError)
        ]

    def find(self, name: str, version: str = "") -> Model:
        """Return the model that answers for a name and a version; empty means the latest.

        Raises ModelNotFoundError, VersionNotFoundError, ModelLoadingError, ModelFailedError
        where the version is there but did not load, and InvalidRequestError for a version
        that is no number.
        """
        versions = self._versions(name)
        if not version:
            number = max(_answering(versions) or versions)
        elif not _VERSION.fullmatch(version):
            raise InvalidRequestError(
                "model_version", f"expected a number as in '1', or nothing, got {version!r}"
            )
        else:
            number = int(version)
            if number not in versions:
                raise VersionNotFoundError(name, version, versions)
        entry = versions[number]
        if entry is None:
            raise ModelLoadingError(name)
        if isinstance(entry, ModelFailedError):
            # A fresh one: raising the stored one would grow its traceback with every call.
            raise ModelFailedError(name, number, entry.reason)
        return entry

    def _versions(self, name: str) -> Mapping[int, _Entry]:
        versions = self._entries.get(name)
        if versions is None:
            raise ModelNotFoundError(name, self._entries)
        return versions

    def _put(self, file: ModelFile, entry: _Entry) -> None:
        versions = {**self._entries.get(file.name, {}), file.version: entry}
        self._entries = {**self._entries, file.name: versions}
        self.plans = {}


def _answering(versions: Mapping[int, _Entry]) -> list[int]:
    return [version for version, entry in versions.items() if isinstance(entry, Model)]
