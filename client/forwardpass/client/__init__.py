"""Call the models of an Open Inference Protocol server with NumPy arrays.

Names that only some programs use are imported when they are asked for: each slows down a start.
"""

from typing import TYPE_CHECKING

from forwardpass.client._grpc.client import Client
from forwardpass.client._messages.inputs import Inputs
from forwardpass.client.errors import (
    CallCancelledError,
    ClientClosedError,
    ClientError,
    DeadlineExceededError,
    InvalidInputError,
    ModelChangedError,
    ModelFileError,
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
from forwardpass.proto.late import late_names

if TYPE_CHECKING:
    from forwardpass.client._grpc.async_client import AsyncClient
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
    "ModelChangedError",
    "ModelFileError",
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
    "AsyncClient": "forwardpass.client._grpc.async_client",
    "LocalClient": "forwardpass.client.local",
    "ModelState": "forwardpass.client.served",
    "ModelStatistics": "forwardpass.client.served",
    "Timing": "forwardpass.client.timing",
    "load": "forwardpass.client.local",
}
"""The modules of names that a program with a `Client` may never use."""

__getattr__, __dir__ = late_names(globals(), _WHEN_ASKED_FOR)
