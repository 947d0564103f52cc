"""`forwardpass serve`, whose options are the settings of a server."""

from collections.abc import Callable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from forwardpass.server import Config


def serve() -> Callable[..., None]:
    """Serve models over gRPC until SIGTERM or Ctrl-C."""
    from forwardpass.cli.options.settings import configures

    return configures(_serve)


def _serve(config: "Config") -> None:
    from forwardpass.cli.serving.serve import serve_models

    serve_models(config)
