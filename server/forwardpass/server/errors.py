"""Everything that can go wrong with a call or a model, one exception a cause.

Nothing here knows gRPC: `STATUS` maps each cause to a status code by its public number, and
the transport is the only part that turns it into an answer.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from enum import IntEnum

from forwardpass.proto.spec import TensorError, quote


class Status(IntEnum):
    """The gRPC status codes that we answer with, by their public numbers."""

    CANCELLED = 1
    INVALID_ARGUMENT = 3
    DEADLINE_EXCEEDED = 4
    NOT_FOUND = 5
    ALREADY_EXISTS = 6
    PERMISSION_DENIED = 7
    RESOURCE_EXHAUSTED = 8
    FAILED_PRECONDITION = 9
    UNIMPLEMENTED = 12
    INTERNAL = 13
    UNAVAILABLE = 14
    UNAUTHENTICATED = 16


@dataclass(frozen=True, slots=True)
class Violation:
    """One fault of a request, as it travels in `google.rpc.BadRequest`."""

    field: str
    """Where, as in `input 'x'`."""
    description: str


class ServingError(Exception):
    """Base of every error that a caller may see; its text is written for them."""

    violations: tuple[Violation, ...] = ()


class InvalidRequestError(ServingError):
    """A message that is not what the protocol says, whatever the model."""

    def __init__(self, field: str, description: str) -> None:
        super().__init__(f"{field}: {description}")
        self.violations = (Violation(field, description),)


class InvalidTensorError(ServingError):
    """A tensor of a request that does not fit the model."""

    def __init__(self, model: str, cause: TensorError) -> None:
        super().__init__(f"model {model!r}, {cause}")
        description = f"expected {cause.expected}, got {cause.got}; {cause.fix}"
        self.violations = (Violation(cause.tensor, description),)


class ModelNotFoundError(ServingError):
    """No model of that name, or one that was taken out of service by hand."""

    def __init__(self, name: str, available: Iterable[str], *, unloaded: bool = False) -> None:
        what = "was unloaded" if unloaded else "not found"
        self._available = list(available)
        names = ", ".join(sorted(self._available)) or "none"
        super().__init__(f"model {quote(name)} {what}; available: {names}")
        self._name = name
        self._unloaded = unloaded

    def as_seen(self, visible: Callable[[str], bool]) -> "ModelNotFoundError":
        """Return the error as it is for someone to whom only some models are visible."""
        available = filter(visible, self._available)
        return ModelNotFoundError(self._name, available, unloaded=self._unloaded)


class VersionNotFoundError(ServingError):
    """The model is there, that version is not."""

    def __init__(self, name: str, version: str, available: Iterable[int]) -> None:
        versions = ", ".join(map(str, sorted(available))) or "none"
        super().__init__(f"model {name!r} has no version {quote(version)}; available: {versions}")


class ModelFailedError(ServingError):
    """The model's file is there but did not load or did not pass its own samples."""

    def __init__(self, name: str, version: int | None, reason: str) -> None:
        """Name the version, or None where the reason holds for the model as a whole."""
        which = "" if version is None else f" version {version}"
        super().__init__(f"model {name!r}{which} failed: {reason}")
        self.model = name
        self.version = version
        self.reason = reason


class ModelLoadingError(ServingError):
    """The model is known and not loaded yet: a retry will find it."""

    def __init__(self, name: str) -> None:
        super().__init__(f"model {name!r} is still loading; try again")


class QueueFullError(ServingError):
    """More calls of one model wait than the operator allows."""

    def __init__(self, model: str, limit: int) -> None:
        super().__init__(
            f"model {model!r}: {limit} calls wait already; back off and try again, "
            "or have the operator raise --max-queue"
        )


class DeadlineExpiredError(ServingError):
    """The caller's deadline passed while its rows waited: they were not computed."""

    def __init__(self, model: str) -> None:
        super().__init__(f"model {model!r}: the deadline passed in the queue; nothing was computed")


class CallCancelledError(ServingError):
    """The caller went away while its rows waited: they were not computed."""

    def __init__(self, model: str) -> None:
        super().__init__(f"model {model!r}: the call was cancelled; nothing was computed")


class UnsupportedError(ServingError):
    """Something of the protocol that this server does not do."""


class NotAllowedError(ServingError):
    """Something that this server does only if its operator allows it."""

    def __init__(self, what: str, flag: str) -> None:
        super().__init__(
            f"{what}: not allowed on this server; its operator may start it with {flag}"
        )


class UnauthenticatedError(ServingError):
    """Nobody knows who calls, on a server that wants to know."""

    def __init__(self, why: str) -> None:
        """Say what is wrong with the call's `authorization`, without a word of it."""
        super().__init__(
            f"expected metadata 'authorization: Bearer TOKEN' with a token of this server, but "
            f"{why}; ask its operator for one"
        )


