"""Everything that can go wrong with a call or a model: one exception per cause.

Independent of gRPC: `STATUS` maps each cause to a status code by its public number, and only the
transport turns it into an answer.
"""

from collections.abc import Callable, Iterable
from enum import IntEnum
from typing import NamedTuple

from forwardpass.proto.pickling import PicklableError
from forwardpass.proto.spec import TensorError, quote


class Status(IntEnum):
    """The gRPC status codes that the server uses, by their public numbers."""

    OK = 0
    CANCELLED = 1
    INVALID_ARGUMENT = 3
    DEADLINE_EXCEEDED = 4
    NOT_FOUND = 5
    ALREADY_EXISTS = 6
    PERMISSION_DENIED = 7
    RESOURCE_EXHAUSTED = 8
    FAILED_PRECONDITION = 9
    ABORTED = 10
    UNIMPLEMENTED = 12
    INTERNAL = 13
    UNAVAILABLE = 14
    UNAUTHENTICATED = 16


class Violation(NamedTuple):
    """One fault of a request, for `google.rpc.BadRequest`."""

    field: str
    """Place of the fault, as in `input 'x'`."""
    description: str


class ServingError(PicklableError):
    """Base of all errors that a caller may see; the texts are written for callers."""

    violations: tuple[Violation, ...] = ()
    retry_s: float | None = None
    """When the same call may succeed, in seconds from now; None: not known, or never."""


class InvalidRequestError(ServingError):
    """A message breaks the protocol, regardless of the model."""

    def __init__(self, field: str, description: str) -> None:
        super().__init__(f"{field}: {description}")
        self.violations = (Violation(field, description),)


class InvalidTensorError(ServingError):
    """A tensor of a request does not fit the model."""

    def __init__(self, model: str, cause: TensorError) -> None:
        super().__init__(f"model {model!r}, {cause}")
        description = f"expected {cause.expected}, got {cause.got}; {cause.fix}"
        self.violations = (Violation(cause.tensor, description),)


class ModelNotFoundError(ServingError):
    """The model does not exist, or was unloaded by hand."""

    def __init__(
        self,
        name: str,
        available: Iterable[str],
        *,
        unloaded: bool = False,
        loading: bool = False,
    ) -> None:
        """Say it in Triton's words, which programs look for.

        loading: Whether it was to be loaded.
        """
        self._name = name
        self._available = list(available)
        self._unloaded = unloaded
        self._loading = loading
        if loading:
            what = f"failed to load {quote(name)}, which is not found in the repository"
        elif unloaded:
            what = f"model {quote(name)} was unloaded"
        else:
            what = f"Request for unknown model: {quote(name)} is not found"
        super().__init__(f"{what}; available: {', '.join(sorted(self._available)) or 'none'}")

    def as_seen(self, visible: Callable[[str], bool]) -> "ModelNotFoundError":
        """Return the error for a caller who may only see some models."""
        available = filter(visible, self._available)
        return ModelNotFoundError(
            self._name, available, unloaded=self._unloaded, loading=self._loading
        )


class VersionNotFoundError(ServingError):
    """The model exists, but not in this version."""

    def __init__(self, name: str, version: str, available: Iterable[int]) -> None:
        versions = ", ".join(map(str, sorted(available))) or "none"
        super().__init__(f"model {name!r} has no version {quote(version)}; available: {versions}")


class ModelFailedError(ServingError):
    """The model's file did not load or did not pass its own samples."""

    def __init__(
        self, name: str, version: int | None, reason: str, *, may_pass: bool = False
    ) -> None:
        """Prepare.

        version: None if the reason concerns the model as a whole. may_pass: Whether the same
        file may load another time, where it was the machine that had no time or no memory.
        """
        which = "" if version is None else f" version {version}"
        super().__init__(f"model {name!r}{which} failed: {reason}")
        self.model = name
        self.version = version
        self.reason = reason
        self.may_pass = may_pass


class ModelChangedError(ServingError):
    """The call is meant for a model that was published again since, under the same version."""

    def __init__(self, name: str, version: int, parameter: str, sent: str) -> None:
        # Without the value of now, which only those may read who may read the metadata.
        super().__init__(
            f"model {name!r} version {version} is another one by now: parameter {parameter!r}: "
            f"expected the value in its metadata, got {quote(sent)}; read them again, and send "
            "what fits them"
        )


