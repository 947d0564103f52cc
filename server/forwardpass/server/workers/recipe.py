"""What one process says to another of a model that it has checked, tried and proven."""

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path
from typing import NamedTuple

from forwardpass.server.app import queue_limits
from forwardpass.server.config import Config
from forwardpass.server.engine.model import Findings, Model
from forwardpass.server.engine.terms import Terms
from forwardpass.server.guard.files import ModelBytes
from forwardpass.server.repository.catalog import Offer, Version
from forwardpass.server.repository.disk import ModelFile
from forwardpass.server.workers.figures import SummedDrift, SummedQueue, SummedStatistics


@dataclass(frozen=True, slots=True)
class Recipe:
    """How to make a model of bytes that were found harmless and right: nothing is run again."""

    key: str
    """Equal for the same bytes that are served in the same way under the same name and version."""
    name: str
    version: int
    path: Path
    terms: Terms
    takes_none: bool
    findings: Findings

    @classmethod
    def of(cls, model: Model, path: Path, content: ModelBytes) -> "Recipe":
        """Write down a model; content: The bytes that it was made of."""
        parts = (model.name, model.version, path, model.terms, model.takes_none, model.findings)
        # The findings are measured anew each time, and are as good the second time.
        served = repr(parts[:5]).encode() + sha256(content.view).digest()
        return cls(sha256(served).hexdigest(), *parts)

    def make(self, content: ModelBytes, config: Config) -> Model:
        """Load the bytes; raises ModelFailedError, where this process has no memory for them."""
        return Model(
            self.name,
            self.version,
            self.path,
            content,
            self.findings,
            queue_limits(config),
            watch_inputs=config.metrics_port is not None,
            by_feature=config.drift_by_feature,
            terms=self.terms,
            takes_none=self.takes_none,
            max_run_bytes=config.trial_memory_bytes,
        )


class VersionNote(NamedTuple):
    """A version of an offer."""

    number: int
    file: ModelFile
    key: str | None
    """The recipe of the model that answers; None: none does."""
    reason: str
    pause_s: float | None
    tried_s: float

    def as_version(self, model: Model | None) -> Version:
        """Return what was written down; model: That of the recipe."""
        return Version(self.file, model, self.reason, self.pause_s, self.tried_s)


class OfferNote(NamedTuple):
    """The versions and labels of one model; see `catalog.Offer`."""

    name: str
    versions: tuple[VersionNote, ...]
    labels: Mapping[str, int]
    unloaded: bool


@dataclass(frozen=True, slots=True)
class Shelf:
    """What a keeper offers, kept in another process for the one that takes its place."""

    offers: dict[str, OfferNote] = field(default_factory=dict)
    """By the model's name."""
    models: dict[str, tuple[Recipe, int]] = field(default_factory=dict)
    """Recipe, and descriptor of the bytes, of each model by its key."""

    def add(self, recipe: Recipe, file: int) -> None:
        """Keep a model that is about to be offered; file: Descriptor, closed with it."""
        self._drop(recipe.key)
        self.models[recipe.key] = recipe, file

    def offer(self, offered: OfferNote) -> None:
        """Keep an offer, and drop the models of its name that are not in it."""
        if offered.versions:
            self.offers[offered.name] = offered
        else:
            self.offers.pop(offered.name, None)
        keys = {version.key for version in offered.versions}
        for key, (recipe, _) in list(self.models.items()):
            if recipe.name == offered.name and key not in keys:
                self._drop(key)

    def close(self) -> None:
        """Drop all models."""
        for key in list(self.models):
            self._drop(key)

    def _drop(self, key: str) -> None:
        if key in self.models:
            os.close(self.models.pop(key)[1])


class KeptModel(Model):
    """A model that other processes run: what is known of it, and its bytes for those to come.

    It has no session; its counters are the sums of theirs.
    """

    statistics: SummedStatistics

    def __init__(self, model: Model, recipe: Recipe, content: ModelBytes, processes: int) -> None:
        """Take over what is known of a model; content: Its bytes, closed with this."""
        vars(self).update(vars(model))
        del self.session
        self.statistics = SummedStatistics()
        self.drift = None if model.drift is None else SummedDrift(self.statistics)
        self.queue = SummedQueue(self.statistics, processes * model.max_waiting)
        self.recipe = recipe
        self.content = content


def note(name: str, offer: Offer) -> OfferNote:
    """Write down an offer of kept models."""
    return OfferNote(
        name,
        tuple(
            VersionNote(
                number,
                version.file,
                version.model.recipe.key if isinstance(version.model, KeptModel) else None,
                version.reason,
                version.pause_s,
                version.tried_s,
            )
            for number, version in offer.versions.items()
        ),
        dict(offer.labels),
        offer.unloaded,
    )


def copy_of(content: ModelBytes) -> ModelBytes:
    """Return the same bytes under a descriptor of their own."""
    return ModelBytes(os.dup(content.fd))
