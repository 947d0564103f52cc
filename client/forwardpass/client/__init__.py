"""Call the models of an Open Inference Protocol server with NumPy arrays."""

from forwardpass.client._async_client import AsyncClient
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
from forwardpass.client.local import LocalClient, load
from forwardpass.client.model import ModelSpec, ServerSpec
from forwardpass.client.prediction import Prediction
from forwardpass.client.retry import Retry
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
