"""Call the models of an Open Inference Protocol server with NumPy arrays.

What only some programs use is imported when it is asked for: each module costs a start some.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from forwardpass.client._client import Client
from forwardpass.client._inputs import Inputs
from forwardpass.client.errors import (
    CallCancelledError,
    ClientClosedError,
    ClientError,
    DeadlineExceededError,
    InvalidInputError,
    ModelNotFoundError,
    ModelUnavailableError,
    OverloadedError,
    PermissionDeniedError,
    ProtocolError,
    ServerError,
    ServerUnavailableError,
    TooLargeError,
    UnauthenticatedError,
    UnimplementedError,
)
from forwardpass.client.model import ModelSpec, ServerSpec
from forwardpass.client.prediction import Prediction
from forwardpass.client.retry import Retry

if TYPE_CHECKING:
    from forwardpass.client._async_client import AsyncClient
    from forwardpass.client.local import LocalClient, load
    from forwardpass.client.served import ModelState, ModelStatistics
    from forwardpass.client.timing import Timing

__all__ = [
    "AsyncClient",
    "CallCancelledError",
    "Client",
    "ClientClosedError",
    "ClientError",
    "DeadlineExceededError",
    "Inputs",
    "InvalidInputError",
    "LocalClient",
    "ModelNotFoundError",
    "ModelSpec",
    "ModelState",
    "ModelStatistics",
    "ModelUnavailableError",
    "OverloadedError",
    "PermissionDeniedError",
    "Prediction",
    "ProtocolError",
    "Retry",
    "ServerError",
    "ServerSpec",
    "ServerUnavailableError",
    "Timing",
    "TooLargeError",
    "UnauthenticatedError",
    "UnimplementedError",
    "load",
]

_WHEN_ASKED_FOR = {
    "AsyncClient": "forwardpass.client._async_client",
    "LocalClient": "forwardpass.client.local",
    "ModelState": "forwardpass.client.served",
    "ModelStatistics": "forwardpass.client.served",
    "Timing": "forwardpass.client.timing",
    "load": "forwardpass.client.local",
}
"""Where the names are that a program with a `Client` may never use."""


def __getattr__(name: str) -> Any:
    if name not in _WHEN_ASKED_FOR:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = globals()[name] = getattr(import_module(_WHEN_ASKED_FOR[name]), name)
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
