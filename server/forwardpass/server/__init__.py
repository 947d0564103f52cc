"""The server: ONNX models of a repository behind the Open Inference Protocol.

Its names are imported when they are asked for: settings need neither onnxruntime nor grpc.
"""

from typing import TYPE_CHECKING

from forwardpass.proto.late import late_names

if TYPE_CHECKING:
    from forwardpass.server.access.host_names import HostNames
    from forwardpass.server.access.tokens import TokensError
    from forwardpass.server.app import Server, TracingUnavailableError, serve_until_signalled
    from forwardpass.server.config import Config, Transport
    from forwardpass.server.guard.limits import Limits
    from forwardpass.server.observe.metrics_server import MetricsListenError
    from forwardpass.server.repository.disk import RepositoryError
    from forwardpass.server.repository.version_policy import VersionPolicy
    from forwardpass.server.transport.listening import ListenError

__all__ = [
    "Config",
    "HostNames",
    "Limits",
    "ListenError",
    "MetricsListenError",
    "RepositoryError",
    "Server",
    "TokensError",
    "TracingUnavailableError",
    "Transport",
    "VersionPolicy",
    "serve_until_signalled",
]

_WHEN_ASKED_FOR = {
    "Config": "forwardpass.server.config",
    "HostNames": "forwardpass.server.access.host_names",
    "Limits": "forwardpass.server.guard.limits",
    "ListenError": "forwardpass.server.transport.listening",
    "MetricsListenError": "forwardpass.server.observe.metrics_server",
    "RepositoryError": "forwardpass.server.repository.disk",
    "Server": "forwardpass.server.app",
    "TokensError": "forwardpass.server.access.tokens",
    "TracingUnavailableError": "forwardpass.server.app",
    "Transport": "forwardpass.server.config",
    "VersionPolicy": "forwardpass.server.repository.version_policy",
    "serve_until_signalled": "forwardpass.server.app",
}
"""Where each name is."""

__getattr__, __dir__ = late_names(globals(), _WHEN_ASKED_FOR)
