"""The connection of a client: target, secrets and the options of a gRPC channel."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import grpc

from forwardpass.proto.target import check_target

if TYPE_CHECKING:
    from os import PathLike

Options = Sequence[tuple[str, Any]]
Token = str | Callable[[], str]
"""A bearer token, or a function that returns the one that is valid now."""

PING_TIMEOUT_MS = 10_000
"""Milliseconds without an answer to a ping after which a connection is dead."""


class Address(NamedTuple):
    """All that is needed to open a channel, of threads or of asyncio."""

    target: str
    credentials: grpc.ChannelCredentials | None
    """The secrets of a connection with TLS; None for plain text."""
    options: Options
    compression: grpc.Compression
    metadata: tuple[tuple[str, str], ...]
    """Metadata to send with every call, where no credentials carry them."""


def address(
    target: str,
    *,
    tls: bool,
    ca_file: str | PathLike[str] | None,
    cert_file: str | PathLike[str] | None,
    key_file: str | PathLike[str] | None,
    token: Token | None,
    plaintext_token: bool,
    gzip: bool,
    keepalive_s: float | None,
    health_checks: bool,
    options: Options,
) -> Address:
    """Check the arguments of a client against each other, and read its files.

    Raises ValueError for arguments that contradict each other, OSError for a file that cannot
    be read.
    """
    check_target(target)
    secrets = _credentials(tls=tls, ca_file=ca_file, cert_file=cert_file, key_file=key_file)
    metadata: tuple[tuple[str, str], ...] = ()
    if token is not None and secrets is not None:
        if isinstance(token, str):
            _bearer(token)
        secrets = grpc.composite_channel_credentials(
            secrets, grpc.metadata_call_credentials(_Bearer(token))
        )
    elif token is not None:
        metadata = (("authorization", _plaintext_bearer(target, token, plaintext_token)),)
    # Of two options of one name gRPC takes either, so there must be one.
    ours = {
        # The server sets the limits: a second one here would only be confusing.
        "grpc.max_send_message_length": -1,
        "grpc.max_receive_message_length": -1,
        # A server restarts within a second, for which gRPC by default waits to reconnect.
        "grpc.initial_reconnect_backoff_ms": 100,
        "grpc.max_reconnect_backoff_ms": 5_000,
        "grpc.service_config": _service_config(target, health_checks=health_checks),
    }
    if keepalive_s is not None:
        ours |= _keepalive(keepalive_s)
    compression = grpc.Compression.Gzip if gzip else grpc.Compression.NoCompression
    return Address(target, secrets, tuple((ours | dict(options)).items()), compression, metadata)


def _service_config(target: str, *, health_checks: bool) -> str:
    # By default gRPC sends everything to the first address that answers. An address that fails is
    # left out either way; health checks leave out those that report they are about to stop.
    if health_checks:
        return (
            '{"loadBalancingConfig": [{"round_robin": {}}], '
            '"healthCheckConfig": {"serviceName": ""}}'
        )
    if target.rpartition(":")[0].removeprefix("dns:///") == "localhost":
        # Two addresses of one machine, and two servers may listen there on one port.
        return "{}"
    return '{"loadBalancingConfig": [{"round_robin": {}}]}'


def _keepalive(keepalive_s: float) -> dict[str, int]:
    if keepalive_s <= 0:
        raise ValueError(f"keepalive_s: expected more than 0, or None for none, got {keepalive_s}")
    return {
        "grpc.keepalive_time_ms": round(keepalive_s * 1000),
        "grpc.keepalive_timeout_ms": PING_TIMEOUT_MS,
        # Newer versions of gRPC use this one, for a ping of any kind; its default is a minute.
        "grpc.http2.ping_timeout_ms": PING_TIMEOUT_MS,
        # Between calls, too: that is when a connection dies unnoticed.
        "grpc.keepalive_permit_without_calls": 1,
        "grpc.http2.max_pings_without_data": 0,
    }


def _credentials(
    *,
    tls: bool,
    ca_file: str | PathLike[str] | None,
    cert_file: str | PathLike[str] | None,
    key_file: str | PathLike[str] | None,
) -> grpc.ChannelCredentials | None:
    """Read the PEM files of a TLS connection; None for one in plain text."""
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
    # Without ca_file gRPC trusts the authorities that it ships.
    return grpc.ssl_channel_credentials(
        root_certificates=_read(ca_file),
        private_key=_read(key_file),
        certificate_chain=_read(cert_file),
    )


class _Bearer(grpc.AuthMetadataPlugin):
    """Adds the token to each call of a channel with TLS; gRPC calls it in threads of its own."""

    def __init__(self, token: Token) -> None:
        self._token = token

    def __call__(
        self, context: grpc.AuthMetadataContext, callback: grpc.AuthMetadataPluginCallback
    ) -> None:
        del context
        try:
            bearer = _bearer(self._now())
        except Exception as error:
            callback((), error)
        else:
            callback((("authorization", bearer),), None)

    def _now(self) -> str:
        if isinstance(self._token, str):
            return self._token
        try:
            token = self._token()
        except Exception as error:
            # gRPC passes on only a text, and that of many errors is useless without their type.
            raise RuntimeError(
                f"token: expected one from the function, got {error!r}; correct the function"
            ) from error
        if not isinstance(token, str):
            raise TypeError(
                f"token: expected a str from the function, got {type(token).__name__}; return "
                "the text of the token"
            )
        return token


def _bearer(token: str) -> str:
    """Return the value of `authorization`.

    Raises ValueError, which does not show the secret, for a token that gRPC would not send.
    """
    for position, letter in enumerate(token):
        if not " " <= letter <= "~":
            raise ValueError(
                f"token: expected printable ASCII, got {letter!r} at {position} of {len(token)}; "
                "if it was read from a file, .strip() it"
            )
    return f"Bearer {token}"


def _plaintext_bearer(target: str, token: Token, allowed: bool) -> str:
    if not (allowed and _is_loopback(target)):
        raise ValueError(
            f"token: expected with tls=True, got plain text to {target!r}, where whoever listens "
            "may read it; pass tls=True, or plaintext_token=True for a server on this machine"
        )
    if not isinstance(token, str):
        raise ValueError("token: expected a text in plain text, got a function; pass tls=True")
    return _bearer(token)


def _is_loopback(target: str) -> bool:
    """Return whether data sent to the target does not leave the machine."""
    if target.startswith(("unix:", "unix-abstract:")):
        return True
    scheme, _, rest = target.partition(":")
    addresses = rest if scheme in ("dns", "ipv4", "ipv6") else target
    return all(_is_loopback_host(each) for each in addresses.lstrip("/").split(","))


def _is_loopback_host(address: str) -> bool:
    # Imported here: only tokens in plain text need it.
    from ipaddress import ip_address

    host = address.rpartition(":")[0].strip("[]")
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _read(file: str | PathLike[str] | None) -> bytes | None:
    if file is None:
        return None
    with open(file, "rb") as opened:
        return opened.read()
