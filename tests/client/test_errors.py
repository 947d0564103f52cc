import pickle

import grpc
import pytest

import forwardpass.client
from forwardpass.client import errors
from forwardpass.client.errors import ERRORS, ClientError, from_rpc_error


class Failed(grpc.RpcError):
    """An RpcError as a call raises it."""

    def __init__(self, code: grpc.StatusCode, details: str | None) -> None:
        self._code, self._details = code, details

    def code(self) -> grpc.StatusCode:
        return self._code

    def details(self) -> str | None:
        return self._details


def causes() -> list[type[ClientError]]:
    return [
        value
        for value in vars(errors).values()
        if isinstance(value, type) and issubclass(value, ClientError)
    ]


def test_every_status_code_has_a_cause() -> None:
    assert set(ERRORS) == set(grpc.StatusCode)


def test_every_cause_is_public() -> None:
    assert {cause.__name__ for cause in causes()} <= set(forwardpass.client.__all__)


@pytest.mark.parametrize("code", grpc.StatusCode)
def test_an_rpc_error_keeps_its_code_and_text(code) -> None:
    error = from_rpc_error(Failed(code, "because"), target="host:1", model="m")
    assert type(error) is ERRORS[code]
    assert error.code is code
    assert error.details == "because"
    assert str(error) == "host:1: model 'm': because"


def test_a_model_that_the_server_names_is_not_named_twice() -> None:
    text = "model 'm', input 'x': wrong"
    error = from_rpc_error(
        Failed(grpc.StatusCode.INVALID_ARGUMENT, text), target="host:1", model="m"
    )
    assert str(error) == f"host:1: {text}"


def test_an_rpc_error_without_a_text_names_its_code() -> None:
    error = from_rpc_error(Failed(grpc.StatusCode.ABORTED, None), target="host:1")
    assert str(error) == "host:1: ABORTED without a text"


def test_a_text_of_grpc_itself_gets_a_fix() -> None:
    error = from_rpc_error(
        Failed(grpc.StatusCode.DEADLINE_EXCEEDED, "Deadline Exceeded"), target="host:1"
    )
    assert str(error).endswith("pass a longer timeout_s, or send fewer rows a call")


@pytest.mark.parametrize(
    ("cause", "builtin"),
    [
        (errors.InvalidInputError, ValueError),
        (errors.DeadlineExceededError, TimeoutError),
        (errors.ServerUnavailableError, ConnectionError),
    ],
)
def test_a_cause_with_a_builtin_equivalent_is_that_too(cause, builtin) -> None:
    assert issubclass(cause, builtin)


@pytest.mark.parametrize("cause", causes(), ids=lambda cause: cause.__name__)
def test_an_error_survives_pickling(cause) -> None:
    error = cause("because", code=grpc.StatusCode.INTERNAL, target="host:1", model="m")
    copy = pickle.loads(pickle.dumps(error))
    assert type(copy) is cause
    assert (str(copy), copy.code, copy.details) == (str(error), error.code, error.details)
