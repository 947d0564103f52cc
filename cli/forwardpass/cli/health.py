"""`forwardpass health`.

An orchestrator runs it every few seconds, in the server's own container: neither NumPy nor the
client is imported.
"""

from pathlib import Path

import grpc
from grpc_health.v1.health_pb2 import HealthCheckRequest, HealthCheckResponse

from forwardpass.cli.connection import Security
from forwardpass.cli.errors import CommandError, UsageError

_CHECK = "/grpc.health.v1.Health/Check"


def check_health(
    target: str,
    model: str,
    *,
    timeout_s: float,
    security: Security,
) -> None:
    """Return if the server serves, or the model if one is named.

    Raises CommandError that tells the state or why there is no answer, UsageError for half a
    pair of files, OSError for one that cannot be read.
    """
    if (security.cert_file is None) != (security.key_file is None):
        raise UsageError("--cert-file and --key-file: expected both or neither, got one")
    if security.wanted:
        files = (security.ca_file, security.key_file, security.cert_file)
        channel = grpc.secure_channel(target, grpc.ssl_channel_credentials(*map(_read, files)))
    else:
        channel = grpc.insecure_channel(target)
    asked = f"model {model!r} at {target}" if model else target
    with channel:
        check = channel.unary_unary(
            _CHECK, HealthCheckRequest.SerializeToString, HealthCheckResponse.FromString
        )
        try:
            answer = check(HealthCheckRequest(service=model), timeout=timeout_s)
        except grpc.RpcError as error:
            raise CommandError(f"{asked}: {_reason(error)}") from error
    if answer.status != HealthCheckResponse.SERVING:
        state = HealthCheckResponse.ServingStatus.Name(answer.status)
        raise CommandError(f"{asked}: expected SERVING, got {state}")


def _reason(error: grpc.RpcError) -> str:
    if error.code() is grpc.StatusCode.NOT_FOUND:
        return "there is no such model; without --model the whole server is asked for"
    return (
        f"expected SERVING, got {error.code().name} ({error.details()}); "
        "is the server up, and do both use TLS or neither?"
    )


def _read(file: Path | None) -> bytes | None:
    return None if file is None else file.read_bytes()
