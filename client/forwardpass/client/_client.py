"""The client: a channel and the metadata of the models that it was asked for."""

import os
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from threading import Lock
from types import EllipsisType, TracebackType
from typing import Self, TypeVar

import grpc
from google.protobuf.message import Message

from forwardpass.client._channel import DEFAULT_OPTIONS, Options, check_target, credentials
from forwardpass.client._codec import ModelCodec, parse
from forwardpass.client._inputs import Inputs
from forwardpass.client.errors import (
    ClientClosedError,
    ClientError,
    DeadlineExceededError,
    InvalidInputError,
    ModelNotFoundError,
    ProtocolError,
    from_rpc_error,
)
from forwardpass.client.model import ModelSpec, ServerSpec
from forwardpass.client.prediction import Prediction
from forwardpass.client.timing import Timing
from forwardpass.proto import inference_pb2 as pb

_SERVICE = "/inference.GRPCInferenceService/"

M = TypeVar("M", bound=Message)
R = TypeVar("R")


class Client:
    """Calls the models of one Open Inference Protocol server.

        with Client("localhost:8001") as client:
            prediction = client.predict("breast_cancer", x)  # x: (rows, 30)

    Make one a process and keep it: all methods may be called from any number of threads at
    once, and share one connection. Every call raises a `ClientError`, one subclass a cause.
    """

    def __init__(
        self,
        target: str,
        *,
        tls: bool = False,
        ca_file: str | Path | None = None,
        cert_file: str | Path | None = None,
        key_file: str | Path | None = None,
        timeout_s: float | None = 30.0,
        options: Options = (),
    ) -> None:
        """Prepare a client; it connects at the first call.

        target: `HOST:PORT`, or any name that gRPC resolves (`unix:PATH`, `dns:///HOST:PORT`).
        tls: encrypt, and check the server's certificate against the authorities in ca_file
            (PEM; None: the public ones). cert_file and key_file (PEM) are the client's own
            certificate, for a server that wants one.
        timeout_s: deadline of a call, unless it brings its own; None waits for ever.
        options: gRPC channel options, over ours.

        Raises ValueError for arguments that contradict each other, OSError for an unreadable
        file.
        """
        check_target(target)
        secrets = credentials(tls=tls, ca_file=ca_file, cert_file=cert_file, key_file=key_file)
        # Of two options of one name gRPC takes either, so there must be one.
        options = tuple({**dict(DEFAULT_OPTIONS), **dict(options)}.items())
        self.target = target
        self._timeout_s = timeout_s
        self._channel = (
            grpc.insecure_channel(target, options)
            if secrets is None
            else grpc.secure_channel(target, secrets, options)
        )
        # Bytes in, bytes out: the codec reads and writes the messages.
        self._methods: dict[str, grpc.UnaryUnaryMultiCallable[bytes, bytes]] = {
            name: self._channel.unary_unary(_SERVICE + name)
            for name in (
                "ServerLive",
                "ServerReady",
                "ModelReady",
                "ServerMetadata",
                "ModelMetadata",
                "ModelInfer",
            )
        }
        self._codecs: dict[tuple[str, str], ModelCodec] = {}
        """By model and version as asked for; read without a lock, which costs calls nothing."""
        self._fetching = Lock()
        """Held while metadata are fetched, so that threads that meet a model fetch them once."""
        self._closed = False
        self._pid = os.getpid()

    def predict(
        self,
        model: str,
        x: Inputs,
        *,
        version: str = "",
        outputs: Sequence[str] | None = None,
        timeout_s: float | EllipsisType | None = ...,
        timing: bool = False,
    ) -> Prediction:
        """Return the model's outputs for x, by name.

        x: an array (or nested lists, a DataFrame, whatever NumPy takes) of shape (rows, ...)
            for a model with one input, or a dict of them by input name. Cast to the model's
            dtypes where nothing but precision is lost. A single row may come without its row
            axis, as (n,) for [-1, n]; the outputs then come without theirs.
        version: empty for the server's choice, commonly the latest.
        outputs: names to compute, in that order; None for all, in the model's order.
        timeout_s: deadline of the whole, metadata included; `...` is the client's own.
        timing: measure where the time goes, and ask the server for its part; for a look
            rather than for every call, as it costs both sides some.

        Raises InvalidInputError, before anything is sent, if x does not fit the model.
        """
        infer = self._infer_timed if timing else self._infer
        deadline = self._deadline(timeout_s)
        known = self._codecs.get((model, version))
        codec = self._codec(model, version, deadline) if known is None else known
        try:
            return infer(codec, x, outputs, deadline)
        except (InvalidInputError, ModelNotFoundError, ProtocolError):
            # Another version may be served since its metadata were fetched: then what did
            # not fit, here or there, may fit now.
            fresh = None if known is None else self._refetch(known, deadline)
            if fresh is None:
                raise
        return infer(fresh, x, outputs, deadline)

    def live(self) -> bool:
        """Return whether the server says that it runs; raises if it cannot be asked."""
        request = pb.ServerLiveRequest()
        return self._ask("ServerLive", request, pb.ServerLiveResponse, self._deadline()).live

    def ready(self) -> bool:
        """Return whether the server says that it takes predictions; raises if unreachable."""
        request = pb.ServerReadyRequest()
        return self._ask("ServerReady", request, pb.ServerReadyResponse, self._deadline()).ready

    def model_ready(self, model: str, version: str = "") -> bool:
        """Return whether the model takes predictions; False too for one that is not there."""
        request = pb.ModelReadyRequest(name=model, version=version)
        deadline = self._deadline()
        try:
            reply = self._ask("ModelReady", request, pb.ModelReadyResponse, deadline, model)
        except ModelNotFoundError:
            # Servers differ: some answer ready=false, some NOT_FOUND.
            return False
        return reply.ready

    def metadata(self, model: str, version: str = "") -> ModelSpec:
        """Return the model's inputs, outputs and properties; fetched once and kept."""
        return self._codec(model, version, self._deadline()).spec

    def server_metadata(self) -> ServerSpec:
        """Return the server's name, version and extensions."""
        request = pb.ServerMetadataRequest()
        reply = self._ask("ServerMetadata", request, pb.ServerMetadataResponse, self._deadline())
        return ServerSpec.from_message(reply)

    def close(self) -> None:
        """Close the connection; calls in flight end with CallCancelledError."""
        self._closed = True
        self._channel.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"<Client of {self.target}{' (closed)' if self._closed else ''}>"

    def _infer(
        self, codec: ModelCodec, x: Inputs, outputs: Sequence[str] | None, deadline: float | None
    ) -> Prediction:
        request = codec.encode(x, outputs)
        reply = self._call(self._methods["ModelInfer"], request.data, deadline, codec.model)
        return codec.decode(reply, request)

    def _infer_timed(
        self, codec: ModelCodec, x: Inputs, outputs: Sequence[str] | None, deadline: float | None
    ) -> Prediction:
        start = time.perf_counter_ns()
        request = codec.encode(x, outputs, timing=True)
        sent = time.perf_counter_ns()
        send = self._methods["ModelInfer"].with_call
        reply, call = self._call(send, request.data, deadline, codec.model)
        received = time.perf_counter_ns()
        prediction = codec.decode(reply, request)
        client_ns = time.perf_counter_ns() - received + sent - start
        try:
            timing = Timing.of(
                client_ns=client_ns, call_ns=received - sent, trailers=call.trailing_metadata()
            )
        except ValueError as error:
            raise ProtocolError(str(error), target=self.target, model=codec.model) from error
        return replace(prediction, timing=timing)

    def _codec(
        self, model: str, version: str, deadline: float | None, stale: ModelCodec | None = None
    ) -> ModelCodec:
        """Return the model's codec, made from metadata newer than those of the stale one."""
        self._check_usable()
        if not self._fetching.acquire(timeout=-1 if deadline is None else _remaining(deadline)):
            raise DeadlineExceededError(
                "no metadata yet; pass a longer timeout_s",
                code=grpc.StatusCode.DEADLINE_EXCEEDED,
                target=self.target,
                model=model,
            )
        try:
            codec = self._codecs.get((model, version))
            if codec is None or codec is stale:
                request = pb.ModelMetadataRequest(name=model, version=version)
                reply = self._ask(
                    "ModelMetadata", request, pb.ModelMetadataResponse, deadline, model
                )
                codec = ModelCodec(ModelSpec.from_message(reply), model, version, self.target)
                self._codecs[model, version] = codec
            return codec
        finally:
            self._fetching.release()

    def _refetch(self, known: ModelCodec, deadline: float | None) -> ModelCodec | None:
        """Return a codec with new metadata; None if they are what was known."""
        try:
            fresh = self._codec(known.model, known.version, deadline, stale=known)
        except ClientError:
            # What went wrong before tells the caller more.
            return None
        return None if fresh.spec == known.spec else fresh

    def _ask(
        self,
        method: str,
        request: Message,
        reply: type[M],
        deadline: float | None,
        model: str = "",
    ) -> M:
        send = self._methods[method]
        data = self._call(send, request.SerializeToString(), deadline, model)
        return parse(reply, data, target=self.target, model=model)

    def _call(
        self, send: Callable[..., R], request: bytes, deadline: float | None, model: str
    ) -> R:
        self._check_usable()
        timeout = None if deadline is None else _remaining(deadline)
        try:
            return send(request, timeout=timeout)
        except grpc.RpcError as error:
            raise from_rpc_error(error, target=self.target, model=model) from error
        except ValueError as error:
            # grpc's answer if another thread closed the channel a moment ago.
            self._check_usable(error)
            raise

    def _check_usable(self, cause: Exception | None = None) -> None:
        if self._closed:
            raise ClientClosedError("this client was closed", target=self.target) from cause
        if self._pid != os.getpid():
            # gRPC's threads did not come along: a call would wait for ever.
            raise ClientClosedError(
                f"this client belongs to process {self._pid}, from which this one was forked; "
                "make a Client in each process",
                target=self.target,
            )

    def _deadline(self, timeout_s: float | EllipsisType | None = ...) -> float | None:
        if isinstance(timeout_s, EllipsisType):
            timeout_s = self._timeout_s
        return None if timeout_s is None else time.monotonic() + timeout_s


def _remaining(deadline: float) -> float:
    return max(0.0, deadline - time.monotonic())
