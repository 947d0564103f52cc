"""The one table from causes to status codes."""

from collections.abc import Iterator

import grpc
import pytest

from forwardpass.proto.spec import TensorError
from forwardpass.server import errors
from forwardpass.server.errors import STATUS, ServingError, Status


def subclasses(cause: type[ServingError]) -> Iterator[type[ServingError]]:
    for subclass in cause.__subclasses__():
        yield subclass
        yield from subclasses(subclass)


def test_the_table_covers_every_cause_and_nothing_else() -> None:
    assert set(STATUS) == set(subclasses(ServingError))


@pytest.mark.parametrize("status", Status)
def test_codes_have_grpcs_numbers(status: Status) -> None:
    assert grpc.StatusCode[status.name].value[0] == status


@pytest.mark.parametrize(
    ("cause", "code"),
    [
        (errors.InvalidRequestError, "INVALID_ARGUMENT"),
        (errors.InvalidTensorError, "INVALID_ARGUMENT"),
        (errors.ModelNotFoundError, "NOT_FOUND"),
        (errors.VersionNotFoundError, "NOT_FOUND"),
        (errors.ModelFailedError, "FAILED_PRECONDITION"),
        (errors.ModelLoadingError, "UNAVAILABLE"),
        (errors.UnsupportedError, "UNIMPLEMENTED"),
        (errors.NotAllowedError, "PERMISSION_DENIED"),
        (errors.UnauthenticatedError, "UNAUTHENTICATED"),
        (errors.PermissionDeniedError, "PERMISSION_DENIED"),
        (errors.TooManyStreamsError, "RESOURCE_EXHAUSTED"),
        (errors.ShuttingDownError, "UNAVAILABLE"),
        (errors.RegionNotFoundError, "NOT_FOUND"),
        (errors.RegionExistsError, "ALREADY_EXISTS"),
        (errors.TooManyRegionsError, "RESOURCE_EXHAUSTED"),
        (errors.QueueFullError, "RESOURCE_EXHAUSTED"),
        (errors.DeadlineExpiredError, "DEADLINE_EXCEEDED"),
        (errors.CallCancelledError, "CANCELLED"),
        (errors.MessageTooLargeError, "RESOURCE_EXHAUSTED"),
        (errors.NamesTooLargeError, "RESOURCE_EXHAUSTED"),
        (errors.ReplyTooLargeError, "INVALID_ARGUMENT"),
        (errors.InputsNotTakenError, "INVALID_ARGUMENT"),
        (errors.RunError, "INTERNAL"),
        (errors.InternalError, "INTERNAL"),
    ],
)
def test_each_cause_has_the_protocols_code(cause: type[ServingError], code: str) -> None:
    assert STATUS[cause].name == code


def test_a_model_not_found_lists_what_one_may_see() -> None:
    error = errors.ModelNotFoundError("m", ["secret", "public"], unloaded=True)

    assert "secret" in str(error)
    assert str(error.as_seen(lambda name: name == "public")).endswith(
        "was unloaded; available: public"
    )


TENSOR = TensorError("input 'x'", expected="shape [2]", got="[3]", fix="send [2]")


@pytest.mark.parametrize(
    ("error", "says"),
    [
        (errors.ModelNotFoundError("m", ["b", "a"]), ["'m'", "available: a, b"]),
        (errors.ModelNotFoundError("m", []), ["available: none"]),
        (errors.VersionNotFoundError("m", "3", [10, 9]), ["'m'", "'3'", "available: 9, 10"]),
        (errors.ModelFailedError("m", 3, "why"), ["'m'", "3", "why"]),
        (errors.ModelLoadingError("m"), ["'m'", "loading"]),
        (errors.MessageTooLargeError(9, 8), ["9", "8", "--max-message-bytes"]),
        (errors.NamesTooLargeError(9, 8), ["9", "8", "names alone"]),
        (errors.QueueFullError("m", 9), ["'m'", "9", "--max-queue"]),
        (errors.BacklogFullError(9, 0.1), ["9", "not begun", "--max-backlog"]),
        (errors.PageFullError(9), ["9", "page", "not begun", "infer"]),
        (errors.MemoryFullError(9, 8, 0.1), ["9", "8", "memory", "back off"]),
        (errors.CallRateError("web", 9.5, 0.1), ["'web'", "9.5", "calls_per_s"]),
        (errors.CallShareError("web", 9, 0.1), ["'web'", "9", "max_in_flight"]),
        (errors.NotAllowedError("this", "--that"), ["this", "not allowed", "--that"]),
        (errors.UnauthenticatedError("there is none"), ["authorization: Bearer", "operator"]),
        (errors.PermissionDeniedError("web", "infer", "m"), ["'web'", "infer", "'m'", "operator"]),
        (errors.PermissionDeniedError("web", "read", None), ["'web'", "read", "as a whole"]),
        (errors.TooManyStreamsError(9), ["9", "--max-streams"]),
        (errors.ShuttingDownError(), ["shuts down", "again"]),
        (errors.RegionNotFoundError("r", ["b", "a"]), ["'r'", "registered: a, b"]),
        (errors.RegionExistsError("r"), ["'r'", "unregister"]),
        (errors.TooManyRegionsError(9), ["9", "unregister"]),
        (errors.DeadlineExpiredError("m"), ["'m'", "deadline", "nothing was computed"]),
        (errors.CallCancelledError("m"), ["'m'", "cancelled", "nothing was computed"]),
        (errors.ReplyTooLargeError("m", 9, 8), ["'m'", "9", "8"]),
        (errors.InputsNotTakenError("m", "running 'n': why"), ["'m'", "'n'", "why", "send values"]),
        (errors.RunError("m", "while running node 'n'"), ["'m'", "'n'"]),
        (errors.InvalidTensorError("m", TENSOR), ["'m'", "input 'x'", "[2]", "[3]", "send [2]"]),
        (errors.InvalidRequestError("id", "why"), ["id", "why"]),
    ],
)
def test_messages_name_the_thing_and_the_way_out(error: ServingError, says: list[str]) -> None:
    for fragment in says:
        assert fragment in str(error)


def test_a_tensors_fault_travels_as_a_violation() -> None:
    (violation,) = errors.InvalidTensorError("m", TENSOR).violations

    assert violation.field == "input 'x'"
    assert violation.description == "expected shape [2], got [3]; send [2]"
