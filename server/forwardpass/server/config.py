"""The server's settings: one frozen object, built at the edge and passed down."""

import os
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Annotated, NoReturn

from forwardpass.proto.stores import StoreError, check_store_url, is_store
from forwardpass.server.access.host_names import HostNames, is_loopback
from forwardpass.server.guard import Limits
from forwardpass.server.observe.log_format import FORMATS, LogFormat
from forwardpass.server.process.cpus import available_cpus
from forwardpass.server.process.memory import room
from forwardpass.server.repository.version_policy import VersionPolicy
from forwardpass.server.settings import INT32_MAX, Setting, check, make_paths

UNIX = "unix:"
"""Begins the address of a socket in the file system."""

_REQUEST_BYTES = 2**28
"""Memory for unanswered requests, in bytes, where there is enough; more if they may be larger."""
_REQUEST_SHARE = 4
"""Share of what is left that they may have, in all processes."""


class Transport(StrEnum):
    """What speaks gRPC."""

    ASYNCIO = "asyncio"
    """HTTP/2 and gRPC of our own, on an event loop."""
    GRPCIO = "grpcio"
    """grpcio's threads: far more CPU a call."""

    @classmethod
    def _missing_(cls, value: object) -> NoReturn:
        raise ValueError(f"transport: expected {' or '.join(cls)}, got {str(value)!r}")


def _processes(text: str) -> int:
    if text == "auto":
        return available_cpus()
    if text.isdecimal() and len(text) < 10:
        return int(text)
    raise ValueError(f"processes: expected a number or auto, got {text!r}")


def _count(text: str) -> Setting:
    return Setting(text, least=1, most=INT32_MAX)


