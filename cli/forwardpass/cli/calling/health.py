"""`forwardpass health`.

An orchestrator runs it every few seconds, in the server's own container: neither NumPy nor the
client is imported, to keep it cheap.
"""

from pathlib import Path

import grpc
from grpc_health.v1.health_pb2 import HealthCheckRequest, HealthCheckResponse

from forwardpass.cli.errors import CommandError, UsageError
from forwardpass.cli.options.connection import Security
from forwardpass.proto.target import check_target

_CHECK = "/grpc.health.v1.Health/Check"


def check_health(
    target: str,
    model: str,
    *,
    timeout_s: float,
    security: Security,
) -> None:
    """Return if the server is serving, or the model if one is named.

    Raises CommandError with the state, or with the reason why there is no answer, UsageError for
    a target that is none or for one of a pair of files, OSError for one that cannot be read.
    """
    try:
        check_target(target)
    except ValueError as error:
        raise UsageError(str(error)) from error
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
    fix = "is the server up, and do both use TLS or neither?"
    if "Expected SETTINGS frame as the first frame" in (error.details() or ""):
        fix = "that port does not speak gRPC: REST and metrics have ports of their own"
    return f"expected SERVING, got {error.code().name} ({error.details()}); {fix}"


def _read(file: Path | None) -> bytes | None:
    return None if file is None else file.read_bytes()
