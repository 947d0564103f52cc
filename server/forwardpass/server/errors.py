"""Everything that can go wrong with a call or a model, one exception a cause.

Nothing here knows gRPC: `STATUS` maps each cause to a status code by its public number, and
the transport is the only part that turns it into an answer.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from enum import IntEnum

from forwardpass.proto.spec import TensorError


class Status(IntEnum):
    """The gRPC status codes that we answer with, by their public numbers."""

    CANCELLED = 1
    INVALID_ARGUMENT = 3
    DEADLINE_EXCEEDED = 4
    NOT_FOUND = 5
    RESOURCE_EXHAUSTED = 8
    FAILED_PRECONDITION = 9
    UNIMPLEMENTED = 12
    INTERNAL = 13
    UNAVAILABLE = 14


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
    """No model of that name."""

    def __init__(self, name: str, available: Iterable[str]) -> None:
        names = ", ".join(sorted(available)) or "none"
        super().__init__(f"model {name!r} not found; available: {names}")


class VersionNotFoundError(ServingError):
    """The model is there, that version is not."""

    def __init__(self, name: str, version: str, available: Iterable[int]) -> None:
        versions = ", ".join(map(str, sorted(available))) or "none"
        super().__init__(f"model {name!r} has no version {version!r}; available: {versions}")


class ModelFailedError(ServingError):
    """The model's file is there but did not load or did not pass its own samples."""

    def __init__(self, name: str, version: int, reason: str) -> None:
        super().__init__(f"model {name!r} version {version} failed: {reason}")
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


class MessageTooLargeError(ServingError):
    """A message beyond the limit that the operator set."""

    def __init__(self, size: int, limit: int) -> None:
        super().__init__(
            f"message of {size} bytes is above the server's limit of {limit}; "
            "send fewer rows a call, or have the operator raise --max-message-bytes"
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
    MessageTooLargeError: Status.RESOURCE_EXHAUSTED,
    QueueFullError: Status.RESOURCE_EXHAUSTED,
    DeadlineExpiredError: Status.DEADLINE_EXCEEDED,
    CallCancelledError: Status.CANCELLED,
    UnsupportedError: Status.UNIMPLEMENTED,
    RunError: Status.INTERNAL,
    InternalError: Status.INTERNAL,
}
"""The one table from cause to status code (protocol.md, sections 4 and 5)."""
