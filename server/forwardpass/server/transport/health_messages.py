"""The messages of `grpc.health.v1`, for both transports."""

from grpc_health.v1.health_pb2 import HealthCheckResponse

SERVICE = "grpc.health.v1.Health"
NAME_BYTES = 2**12
"""Maximum size of a request, in bytes: anyone may send one, and its name is kept while watched.
Model names are names of files or folders, hence short."""


def response(serving: bool | None) -> HealthCheckResponse:
    """Return the message for a state; None: the name is unknown."""
    states = HealthCheckResponse
    if serving is None:
        return states(status=states.SERVICE_UNKNOWN)
    return states(status=states.SERVING if serving else states.NOT_SERVING)


def unknown(name: str) -> str:
    """Return the error text for a name that is unknown."""
    return f"{name[:100]!r} is not known; '' is the server"
