"""The client of threads, over grpcio's channel."""

from __future__ import annotations

from collections.abc import Sequence
from threading import Lock
from typing import TYPE_CHECKING, Any, NoReturn

import grpc

from forwardpass.client._conversation.calls import BlockingCalls, InFlight
from forwardpass.client._conversation.core import METHODS, Core
from forwardpass.client._conversation.steps import Send
from forwardpass.client._grpc.channel import Options, Token, address
from forwardpass.client.errors import CallCancelledError, from_rpc_error
from forwardpass.client.retry import Retry
from forwardpass.proto import priority

if TYPE_CHECKING:
    from os import PathLike

SERVICE = "/inference.GRPCInferenceService/"

MAX_MESSAGE_BYTES = 4 * 2**20 - 2**16
"""Maximum bytes of a message that gRPC servers accept by default, less some for other fields."""


class Client(BlockingCalls):
    """Calls the models of one Open Inference Protocol server.

        with Client("localhost:8001") as client:
            prediction = client.predict("breast_cancer", x)  # x: (rows, 30)

    Make one for each process and keep it: all methods may be called from any number of threads at
    once, and share one connection. Errors are `ClientError`s, with a subclass for each cause.
    """

    def __init__(
        self,
        target: str,
        *,
        tls: bool = False,
        ca_file: str | PathLike[str] | None = None,
        cert_file: str | PathLike[str] | None = None,
        key_file: str | PathLike[str] | None = None,
        token: Token | None = None,
        plaintext_token: bool = False,
        timeout_s: float | None = 30.0,
        retry: Retry | None = Retry(),  # noqa: B008  # frozen
        max_message_bytes: int | None = MAX_MESSAGE_BYTES,
        gzip: bool = False,
        batch: bool = False,
        keepalive_s: float | None = None,
        health_checks: bool = False,
        interceptors: Sequence[grpc.UnaryUnaryClientInterceptor] = (),
        options: Options = (),
    ) -> None:
        """Prepare a client; it connects at the first call.

        target: `HOST:PORT`, or any name that gRPC resolves (`unix:PATH`, `dns:///HOST:PORT`,
            `ipv4:HOST:PORT,HOST:PORT`). Calls take turns between all addresses of the name.
        tls: Whether to encrypt, and check the server's certificate against the authorities in
            ca_file (PEM; None: the public ones). cert_file and key_file (PEM) are the client's
            own certificate, for a server that requires one.
        token: sent with each call as `authorization: Bearer ...`; a function is called for it
            each time. Only with tls, or with plaintext_token to a server on this machine.
        timeout_s: deadline of a call in seconds, unless it has its own; None: no deadline.
        retry: when to call again; None for never.
        max_message_bytes: maximum size of a message; `predict` cuts larger ones, if the server
            has proven that rows do not depend on one another; None cuts nothing.
        gzip: Whether to compress requests, and to accept compressed replies.
        batch: Whether the calls may wait for those of other callers, as work of which nobody
            waits for the single answer.
        keepalive_s: seconds between two pings of the server; a connection on which none is
            answered for 10 s is dead; None: no pings. Servers close connections that are pinged
            more often than they allow: those of gRPC, every 300 s.
        health_checks: Whether to leave out addresses that report they are not serving
            (`grpc.health.v1`), as a server does before it stops; for several addresses.
        interceptors: gRPC's, around each call; they see messages as bytes.
        options: gRPC channel options, over ours.

        Raises ValueError for arguments that contradict each other, OSError for an unreadable
        file.
        """
        to = address(
            target,
            tls=tls,
            ca_file=ca_file,
            cert_file=cert_file,
            key_file=key_file,
            token=token,
            plaintext_token=plaintext_token,
            gzip=gzip,
            keepalive_s=keepalive_s,
            health_checks=health_checks,
            options=options,
        )
        self.target = target
        self._fetching = Lock()
        self._core = Core(
            target,
            self._fetching,
            timeout_s=timeout_s,
            retry=retry,
            max_message_bytes=max_message_bytes,
            metadata=(*to.metadata, *((priority.METADATA,) if batch else ())),
        )
        self._channel = (
            grpc.insecure_channel(target, to.options, to.compression)
            if to.credentials is None
            else grpc.secure_channel(target, to.credentials, to.options, to.compression)
        )
        channel = grpc.intercept_channel(self._channel, *interceptors)
        # Bytes in, bytes out: the codec reads and writes the messages.
        self._methods: dict[str, grpc.UnaryUnaryMultiCallable[bytes, bytes]] = {
            name: channel.unary_unary(SERVICE + name) for name in METHODS
        }

    def __reduce__(self) -> NoReturn:
        raise TypeError(
            f"a {type(self).__name__} is a connection, which no other process can use; pass its "
            f"target ({self.target!r}) on, and make a client there"
        )

    def close(self) -> None:
        """Close the connection; calls in flight end with CallCancelledError.

        In a forked process the connection is the parent's, and stays open.
        """
        self._core.closed = True
        # gRPC would wait for calls whose threads do not exist after a fork.
        if not self._core.forked:
            self._channel.close()

    def _send(self, send: Send) -> Any:
        method = self._methods[send.method]
        try:
            if send.trailers:
                reply, call = method.with_call(
                    send.data, timeout=send.timeout_s, metadata=send.metadata
                )
                return reply, call.trailing_metadata()
            return method(send.data, timeout=send.timeout_s, metadata=send.metadata)
        except grpc.RpcError as error:
            raise from_rpc_error(error, target=self.target, model=send.model) from error
        except ValueError as error:
            self._refuse(error)

    def _begin(self, send: Send) -> InFlight:
        method = self._methods[send.method]
        try:
            future = method.future(send.data, timeout=send.timeout_s, metadata=send.metadata)
        except ValueError as error:
            self._refuse(error)
        return _Future(future, self.target, send.model)

    def _refuse(self, error: ValueError) -> NoReturn:
        # Raised by grpc if another thread has just closed the channel.
        self._core.check_usable(error)
        raise error


class _Future:
    """A call of grpcio in flight, which raises ClientErrors."""

    def __init__(self, future: Any, target: str, model: str) -> None:
        self._future = future
        self._target = target
        self._model = model
        self.done = future.done
        self.cancel = future.cancel

    def result(self) -> bytes:
        try:
            reply: bytes = self._future.result()
        except grpc.FutureCancelledError as error:
            raise CallCancelledError(
                "the call was cancelled",
                code=grpc.StatusCode.CANCELLED,
                target=self._target,
                model=self._model,
            ) from error
        except grpc.RpcError as error:
            raise from_rpc_error(error, target=self._target, model=self._model) from error
        return reply