@dataclass(frozen=True, kw_only=True)
class Config:
    """What an operator may set; valid once built. Paths may be texts, too.

    Raises ValueError that names the setting, what is allowed and what came.
    """

    models: Annotated[
        Path,
        Setting(
            "A .onnx file, a directory of them, or a repository NAME/VERSION/model.onnx; or the "
            "URL of one in an object store, as in s3://BUCKET/PATH (extra `stores`).",
            parse=str,
        ),
    ]
    store: Annotated[str | None, Setting("URL that `models` is the mirror of.", offered=False)] = (
        None
    )
    mirror: Annotated[
        Path | None,
        Setting(
            "Folder where the models of an object store are mirrored, of this server alone. "
            "Without it, one of the store's in the user's cache."
        ),
    ] = None
    mirror_bytes: Annotated[
        int | None,
        Setting(
            "Maximum size of that mirror, in bytes; models that do not fit are not fetched. "
            "Without it there is no maximum.",
            unit="bytes",
            least=1,
        ),
    ] = None
    versions: Annotated[
        VersionPolicy,
        Setting(
            "Versions of each model to serve: all, latest, latest:N, or numbers as in 1,3.",
            parse=VersionPolicy.parse,
        ),
    ] = field(default_factory=VersionPolicy)
    watch: Annotated[bool, Setting("Whether changes of the files are picked up while serving.")] = (
        True
    )
    poll_s: Annotated[
        float | None,
        Setting(
            "Seconds between two looks at the files, in place of file events: for volumes "
            "that have none, such as those on a network; and between two listings of an object "
            "store, 30 if not set.",
            unit="seconds",
            least=0.01,
            most=86400,
        ),
    ] = None
    limits: Limits = field(default_factory=Limits)
    trial_s: Annotated[
        float,
        Setting(
            "Maximum CPU time of a model's trial, in seconds, which a busy machine does not use "
            "up. A file that is proven harmless by reading it needs no trial.",
            unit="seconds",
            least=0.1,
            most=86400,
        ),
    ] = 10.0
    trial_memory_bytes: Annotated[
        int,
        Setting(
            "Maximum memory of a model's trial, in bytes; and of all runs together of models that "
            "are not batched, whose work may grow faster than their rows.",
            unit="bytes",
            least=2**20,
        ),
    ] = 2**30
    server_name: Annotated[
        str,
        Setting(
            "Name of the server in ServerMetadata; some programs of Triton's expect triton.",
        ),
    ] = "forwardpass"
    host: Annotated[
        str, Setting("Address to listen on, or unix:PATH for a socket in the file system.")
    ] = "127.0.0.1"
    port: Annotated[
        int, Setting("TCP port to listen on; 0 picks a free one.", least=0, most=65535)
    ] = 8001
    http_port: Annotated[
        int | None,
        Setting(
            "TCP port of the same protocol over HTTP/1.1 (REST), beside gRPC; 0 picks a free one. "
            "Without it there is none.",
            least=0,
            most=65535,
        ),
    ] = None
    http_host_names: Annotated[
        HostNames,
        Setting(
            "Names of this server, separated by commas, that requests over HTTP/1.1 may have in "
            "field Host beside localhost and addresses; others are answered 421. Without names "
            "every name is taken, except on loopback, where none is.",
            parse=HostNames.parse,
        ),
    ] = field(default_factory=HostNames)
    max_message_bytes: Annotated[
        int,
        Setting(
            "Maximum size of a request, in bytes; a larger one is answered RESOURCE_EXHAUSTED.",
            unit="bytes",
            least=1024,
            most=INT32_MAX,
        ),
    ] = 64 * 2**20
    max_request_memory: Annotated[
        int | None,
        Setting(
            "Maximum memory of all requests together that have arrived and are not answered, and "
            "of all answers that callers have not read, in bytes; the next call is answered "
            "RESOURCE_EXHAUSTED. Without it, eight times the "
            "maximum size of a request, but at most a quarter of the memory that is left to the "
            "server as it starts, shared by its processes.",
            unit="bytes",
            least=1024,
        ),
    ] = None
    max_receive_s: Annotated[
        float,
        Setting(
            "Maximum time for a request to arrive, in seconds; a slower one is answered "
            "DEADLINE_EXCEEDED.",
            unit="seconds",
            above=0,
        ),
    ] = 120.0
    max_unread_s: Annotated[
        float,
        Setting(
            "Maximum time for a caller to take 1 MiB of an answer, or all that is left of it, in "
            "seconds; a slower one does not get the rest.",
            unit="seconds",
            above=0,
        ),
    ] = 60.0
    transport: Annotated[
        Transport,
        Setting(
            "Implementation of gRPC: asyncio (our own, on an event loop), or grpcio (threads, with "
            "far more CPU a call).",
            parse=Transport,
        ),
    ] = Transport.ASYNCIO
    processes: Annotated[
        int,
        Setting(
            "Number of processes that answer calls, on one port; auto: as many as there are CPUs "
            "for this one. All other limits are those of each process.",
            least=1,
            most=1024,
            parse=_processes,
        ),
    ] = 1
    workers: Annotated[
        int, _count("Number of threads for what takes long; with grpcio, for every call.")
    ] = 32
    max_rows: Annotated[
        int,
        _count("Maximum rows of a call; one with more is answered RESOURCE_EXHAUSTED."),
    ] = 2**20
    max_queue: Annotated[
        int,
        _count(
            "Maximum calls of a class that wait for one model; the next one is answered "
            "RESOURCE_EXHAUSTED."
        ),
    ] = 1024
    max_backlog: Annotated[
        int,
        _count(
            "Maximum calls of a class (interactive, batch) that have arrived and wait for a "
            "turn of the event loop, or with grpcio for a thread; the next one is answered "
            "RESOURCE_EXHAUSTED."
        ),
    ] = 4096
    max_calls_per_connection: Annotated[
        int,
        _count(
            "Maximum calls in flight on one connection. A client waits with the next one; "
            "what it sends all the same ends UNAVAILABLE."
        ),
    ] = 1024
    max_connections: Annotated[
        int,
        _count(
            "Maximum connections; the next one is closed at once, and its calls end UNAVAILABLE."
        ),
    ] = 10_000
    max_connection_age_s: Annotated[
        float | None,
        Setting(
            "Maximum age of a connection in seconds, give or take a tenth: its client is "
            "then asked to open another, so that new servers get their share. Without it "
            "there is no maximum.",
            unit="seconds",
            above=0,
        ),
    ] = None
    max_streams: Annotated[
        int,
        _count(
            "Maximum streams (ModelStreamInfer) open at a time; with grpcio each has two threads."
        ),
    ] = 128
    model_control: Annotated[
        bool,
        Setting(
            "Whether callers may load and unload models (RepositoryModelLoad, "
            "RepositoryModelUnload)."
        ),
    ] = False
    shared_memory: Annotated[
        bool,
        Setting(
            "Whether callers may name POSIX shared memory on this machine to read tensors "
            "from and write them to: any that the server's user may read and write."
        ),
    ] = False
    drain_s: Annotated[
        float,
        Setting(
            "Seconds after SIGTERM in which calls are still answered while the server "
            "reports that it is not ready, so that balancers turn away first.",
            unit="seconds",
            least=0.0,
        ),
    ] = 5.0
    grace_s: Annotated[
        float,
        Setting(
            "Maximum time after the drain for calls in flight to end, in seconds.",
            unit="seconds",
            least=0.0,
        ),
    ] = 30.0
    tls_cert: Annotated[
        Path | None, Setting("Certificate chain (PEM); with its key the server speaks TLS.")
    ] = None
    tls_key: Annotated[Path | None, Setting("Private key of the certificate (PEM).")] = None
    tls_client_ca: Annotated[
        Path | None, Setting("CA that clients' certificates must come from (mutual TLS, PEM).")
    ] = None
    log_format: Annotated[
        LogFormat, Setting("Format of the log: text or json.", choices=FORMATS)
    ] = "text"
    log_calls: Annotated[
        bool,
        Setting("Whether the log has a line for each call: its request id, model, code and times."),
    ] = False
    traces: Annotated[
        bool,
        Setting(
            "Whether each call is reported to OpenTelemetry (extra `tracing`), at "
            "OTEL_EXPORTER_OTLP_ENDPOINT."
        ),
    ] = False
    metrics_port: Annotated[
        int | None,
        Setting(
            "TCP port of metrics for Prometheus; 0 picks a free one. Without it there are none.",
            least=0,
            most=65535,
        ),
    ] = None
    drift_by_feature: Annotated[
        bool,
        Setting(
            "Whether the metrics of input drift have a series for each column of an input, too."
        ),
    ] = False
    metrics_host: Annotated[str, Setting("Address of the metrics.")] = "127.0.0.1"
    tokens: Annotated[
        Path | None,
        Setting(
            "File of who may call, and what, with a line for each token (`forwardpass "
            "token` makes them). Without it everybody may do everything."
        ),
    ] = None
    insecure_tokens: Annotated[
        bool,
        Setting(
            "Whether tokens are accepted without TLS from other machines, too, as behind a "
            "proxy that ends TLS."
        ),
    ] = False

    def __post_init__(self) -> None:
        self._find_store()
        make_paths(self)
        check(self)
        if not self.server_name.isprintable() or not 0 < len(self.server_name) < 256:
            raise ValueError(
                f"server_name: expected 1..255 printable characters, got {self.server_name!r}"
            )
        if self.processes > 1 and not hasattr(os, "memfd_create"):
            raise ValueError(
                f"processes: expected 1 on this system, where models in memory cannot be handed "
                f"from process to process, got {self.processes}"
            )
        if self.processes > 1 and self.transport is Transport.GRPCIO and self.host.startswith(UNIX):
            raise ValueError(
                f"processes: expected 1 with grpcio on a Unix socket, which it cannot share, got "
                f"{self.processes}; use the transport asyncio, or TCP"
            )
        if self.http_port is not None and self.host.startswith(UNIX):
            raise ValueError(
                f"http_port: expected none with a Unix socket, got {self.http_port}; listen on a "
                "TCP address"
            )
        if not isinstance(self.http_host_names, HostNames):
            raise ValueError(f"http_host_names: expected HostNames, got {self.http_host_names!r}")
        most = self.max_request_memory
        if most is not None and most < self.max_message_bytes:
            raise ValueError(
                f"max_request_memory: expected at least max_message_bytes, "
                f"{self.max_message_bytes} bytes, got {most}"
            )
        if (self.tls_cert is None) != (self.tls_key is None):
            raise ValueError("tls_cert and tls_key: expected both or neither, got one")
        if self.tls_client_ca is not None and self.tls_cert is None:
            raise ValueError("tls_client_ca: needs tls_cert and tls_key, got neither")
        readable = self.tls_cert is None and not is_loopback(self.host)
        if self.tokens is not None and readable and not self.insecure_tokens:
            raise ValueError(
                f"tokens: expected TLS, since {self.host!r} is reached by others, who could read "
                "tokens on their way; got no tls_cert. Behind a proxy that ends TLS set "
                "insecure_tokens"
            )

    def _find_store(self) -> None:
        """Take the URL of a store for what it is: `models` is where it is mirrored."""
        url = str(self.models)
        if not is_store(self.models):
            return
        # Imported here: most servers have no store.
        from forwardpass.server.repository.mirror_folder import usual_folder

        try:
            check_store_url(url)
            folder = usual_folder(url) if self.mirror is None else self.mirror
        except (StoreError, RuntimeError) as error:
            raise ValueError(f"models: {error}") from error
        # The settings are frozen, but not before they are valid.
        object.__setattr__(self, "store", url)
        object.__setattr__(self, "models", folder)


def request_limit(config: Config) -> int:
    """Return the maximum memory of unanswered requests, in bytes, as of now if it is not set."""
    if config.max_request_memory is not None:
        return config.max_request_memory
    most = max(_REQUEST_BYTES, 8 * config.max_message_bytes)
    left = room()
    if left is not None:
        most = min(most, left.free // (_REQUEST_SHARE * config.processes))
    return max(most, config.max_message_bytes)
