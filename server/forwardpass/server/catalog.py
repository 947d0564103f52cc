"""The models that a server offers, in memory: by name, by version, by label."""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from enum import StrEnum

from forwardpass.proto.spec import quote
from forwardpass.server.errors import (
    InvalidRequestError,
    ModelFailedError,
    ModelLoadingError,
    ModelNotFoundError,
    VersionNotFoundError,
)
from forwardpass.server.model import Model
from forwardpass.server.plan import Plans
from forwardpass.server.repository import ModelFile

_NUMBER = re.compile(r"[0-9]{1,18}")


class State(StrEnum):
    """What a version can be, in the protocol's words."""

    READY = "READY"
    LOADING = "LOADING"
    UNAVAILABLE = "UNAVAILABLE"


@dataclass(frozen=True, slots=True, eq=False)
class Version:
    """What became of one version; two are equal only if they are the same."""

    file: ModelFile
    """The file tried last."""
    model: Model | None = None
    """Answers calls: made of that file, or of what it was before if that one failed."""
    reason: str = ""
    """Why the file does not answer; empty if it does, or is not loaded yet."""

    @property
    def state(self) -> State:
        """Whether it answers."""
        if self.model is not None:
            return State.READY
        return State.UNAVAILABLE if self.reason else State.LOADING


@dataclass(frozen=True, slots=True)
class Offer:
    """What there is of one model; replaced, never changed."""

    versions: Mapping[int, Version] = field(default_factory=dict)
    labels: Mapping[str, int] = field(default_factory=dict)
    unloaded: bool = False
    """Whether it was taken out of service by hand."""
    answering: Mapping[int, Model] = field(init=False)
    """Version -> model, oldest first."""

    def __post_init__(self) -> None:
        answering = {
            number: version.model
            for number, version in sorted(self.versions.items())
            if version.model is not None
        }
        object.__setattr__(self, "answering", answering)


@dataclass(frozen=True, slots=True)
class IndexEntry:
    """One version as the repository's index lists it."""

    name: str
    version: int
    state: State
    reason: str
    """Why its file does not answer; empty if it does. A version that is READY has one where its
    file was changed into one that fails: what it was before still answers."""


class Catalog:
    """Every version that loaded, and the reason of every one that did not.

    A snapshot is replaced, never changed, so that a call sees one state from end to end; one
    thread at a time may replace it.
    """

    def __init__(self) -> None:
        self._offers: Mapping[str, Offer] = {}
        self.plans = Plans()
        """How calls are answered that were seen before; new with every snapshot."""

    def put(self, name: str, offer: Offer) -> None:
        """Replace what there is of a model; an offer without versions removes it."""
        offers = {**self._offers, name: offer}
        if not offer.versions:
            del offers[name]
        self._offers = offers
        # After the offers: a plan kept from now on is of a model that answers now.
        self.plans = Plans()

    def get(self, name: str) -> Offer:
        """Return what there is of a model: an empty offer for an unknown name."""
        return self._offers.get(name, _NOTHING)

    def __iter__(self) -> Iterator[str]:
        """Iterate over the names, failed and unloaded models included."""
        return iter(self._offers)

    def __contains__(self, name: object) -> bool:
        """Tell whether there is a model of that name, answering or not."""
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
