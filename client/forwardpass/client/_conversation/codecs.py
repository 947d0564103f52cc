"""The metadata that a client has fetched: a codec for each model and version requested."""

from collections.abc import Callable
from typing import Protocol, TypeVar

import grpc

from forwardpass.client._conversation.steps import Acquire, Steps, remaining
from forwardpass.client._messages.codec import ModelCodec
from forwardpass.client.errors import (
    ClientError,
    DeadlineExceededError,
    ModelChangedError,
    ModelNotFoundError,
)
from forwardpass.client.model import ModelSpec

REPLICAS = 8
"""Maximum number of calls for the metadata of a version that has just answered: while it is rolled
out, only some of the servers behind one target have it, and calls take turns between them."""

_KEPT = 4096
"""Maximum number of versions of all models: more than a client calls before old ones are gone."""

R = TypeVar("R")


class Lock(Protocol):
    """A lock that was acquired, of threads or of tasks."""

    def release(self) -> None:
        """Release the lock for the next thread or task."""


class Codecs:
    """The metadata of the models that one client calls; fetched when they are first needed."""

    def __init__(
        self, target: str, lock: Lock, ask: Callable[[str, str, float | None], Steps[ModelSpec]]
    ) -> None:
        """Prepare; ask fetches the metadata of a model and version, before a deadline.

        lock: the one that the step Acquire takes.
        """
        self.kept: dict[tuple[str, str], ModelCodec] = {}
        """Codecs by model and version as requested; read without a lock, so that no call waits."""
        self._target = target
        self._ask = ask
        self._fetching = lock
        """Held while metadata are fetched, so that callers of a new model fetch them once."""

    def fetch(
        self, model: str, version: str, deadline: float | None, stale: ModelCodec | None = None
    ) -> Steps[ModelCodec]:
        """Return the model's codec, made from metadata newer than those of the stale one.

        It is that one if they say the same.
        """
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
                if stale is not None and codec is stale and spec == stale.spec:
                    return stale
                codec = ModelCodec(spec, model, version, self._target, _version_of(spec, version))
                self._keep(codec)
            return codec
        finally:
            self._fetching.release()

    def refetch(self, known: ModelCodec, deadline: float | None) -> Steps[ModelCodec | None]:
        """Return a codec with new metadata; None if they have not changed."""
        try:
            fresh = yield from self.fetch(known.model, known.version, deadline, stale=known)
        except ClientError:
            # The error before it says more to the caller.
            return None
        if fresh.spec == known.spec:
            return None
        # A version may have been published again with other content: that may hold for each.
        for model, version in list(self.kept):
            if model == known.model and version != known.version:
                self.kept.pop((model, version), None)
        return fresh

    def answering(
        self, codec: ModelCodec, version: str, deadline: float | None
    ) -> Steps[ModelCodec]:
        """Return a codec for the version that answered a request of another codec.

        From now on, callers that request what that one requested use the metadata of this version.
        """
        try:
            exactly = yield from of_replicas(lambda: self.fetch(codec.model, version, deadline))
        except ClientError as error:
            if codec.names_columns:
                error.add_note(
                    f"version {version!r} answered, and only its metadata name its columns"
                )
                raise
            # No name of a column could have another meaning by now, and other kinds of servers
            # may not have metadata under the version with which they answer.
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
    """Ask for a version that has just answered, again where it is not found, or is another one."""
    for _ in range(REPLICAS - 1):
        try:
            return (yield from ask())
        except (ModelNotFoundError, ModelChangedError):
            pass
    return (yield from ask())


def _version_of(spec: ModelSpec, asked: str) -> str:
    """Return the version of the metadata; empty if they do not state it."""
    if len(spec.versions) == 1:
        return spec.versions[0]
    # Any other text is a label, which may be that of another version tomorrow.
    return asked if asked in spec.versions else ""
