"""What `grpc.health.v1` says, over either transport."""

from grpc_health.v1.health_pb2 import HealthCheckResponse

SERVICE = "grpc.health.v1.Health"
NAME_BYTES = 2**12
"""Most of a request: it has one name, which is kept as long as it is watched, and anybody may ask.
A model's name is that of a file or a folder."""


def response(serving: bool | None) -> HealthCheckResponse:
    """Write a state; None: of something that is not known."""
    states = HealthCheckResponse
    if serving is None:
        return states(status=states.SERVICE_UNKNOWN)
    return states(status=states.SERVING if serving else states.NOT_SERVING)


def unknown(name: str) -> str:
    """Return what whoever checks a name is told of which nothing is known."""
    return f"nothing is known of {name[:100]!r}; '' is the server"