class ModelLoadingError(ServingError):
    """The model is known but not loaded yet: a retry will find it."""

    def __init__(self, name: str) -> None:
        super().__init__(f"model {name!r} is still loading; try again")


class QueueFullError(ServingError):
    """More calls of one model wait than the operator allows."""

    def __init__(self, model: str, limit: int, retry_s: float | None = None) -> None:
        super().__init__(
            f"model {model!r}: {limit} calls wait already; back off and try again, "
            "or have the operator raise --max-queue"
        )
        self.retry_s = retry_s


class BacklogFullError(ServingError):
    """More calls have arrived and not begun than the operator allows."""

    def __init__(self, limit: int, retry_s: float) -> None:
        super().__init__(
            f"{limit} calls have arrived and not begun; back off and try again, or have the "
            "operator raise --max-backlog"
        )
        self.retry_s = retry_s


class MemoryFullError(ServingError):
    """Requests that are not answered, and answers that are not read, take all that they may."""

    def __init__(self, used: int, limit: int, retry_s: float) -> None:
        super().__init__(
            f"requests that are not answered yet and answers that are not read yet take {used} "
            f"bytes of the server's memory, of which they may have {limit}; back off and try "
            "again, or have the operator raise --max-request-memory"
        )
        self.retry_s = retry_s


class ArrivalsFullError(ServingError):
    """More requests are on their way than there may be memory for."""

    def __init__(self, limit: int, retry_s: float) -> None:
        super().__init__(
            f"{limit} large or slow requests are on their way, and there may be no memory for "
            "more; back off and try again"
        )
        self.retry_s = retry_s


class CallRateError(ServingError):
    """A caller makes more calls a second than its line in the file of tokens allows."""

    def __init__(self, caller: str, limit: float, retry_s: float) -> None:
        super().__init__(
            f"{caller!r} makes more than {limit:g} calls a second, its limit in the file of "
            "tokens (calls_per_s); call less often, or ask the server's operator for more"
        )
        self.retry_s = retry_s


class CallShareError(ServingError):
    """A caller has more calls in flight than its line in the file of tokens allows."""

    def __init__(self, caller: str, limit: int, retry_s: float) -> None:
        super().__init__(
            f"{caller!r} has {limit} calls in flight, its limit in the file of tokens "
            "(max_in_flight); wait for answers, or ask the server's operator for more"
        )
        self.retry_s = retry_s


class DeadlineExpiredError(ServingError):
    """The caller's deadline passed before its rows were computed."""

    def __init__(self, model: str, *, running: bool = False) -> None:
        """Prepare; running: whether their run had begun, and was ended."""
        where = "during the run, which was ended" if running else "in the queue"
        super().__init__(f"model {model!r}: the deadline passed {where}; nothing was computed")


class CallCancelledError(ServingError):
    """The caller disconnected or cancelled before its rows were computed."""

    def __init__(self, model: str, *, running: bool = False) -> None:
        """Prepare; running: whether their run had begun, and was ended."""
        how = ", and its run ended" if running else ""
        super().__init__(f"model {model!r}: the call was cancelled{how}; nothing was computed")


class TooManyLoadsError(ServingError):
    """More callers wait for loads and unloads than there is room for."""

    def __init__(self, limit: int) -> None:
        super().__init__(
            f"{limit} callers wait for models to load or unload already; try again once some are "
            "done"
        )


class UnsupportedError(ServingError):
    """A part of the protocol that this server does not support."""


class NotExplainedError(ServingError):
    """What explains a model could not be made now."""

    def __init__(self, name: str, why: str) -> None:
        super().__init__(f"model {name!r} cannot be explained now: {why}")


class NotAllowedError(ServingError):
    """Something that the operator has to allow."""

    def __init__(self, what: str, flag: str) -> None:
        super().__init__(
            f"{what}: not allowed on this server; its operator may start it with {flag}"
        )


class UnauthenticatedError(ServingError):
    """The caller is not authenticated, on a server that requires it."""

    def __init__(self, why: str) -> None:
        """Prepare; why: what is wrong with the call's `authorization`, without quoting it."""
        super().__init__(
            f"expected metadata 'authorization: Bearer TOKEN' with a token of this server, but "
            f"{why}; ask its operator for one"
        )


