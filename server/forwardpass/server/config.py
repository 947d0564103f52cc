"""The server's settings: one frozen object, built at the edge and passed down."""

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, kw_only=True)
class Config:
    """What an operator may set; valid once built.

    Raises ValueError that names the setting, what is allowed and what came.
    """

    models: Path
    """A model file, a directory of them, or a repository NAME/VERSION/model.onnx."""
    host: str = "127.0.0.1"
    port: int = 8001
    """TCP port to listen on; 0 picks a free one."""
    max_message_bytes: int = 64 * 2**20
    """Largest request; one above it is answered RESOURCE_EXHAUSTED."""
    drain_s: float = 5.0
    """After SIGTERM: how long the server says that it is not ready while it still answers,
    so that balancers turn away from it first."""
    grace_s: float = 30.0
    """After the drain: how long calls in flight may take to end."""
    workers: int = 32
    """Threads that answer calls."""
    tls_cert: Path | None = None
    """Certificate chain (PEM); with `tls_key` the server speaks TLS."""
    tls_key: Path | None = None
    tls_client_ca: Path | None = None
    """CA that clients' certificates must come from (mutual TLS)."""

    def __post_init__(self) -> None:
        if not 0 <= self.port < 65536:
            raise ValueError(f"port: expected 0..65535, got {self.port}")
        if not 1024 <= self.max_message_bytes < 2**31:
            raise ValueError(
                f"max_message_bytes: expected 1024..{2**31 - 1}, got {self.max_message_bytes}"
            )
        # Written so that NaN is refused as well.
        if not (self.drain_s >= 0 and self.grace_s >= 0):
            raise ValueError(
                "drain_s and grace_s: expected 0 or more seconds, "
                f"got {self.drain_s} and {self.grace_s}"
            )
        if self.workers < 1:
            raise ValueError(f"workers: expected at least 1, got {self.workers}")
        if (self.tls_cert is None) != (self.tls_key is None):
            raise ValueError("tls_cert and tls_key: expected both or neither, got one")
        if self.tls_client_ca is not None and self.tls_cert is None:
            raise ValueError("tls_client_ca: needs tls_cert and tls_key, got neither")
