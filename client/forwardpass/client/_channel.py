"""Where a client connects and how: target, TLS and channel options."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import grpc

Options = Sequence[tuple[str, Any]]

DEFAULT_OPTIONS: Options = (
    # The server sets the limits: a second one here only adds a puzzle.
    ("grpc.max_send_message_length", -1),
    ("grpc.max_receive_message_length", -1),
)


def check_target(target: str) -> None:
    """Raise ValueError for a target that gRPC would take for something else."""
    if target.startswith(("http://", "https://")):
        scheme, _, rest = target.partition("://")
        fix = ", with tls=True" if scheme == "https" else ""
        raise ValueError(f"target: expected HOST:PORT, got {target!r}; write {rest!r}{fix}")
    if ":" not in target:
        # gRPC would choose port 443.
        raise ValueError(
            f"target: expected HOST:PORT, got {target!r}; add the port, as in "
            f"'{target or 'localhost'}:8001'"
        )


def credentials(
    *,
    tls: bool,
    ca_file: str | Path | None,
    cert_file: str | Path | None,
    key_file: str | Path | None,
) -> grpc.ChannelCredentials | None:
    """Read the PEM files of a TLS connection; None for one in plain text.

    Raises ValueError if files are given without tls or only one of the pair, and OSError if
    one cannot be read.
    """
    files = {"ca_file": ca_file, "cert_file": cert_file, "key_file": key_file}
    given = [name for name, file in files.items() if file is not None]
    if not tls:
        if given:
            raise ValueError(f"{given[0]}: expected with tls=True, got tls=False; pass tls=True")
        return None
    if (cert_file is None) != (key_file is None):
        raise ValueError(
            f"cert_file and key_file: expected both or neither, got {cert_file!r} and "
            f"{key_file!r}; mutual TLS needs the certificate and its key"
        )
    # Without ca_file gRPC trusts the authorities that it brings along.
    return grpc.ssl_channel_credentials(
        root_certificates=_read(ca_file),
        private_key=_read(key_file),
        certificate_chain=_read(cert_file),
    )


def _read(file: str | Path | None) -> bytes | None:
    return None if file is None else Path(file).read_bytes()