class PermissionDeniedError(ServingError):
    """The caller lacks a permission; the text does not reveal whether the model exists."""

    def __init__(self, caller: str, action: str, model: str | None) -> None:
        """Prepare; model: None if it concerns the server as a whole."""
        what = "the server as a whole (models '*')" if model is None else f"model {quote(model)}"
        super().__init__(
            f"{caller!r} has no permission to {action} for {what}; the server's operator may "
            "give it in the file of tokens"
        )
        self.action = action
        self.model = model


class TooManyStreamsError(ServingError):
    """More streams are open than the operator allows."""

    def __init__(self, limit: int) -> None:
        super().__init__(
            f"{limit} streams are open already; close one, send ModelInfer instead, or have the "
            "operator raise --max-streams"
        )


class ShuttingDownError(ServingError):
    """The server ends: accepted calls are answered, others must go to another server."""

    def __init__(self) -> None:
        super().__init__("the server shuts down; send unanswered calls again, to another server")


class KeeperAwayError(ServingError):
    """The process that keeps the models of all others has just ended, and starts again."""

    retry_s = 1.0

    def __init__(self) -> None:
        super().__init__(
            "the process that loads models and gathers statistics starts again; models answer "
            "meanwhile; call again in a second"
        )


class RegionNotFoundError(ServingError):
    """No shared memory is registered under this name."""

    def __init__(self, name: str, registered: Iterable[str]) -> None:
        names = ", ".join(sorted(registered)) or "none"
        super().__init__(f"shared memory region {quote(name)} not found; registered: {names}")


class RegionExistsError(ServingError):
    """Shared memory is registered under this name already."""

    def __init__(self, name: str) -> None:
        super().__init__(
            f"shared memory region {quote(name)} is registered already; unregister it first, "
            "or take another name"
        )


class TooManyRegionsError(ServingError):
    """The maximum number of shared memory regions is registered."""

    def __init__(self, limit: int) -> None:
        super().__init__(f"{limit} shared memory regions are registered already; unregister some")


class MessageTooLargeError(ServingError):
    """A message above the operator's limit."""

    def __init__(self, size: int, limit: int) -> None:
        super().__init__(
            f"message of {size} bytes is above the server's limit of {limit}; "
            "send fewer rows per call, or have the operator raise --max-message-bytes"
        )


class NamesTooLargeError(ServingError):
    """A message that should only have names is too large."""

    def __init__(self, size: int, limit: int, fix: str = "send the names and nothing else") -> None:
        super().__init__(
            f"message of {size} bytes is above {limit}, the limit for a request that has names "
            f"alone; {fix}"
        )


class JsonTooLargeError(ServingError):
    """JSON with more than would be read at once, besides numbers in long lists."""

    def __init__(self, size: int, limit: int) -> None:
        super().__init__(
            f"JSON of {size} bytes has more than {limit} that are in no long list of numbers; send "
            "tensors as bytes after the JSON (binary_data_size), or numbers in one flat list"
        )


class PageRowsTooLargeError(ServingError):
    """The rows of a run for a page are too large."""

    def __init__(self, size: int, limit: int) -> None:
        super().__init__(
            f"rows of {size} bytes are above {limit}, the limit for a page; "
            "send fewer rows, or send them to infer"
        )


class PageFullError(ServingError):
    """More calls of the page have arrived and not begun than are kept."""

    def __init__(self, limit: int) -> None:
        super().__init__(
            f"{limit} calls of the server's page have arrived and not begun; try again later, or "
            "send rows to infer"
        )
        self.retry_s = 1.0


class TooManyRowsError(ServingError):
    """A call has more rows than the operator allows."""

    def __init__(self, model: str, rows: int, limit: int) -> None:
        super().__init__(
            f"model {model!r}: {rows} rows are above the server's limit of {limit}; "
            "send fewer rows per call, or have the operator raise --max-rows"
        )


class ReplyTooLargeError(ServingError):
    """An answer is too large for a gRPC message."""

    def __init__(self, model: str, size: int, limit: int) -> None:
        super().__init__(
            f"model {model!r}: the reply would be {size} bytes, above {limit}; "
            "send fewer rows per call or ask for fewer outputs"
        )


class InputsNotTakenError(ServingError):
    """Inputs fit the model's signature, but the graph cannot compute with their values."""

    def __init__(self, model: str, what: str) -> None:
        """Prepare; what: the node that failed, and why, in onnxruntime's words."""
        description = (
            f"expected inputs that the graph can compute with; onnxruntime failed {what}; send "
            "values within what the model was made for"
        )
        super().__init__(f"model {model!r}: {description}")
        self.violations = (Violation("inputs", description),)


