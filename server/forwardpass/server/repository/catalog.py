"""The models that a server offers, in memory: by name, by version, by label."""

import re
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import NamedTuple

from forwardpass.proto.spec import quote
from forwardpass.server.engine.model import Model
from forwardpass.server.errors import (
    InvalidRequestError,
    ModelFailedError,
    ModelLoadingError,
    ModelNotFoundError,
    VersionNotFoundError,
)
from forwardpass.server.repository.disk import ModelFile

_NUMBER = re.compile(r"[0-9]{1,18}")


class State(StrEnum):
    """The states of a version, in the protocol's words."""

    READY = "READY"
    LOADING = "LOADING"
    UNAVAILABLE = "UNAVAILABLE"


@dataclass(frozen=True, slots=True, eq=False)
class Version:
    """One version and whether it loaded; two are equal only if they are the same object."""

    file: ModelFile
    """The file that was tried last."""
    model: Model | None = None
    """The model that answers calls: of that file, or of the file before if that one failed."""
    reason: str = ""
    """Why the file does not answer; empty if it does, or is not loaded yet."""
    pause_s: float | None = None
    """After so long the same file is tried again, where it was the machine that had no time or no
    memory; None: when it changes."""
    tried_s: float = field(default_factory=time.monotonic)
    """When it was tried, on the clock of time.monotonic."""

    @property
    def again_s(self) -> float | None:
        """When it is tried again, on that clock."""
        return None if self.pause_s is None else self.tried_s + self.pause_s

    @property
    def state(self) -> State:
        """The state of the version, which its model and its reason decide."""
        if self.model is not None:
            return State.READY
        return State.UNAVAILABLE if self.reason else State.LOADING


@dataclass(frozen=True, slots=True)
class Offer:
    """The versions and labels of one model; replaced, never changed."""

    versions: Mapping[int, Version] = field(default_factory=dict)
    labels: Mapping[str, int] = field(default_factory=dict)
    unloaded: bool = False
    """Whether it was taken out of service by hand."""
    answering: Mapping[int, Model] = field(init=False)
    """The versions that answer -> their models, oldest first."""

    def __post_init__(self) -> None:
        answering = {
            number: version.model
            for number, version in sorted(self.versions.items())
            if version.model is not None
        }
        object.__setattr__(self, "answering", answering)

    @property
    def failed(self) -> set[int]:
        """The versions that do not answer, for a reason that is known."""
        return {n for n, each in self.versions.items() if each.reason and each.model is None}


class IndexEntry(NamedTuple):
    """One version as the repository's index lists it."""

    name: str
    version: int
    state: State
    reason: str
    """The reason why its file does not answer; empty if it does. A version that is READY has one
    if its file was replaced by one that fails: the model of the file before still answers."""


class Catalog:
    """Every version that loaded, and the reason of every one that did not.

    A snapshot is replaced, never changed, so that a call sees one state from end to end; one
    thread at a time may replace it.
    """

    def __init__(self) -> None:
        self._offers: Mapping[str, Offer] = {}
        self.generation = object()
        """A token, new with every snapshot: what was read under another may be out of date."""
        self.notes: Mapping[str, str] = {}
        """What is to be said of models beside their states; of all of them under ""."""

    def put(self, name: str, offer: Offer) -> None:
        """Replace the offer of a model; an offer without versions removes it."""
        offers = {**self._offers, name: offer}
        if not offer.versions:
            del offers[name]
        self._offers = offers
        # After the offers: a caller that reads this token, and then a model, gets a new model.
        self.generation = object()

    def get(self, name: str) -> Offer:
        """Return the offer of a model: an empty one for an unknown name."""
        return self._offers.get(name, _NOTHING)

    def note(self, notes: Mapping[str, str]) -> None:
        """Replace what is to be said of models beside their state; of all models under ""."""
        self.notes = notes

    def note_on(self, name: str) -> str:
        """Return what is to be said of a model beside its state; empty if nothing is."""
        return self.notes.get(name) or self.notes.get("", "")

    def __iter__(self) -> Iterator[str]:
        """Iterate over the names, failed and unloaded models included."""
        return iter(self._offers)

    def __contains__(self, name: object) -> bool:
        """Return whether there is a model of that name, answering or not."""
        return name in self._offers

    def versions(self, name: str) -> list[int]:
        """List the versions that answer, oldest first.

        Raises ModelNotFoundError for an unknown name.
        """
        return list(self._offer(name).answering)

    def index(self) -> list[IndexEntry]:
        """List every version that is known, by name and number."""
        return [
            IndexEntry(name, number, version.state, version.reason)
            for name, offer in sorted(self._offers.items())
            for number, version in sorted(offer.versions.items())
        ]

    def find(self, name: str, version: str = "") -> Model:
        """Return the model that answers for a name and a version.

        The version is a number, a label, or empty: then it is the highest that answers.

        Raises ModelNotFoundError, VersionNotFoundError, ModelLoadingError, ModelFailedError
        where the version is there but did not load, and InvalidRequestError for a version
        that is neither a number nor a label of the model.
        """
        offer = self._offer(name)
        if offer.unloaded:
            raise ModelNotFoundError(name, self._loaded(), unloaded=True)
        if not version:
            number = max(offer.answering or offer.versions)
        elif _NUMBER.fullmatch(version):
            number = int(version)
        elif version in offer.labels:
            number = offer.labels[version]
        else:
            labels = ", ".join(sorted(offer.labels)) or "none"
            raise InvalidRequestError(
                "model_version",
                # In Triton's words, which programs look for, and then how to get it right.
                f"failed to get model version from specified version string {quote(version)}: "
                "expected a number as in '1', a label of the model, or nothing, "
                f"got {quote(version)}; labels of {name!r}: {labels}",
            )
        model = offer.answering.get(number)
        if model is not None:
            return model
        if number not in offer.versions:
            raise VersionNotFoundError(name, version, offer.versions)
        reason = offer.versions[number].reason
        raise ModelFailedError(name, number, reason) if reason else ModelLoadingError(name)

    def _offer(self, name: str) -> Offer:
        offer = self._offers.get(name)
        if offer is None:
            raise ModelNotFoundError(name, self._loaded())
        return offer

    def _loaded(self) -> list[str]:
        return [name for name, offer in self._offers.items() if not offer.unloaded]


_NOTHING = Offer()