class PermissionDeniedError(ServingError):
    """Something that this caller may not do; whether the model exists is not told."""

    def __init__(self, caller: str, action: str, model: str | None) -> None:
        """Name who may not do what; model is None where it is about the server as a whole."""
        what = "the server as a whole (models '*')" if model is None else f"model {quote(model)}"
        super().__init__(
            f"{caller!r} has no permission to {action} for {what}; the server's operator may "
            "give it in the file of tokens"
        )


class TooManyStreamsError(ServingError):
    """More streams are open than the operator allows."""

    def __init__(self, limit: int) -> None:
        super().__init__(
            f"{limit} streams are open already; close one, send ModelInfer instead, or have the "
            "operator raise --max-streams"
        )


class ShuttingDownError(ServingError):
    """The server ends: what it took is answered, the rest is for another server."""

    def __init__(self) -> None:
        super().__init__("the server shuts down; send again what is unanswered, to another one")


class RegionNotFoundError(ServingError):
    """No shared memory is registered under that name."""

    def __init__(self, name: str, registered: Iterable[str]) -> None:
        names = ", ".join(sorted(registered)) or "none"
        super().__init__(f"shared memory region {quote(name)} not found; registered: {names}")


class RegionExistsError(ServingError):
    """Shared memory is registered under that name already."""

    def __init__(self, name: str) -> None:
        super().__init__(
            f"shared memory region {quote(name)} is registered already; unregister it first, "
            "or take another name"
        )


class TooManyRegionsError(ServingError):
    """More regions of shared memory are registered than the server keeps."""

    def __init__(self, limit: int) -> None:
        super().__init__(f"{limit} shared memory regions are registered already; unregister some")


class MessageTooLargeError(ServingError):
    """A message beyond the limit that the operator set."""

    def __init__(self, size: int, limit: int) -> None:
        super().__init__(
            f"message of {size} bytes is above the server's limit of {limit}; "
            "send fewer rows a call, or have the operator raise --max-message-bytes"
        )


class NamesTooLargeError(ServingError):
    """A message of names alone beyond what any names take."""

    def __init__(self, size: int, limit: int) -> None:
        super().__init__(
            f"message of {size} bytes is above {limit}, the limit for a request that has names "
            "alone; send the names and nothing else"
        )


class TooManyRowsError(ServingError):
    """More rows in a call than the operator allows."""

    def __init__(self, model: str, rows: int, limit: int) -> None:
        super().__init__(
            f"model {model!r}: {rows} rows are above the server's limit of {limit}; "
            "send fewer rows a call, or have the operator raise --max-rows"
        )


class ReplyTooLargeError(ServingError):
    """An answer that no gRPC message can carry."""

    def __init__(self, model: str, size: int, limit: int) -> None:
        super().__init__(
            f"model {model!r}: the reply would be {size} bytes, above {limit}; "
            "send fewer rows a call or ask for fewer outputs"
        )


class RunError(ServingError):
    """onnxruntime failed while it ran a model on inputs that fit the model's signature."""

    def __init__(self, model: str, what: str) -> None:
        super().__init__(f"model {model!r}: onnxruntime failed {what}")


class InternalError(ServingError):
    """A fault of ours; the traceback is in the log, the caller sees this fixed text."""

    def __init__(self) -> None:
        super().__init__("internal error; the server's log has the details")


STATUS: dict[type[ServingError], Status] = {
    InvalidRequestError: Status.INVALID_ARGUMENT,
    InvalidTensorError: Status.INVALID_ARGUMENT,
    ReplyTooLargeError: Status.INVALID_ARGUMENT,
    ModelNotFoundError: Status.NOT_FOUND,
    VersionNotFoundError: Status.NOT_FOUND,
    ModelFailedError: Status.FAILED_PRECONDITION,
    ModelLoadingError: Status.UNAVAILABLE,
    TooManyRowsError: Status.RESOURCE_EXHAUSTED,
    MessageTooLargeError: Status.RESOURCE_EXHAUSTED,
    NamesTooLargeError: Status.RESOURCE_EXHAUSTED,
    QueueFullError: Status.RESOURCE_EXHAUSTED,
    DeadlineExpiredError: Status.DEADLINE_EXCEEDED,
    CallCancelledError: Status.CANCELLED,
    UnsupportedError: Status.UNIMPLEMENTED,
    NotAllowedError: Status.PERMISSION_DENIED,
    UnauthenticatedError: Status.UNAUTHENTICATED,
    PermissionDeniedError: Status.PERMISSION_DENIED,
    TooManyStreamsError: Status.RESOURCE_EXHAUSTED,
    ShuttingDownError: Status.UNAVAILABLE,
    RegionNotFoundError: Status.NOT_FOUND,
    RegionExistsError: Status.ALREADY_EXISTS,
    TooManyRegionsError: Status.RESOURCE_EXHAUSTED,
    RunError: Status.INTERNAL,
    InternalError: Status.INTERNAL,
}
"""The one table from cause to status code (protocol.md, sections 4 and 5)."""