class RunTooLargeError(ServingError):
    """A run would take more memory than the operator allows one."""

    def __init__(self, model: str, what: str, limit: int) -> None:
        """Prepare; what: what would take it, in onnxruntime's words."""
        description = (
            f"expected inputs that take at most {limit} bytes of memory in a run, got some that "
            f"take more {what}; send fewer rows per call or shorter ones, or have the operator "
            "raise --trial-memory-bytes"
        )
        super().__init__(f"model {model!r}: {description}")
        self.violations = (Violation("inputs", description),)


class UnequalRowsError(ServingError):
    """Inputs of different numbers of rows, which cannot run in pieces, are too many for one run."""

    def __init__(self, model: str, rows: int, limit: int) -> None:
        description = (
            f"expected at most {limit} rows where inputs have different numbers of them, got "
            f"{rows}; send as many rows of each input, or fewer per call"
        )
        super().__init__(f"model {model!r}: {description}")
        self.violations = (Violation("inputs", description),)


class RunError(ServingError):
    """onnxruntime failed in a run, not because of the inputs; for example, out of memory."""

    def __init__(self, model: str, what: str) -> None:
        super().__init__(f"model {model!r}: onnxruntime failed {what}")


class InternalError(ServingError):
    """A fault of the server; the traceback is logged, the caller gets this fixed text."""

    def __init__(self) -> None:
        super().__init__("internal error; the server's log has the details")


STATUS: dict[type[ServingError], Status] = {
    InvalidRequestError: Status.INVALID_ARGUMENT,
    InvalidTensorError: Status.INVALID_ARGUMENT,
    ReplyTooLargeError: Status.INVALID_ARGUMENT,
    ModelNotFoundError: Status.NOT_FOUND,
    VersionNotFoundError: Status.NOT_FOUND,
    ModelFailedError: Status.FAILED_PRECONDITION,
    ModelChangedError: Status.ABORTED,
    ModelLoadingError: Status.UNAVAILABLE,
    TooManyRowsError: Status.RESOURCE_EXHAUSTED,
    MessageTooLargeError: Status.RESOURCE_EXHAUSTED,
    JsonTooLargeError: Status.RESOURCE_EXHAUSTED,
    PageFullError: Status.RESOURCE_EXHAUSTED,
    PageRowsTooLargeError: Status.RESOURCE_EXHAUSTED,
    NamesTooLargeError: Status.RESOURCE_EXHAUSTED,
    QueueFullError: Status.RESOURCE_EXHAUSTED,
    BacklogFullError: Status.RESOURCE_EXHAUSTED,
    MemoryFullError: Status.RESOURCE_EXHAUSTED,
    ArrivalsFullError: Status.RESOURCE_EXHAUSTED,
    CallRateError: Status.RESOURCE_EXHAUSTED,
    CallShareError: Status.RESOURCE_EXHAUSTED,
    DeadlineExpiredError: Status.DEADLINE_EXCEEDED,
    CallCancelledError: Status.CANCELLED,
    UnsupportedError: Status.UNIMPLEMENTED,
    NotExplainedError: Status.FAILED_PRECONDITION,
    NotAllowedError: Status.PERMISSION_DENIED,
    UnauthenticatedError: Status.UNAUTHENTICATED,
    PermissionDeniedError: Status.PERMISSION_DENIED,
    TooManyStreamsError: Status.RESOURCE_EXHAUSTED,
    TooManyLoadsError: Status.RESOURCE_EXHAUSTED,
    ShuttingDownError: Status.UNAVAILABLE,
    KeeperAwayError: Status.UNAVAILABLE,
    RegionNotFoundError: Status.NOT_FOUND,
    RegionExistsError: Status.ALREADY_EXISTS,
    TooManyRegionsError: Status.RESOURCE_EXHAUSTED,
    InputsNotTakenError: Status.INVALID_ARGUMENT,
    RunTooLargeError: Status.INVALID_ARGUMENT,
    UnequalRowsError: Status.INVALID_ARGUMENT,
    RunError: Status.INTERNAL,
    InternalError: Status.INTERNAL,
}
"""The one table from cause to status code (protocol.md, sections 4 and 5)."""
