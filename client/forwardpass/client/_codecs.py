"""The metadata that a client has fetched: a codec for each model and version that is asked for."""

from collections.abc import Callable
from typing import Protocol, TypeVar

import grpc

from forwardpass.client._codec import ModelCodec
from forwardpass.client._steps import Acquire, Steps, remaining
from forwardpass.client.errors import ClientError, DeadlineExceededError, ModelNotFoundError
from forwardpass.client.model import ModelSpec

REPLICAS = 8
"""How often a version that has just answered is asked for: of the servers behind one target only
some may have it, while it is rolled out, and calls take turns between them."""

_KEPT = 4096
"""Versions, of all models: more than a client calls before some are long gone."""

R = TypeVar("R")


class Lock(Protocol):
    """A lock that was acquired, of threads or of tasks."""

    def release(self) -> None:
        """Let the next one have it."""


class Codecs:
    """What one client knows of the models that it calls; fetched when it is first needed."""

    def __init__(
        self, target: str, lock: Lock, ask: Callable[[str, str, float | None], Steps[ModelSpec]]
    ) -> None:
        """Take what asks the server: for a model, a version and a deadline.

        lock: the one that the step Acquire takes.
        """
        self.kept: dict[tuple[str, str], ModelCodec] = {}
        """By model and version as asked for; read without a lock, which costs calls nothing."""
        self._target = target
        self._ask = ask
        self._fetching = lock
        """Held while metadata are fetched, so that callers that meet a model fetch them once."""

    def fetch(
        self, model: str, version: str, deadline: float | None, stale: ModelCodec | None = None
    ) -> Steps[ModelCodec]:
        """Return the model's codec, made from metadata newer than those of the stale one."""
        if not (yield Acquire(remaining(deadline))):
            raise DeadlineExceededError(
                "no metadata yet; pass a longer timeout_s",
                code=grpc.StatusCode.DEADLINE_EXCEEDED,
                target=self._target,
                model=model,
            )
        try:
            codec = self.kept.get((model, version))
            if codec is None or codec is stale:
                spec = yield from self._ask(model, version, deadline)
                codec = ModelCodec(spec, model, version, self._target, _told_of(spec, version))
                self._keep(codec)
            return codec
        finally:
            self._fetching.release()

    def refetch(self, known: ModelCodec, deadline: float | None) -> Steps[ModelCodec | None]:
        """Return a codec with new metadata; None if they are what was known."""
        try:
            fresh = yield from self.fetch(known.model, known.version, deadline, stale=known)
        except ClientError:
            # What went wrong before tells the caller more.
            return None
        if fresh.spec == known.spec:
            return None
        # A version may have been published again with other content: each of them is in doubt.
        for model, version in list(self.kept):
            if model == known.model and version != known.version:
                self.kept.pop((model, version), None)
        return fresh

    def answering(
        self, codec: ModelCodec, version: str, deadline: float | None
    ) -> Steps[ModelCodec]:
        """Return a codec that asks for the version that answered another one, and reads it.

        From now on callers that ask as with that other one ask by these metadata.
        """
        try:
            exactly = yield from of_replicas(lambda: self.fetch(codec.model, version, deadline))
        except ClientError as error:
            if codec.names_columns:
                error.add_note(
                    f"version {version!r} answered, and what its columns are is in its metadata"
                )
                raise
            # Nothing that could mean something else by now, and servers of other kinds need not
            # tell of a version by the name with which they answer.
            same = codec.asked_as(codec.version, version)
            self._keep(same)
            return same
        self._keep(exactly.asked_as(codec.version, version))
        return exactly.asked_as(version, version)

    def _keep(self, codec: ModelCodec) -> None:
        if len(self.kept) >= _KEPT:
            self.kept.clear()
        self.kept[codec.model, codec.version] = codec


def of_replicas(ask: Callable[[], Steps[R]]) -> Steps[R]:
    """Ask for a version that has just answered, again where it is not found."""
    for _ in range(REPLICAS - 1):
        try:
            return (yield from ask())
        except ModelNotFoundError:
            pass
    return (yield from ask())


def _told_of(spec: ModelSpec, asked: str) -> str:
    """Return the version whose metadata they are; empty if they do not say."""
    if len(spec.versions) == 1:
        return spec.versions[0]
    # Any other word, a label, may be that of another version tomorrow.
    return asked if asked in spec.versions else ""
