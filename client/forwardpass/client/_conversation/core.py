"""The work of a client, without waiting and without sockets: all clients share it.

Its methods are conversations (`_steps`): they keep the models' metadata, check and write calls,
read replies, try again, cut and join. Nothing here blocks, awaits or opens a socket.
"""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from types import EllipsisType
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

from google.protobuf.message import Message

from forwardpass.client._conversation.codecs import REPLICAS, Codecs, Lock, of_replicas
from forwardpass.client._conversation.steps import (
    INFER,
    Metadata,
    Send,
    Sleep,
    Steps,
    Window,
    remaining,
)
from forwardpass.client._conversation.texts import check_texts
from forwardpass.client._conversation.tracing import trace_metadata
from forwardpass.client._messages.codec import Answer, ModelCodec, OtherVersionError, Request, parse
from forwardpass.client._messages.inputs import Given, Inputs
from forwardpass.client._messages.missing import Missing, check_missing
from forwardpass.client._messages.pieces import Joined, cut, has_rows, pieces, rows_in
from forwardpass.client.errors import (
    ClientClosedError,
    ClientError,
    InvalidInputError,
    ModelChangedError,
    ModelNotFoundError,
    ProtocolError,
)
from forwardpass.client.model import ModelSpec, ServerSpec
from forwardpass.client.prediction import Prediction
from forwardpass.client.retry import Retrier, Retry
from forwardpass.proto import inference_pb2 as pb
from forwardpass.proto.spec import TensorError

if TYPE_CHECKING:
    from forwardpass.client._conversation.progress import Report
    from forwardpass.client.served import ModelState, ModelStatistics

METHODS = (
    "ServerLive",
    "ServerReady",
    "ModelReady",
    "ServerMetadata",
    "ModelMetadata",
    INFER,
    "RepositoryIndex",
    "ModelStatistics",
)
"""The methods that a client calls."""

PIECES_IN_FLIGHT = 4
"""Maximum pieces in flight: enough for client, network and server to work at the same time."""

LONGEST_S = 1e8
"""Maximum timeout in seconds, three years: gRPC treats longer ones, and infinity, as expired."""

M = TypeVar("M", bound=Message)


class Wanted(NamedTuple):
    """The options of a call of `predict`."""

    outputs: Sequence[str] | None = None
    timing: bool = False
    rows_per_call: int | None = None
    progress: bool | Report = False
    missing: Missing = "refuse"
    content: str = ""
    explain: str = ""
    explain_steps: int | None = None


class Core:
    """The state that the callers of one client share, and their conversations."""

    def __init__(
        self,
        target: str,
        lock: Lock,
        *,
        timeout_s: float | None = None,
        retry: Retry | None = None,
        max_message_bytes: int | None = None,
        metadata: Metadata = (),
        forks: bool = False,
    ) -> None:
        """Prepare with the settings of a client, and the lock that its step Acquire takes.

        metadata: sent with every call. forks: Whether a forked process may use it.

        Raises ValueError for a max_message_bytes below 0.
        """
        if max_message_bytes is not None and max_message_bytes < 0:
            raise ValueError(
                f"max_message_bytes: expected 0 or more, got {max_message_bytes}; "
                "pass None to cut nothing"
            )
        self.target = target
        self.closed = False
        self._timeout_s = timeout_s
        self._retrier = Retrier(retry)
        self._max_message_bytes = max_message_bytes
        self._metadata = metadata
        self._codecs = Codecs(target, lock, self._spec)
        self._forks = forks
        self._pid = os.getpid()

    def predict(
        self,
        model: str,
        x: Inputs,
        version: str,
        timeout_s: float | EllipsisType | None,
        wanted: Wanted,
    ) -> Steps[Prediction]:
        """Return the outputs for x, requested and read by the metadata of the version that answers.

        Metadata are fetched again if x does not fit them, if another version answers, and if the
        model is another one by now under the same version.
        """
        if wanted.missing != "refuse":
            check_missing(wanted.missing)
        deadline = self._deadline(timeout_s)
        known = self._codecs.kept.get((model, version))
        codec = (yield from self._fetch(model, version, deadline)) if known is None else known
        answer: Answer | None = None
        changed = 0
        while True:
            try:
                if answer is None:
                    return (yield from self._infer(codec, x, wanted, deadline))
                return (yield from self._settle(codec, answer, x, wanted, deadline))
            except OtherVersionError as error:
                if answer is not None:
                    raise
                answer = error.answer
            except ModelChangedError:
                changed += 1
                if changed == REPLICAS:
                    raise
                answer = None
                if wanted.content:
                    # What metadata there are by now is not asked for: only other servers may help.
                    continue
                # Not each time: where servers behind one target differ, and calls take turns
                # between them, metadata and call would go to different ones again and again.
                if changed % 2:
                    codec = (yield from self._codecs.refetch(codec, deadline)) or codec
            except (InvalidInputError, ModelNotFoundError, ProtocolError):
                # Another version may be served since the metadata were fetched: then inputs that
                # client or server rejected may fit now.
                if known is None or answer is not None:
                    raise
                fresh = yield from self._codecs.refetch(known, deadline)
                if fresh is None:
                    raise
                codec, known = fresh, None

    def live(self) -> Steps[bool]:
        """Return whether the server reports that it runs."""
        reply = yield from self._ask(
            "ServerLive", pb.ServerLiveRequest(), pb.ServerLiveResponse, self._deadline()
        )
        return reply.live

    def ready(self) -> Steps[bool]:
        """Return whether the server reports that it is ready."""
        reply = yield from self._ask(
            "ServerReady", pb.ServerReadyRequest(), pb.ServerReadyResponse, self._deadline()
        )
        return reply.ready

    def model_ready(self, model: str, version: str) -> Steps[bool]:
        """Return whether the model is ready; False too for one that does not exist."""
        check_texts(self.target, model=model, version=version)
        request = pb.ModelReadyRequest(name=model, version=version)
        try:
            reply = yield from self._ask(
                "ModelReady", request, pb.ModelReadyResponse, self._deadline(), model
            )
        except ModelNotFoundError:
            # Servers differ: some answer ready=false, some NOT_FOUND.
            return False
        return reply.ready

    def metadata(self, model: str, version: str) -> Steps[ModelSpec]:
        """Return the model's inputs, outputs and properties, as the server has them now."""
        known = self._codecs.kept.get((model, version))
        return (yield from self._fetch(model, version, self._deadline(), known)).spec

    def server_metadata(self) -> Steps[ServerSpec]:
        """Return the server's name, version and extensions."""
        reply = yield from self._ask(
            "ServerMetadata",
            pb.ServerMetadataRequest(),
            pb.ServerMetadataResponse,
            self._deadline(),
        )
        return ServerSpec.from_message(reply)

    def index(self) -> Steps[tuple[ModelState, ...]]:
        """Return the state of each version of each model."""
        from forwardpass.client.served import ModelState

        reply = yield from self._ask(
            "RepositoryIndex",
            pb.RepositoryIndexRequest(),
            pb.RepositoryIndexResponse,
            self._deadline(),
        )
        return tuple(map(ModelState.from_message, reply.models))

    def statistics(self, model: str, version: str) -> Steps[tuple[ModelStatistics, ...]]:
        """Return the counters of versions of models."""
        from forwardpass.client.served import ModelStatistics

        check_texts(self.target, model=model, version=version)
        request = pb.ModelStatisticsRequest(name=model, version=version)
        reply = yield from self._ask(
            "ModelStatistics", request, pb.ModelStatisticsResponse, self._deadline(), model
        )
        return tuple(map(ModelStatistics.from_message, reply.model_stats))

    @property
    def forked(self) -> bool:
        """Whether this is a forked process, in which the client's connection cannot be used."""
        return not self._forks and self._pid != os.getpid()

    def closed_error(self) -> ClientClosedError:
        """Return the error of a call of a closed client."""
        return ClientClosedError("this client was closed", target=self.target)

    def check_usable(self, cause: BaseException | None = None) -> None:
        """Raise ClientClosedError if this client cannot be used, or not in this process."""
        if self.closed:
            raise self.closed_error() from cause
        if self.forked:
            # gRPC's threads do not exist after a fork: a call would wait forever.
            raise ClientClosedError(
                f"this client belongs to process {self._pid}, from which this one was forked; "
                "make a client in each process",
                target=self.target,
            )

    def _infer(
        self, codec: ModelCodec, x: Inputs, wanted: Wanted, deadline: float | None
    ) -> Steps[Prediction]:
        start = time.perf_counter_ns()
        given = codec.read(x, wanted.missing)
        size = self._rows_per_call(codec, given, wanted)
        if size is not None and size < rows_in(given):
            return (yield from self._infer_pieces(codec, given, size, wanted, deadline))
        request = codec.write(
            given,
            wanted.outputs,
            timing=wanted.timing,
            content=wanted.content,
            explain=wanted.explain,
            explain_steps=wanted.explain_steps,
        )
        if not wanted.timing:
            reply = yield from self._exchange(INFER, request.data, deadline, codec.model)
            return codec.decode(reply, request)
        from forwardpass.client.timing import Timing

        sent = time.perf_counter_ns()
        reply, trailers = yield from self._exchange(
            INFER, request.data, deadline, codec.model, trailers=True
        )
        received = time.perf_counter_ns()
        prediction = codec.decode(reply, request)
        client_ns = time.perf_counter_ns() - received + sent - start
        try:
            timing = Timing.of(client_ns=client_ns, call_ns=received - sent, trailers=trailers)
        except ValueError as error:
            raise ProtocolError(str(error), target=self.target, model=codec.model) from error
        return replace(prediction, timing=timing)

    def _settle(
        self,
        codec: ModelCodec,
        answer: Answer,
        x: Inputs,
        wanted: Wanted,
        deadline: float | None,
    ) -> Steps[Prediction]:
        """Return the outputs for x of a version that answered a request of another's codec.

        It may take the same features in another order, and name its outputs' columns otherwise:
        the answer is used if the request to this version would have the same bytes.
        """
        fresh = yield from self._codecs.answering(codec, answer.version, deadline)
        if self._uncut(fresh.asked_as(codec.version, answer.version), x, wanted) == answer.request:
            return fresh.decode(answer.reply, answer.request)
        return (yield from of_replicas(lambda: self._infer(fresh, x, wanted, deadline)))

    def _uncut(self, codec: ModelCodec, x: Inputs, wanted: Wanted) -> Request | None:
        """Return the request for x; None if it is cut or timed: the answer cannot be used then."""
        given = codec.read(x, wanted.missing)
        size = self._rows_per_call(codec, given, wanted)
        if wanted.timing or (size is not None and size < rows_in(given)):
            return None
        return codec.write(
            given,
            wanted.outputs,
            content=wanted.content,
            explain=wanted.explain,
            explain_steps=wanted.explain_steps,
        )

    def _infer_pieces(
        self,
        codec: ModelCodec,
        given: Given,
        size: int,
        wanted: Wanted,
        deadline: float | None,
    ) -> Steps[Prediction]:
        from forwardpass.client._conversation.progress import reporting

        rows = rows_in(given)

        def piece(start: int, stop: int, version: str) -> Steps[Prediction]:
            request = codec.write(
                cut(given, start, stop),
                wanted.outputs,
                version=version,
                content=wanted.content or codec.content,
                explain=wanted.explain,
                explain_steps=wanted.explain_steps,
            )
            reply = yield from self._exchange(INFER, request.data, deadline, codec.model)
            return codec.decode(reply, request)

        with reporting(wanted.progress, codec.model) as report:
            joined = Joined(rows, size, report)
            try:
                # Even if another is served by then, all pieces go to the version of the first;
                # and if that is published again meanwhile, the call begins anew.
                first = yield from piece(0, size, "")
                joined.add(first)
                others = (
                    of_replicas(partial(piece, start, stop, first.version))
                    for start, stop in pieces(rows, size, size)
                )
                yield Window(others, PIECES_IN_FLIGHT, joined.add)
            except TensorError as error:
                raise ProtocolError(str(error), target=self.target, model=codec.model) from error
        return joined.prediction()

    def _rows_per_call(self, codec: ModelCodec, given: Given, wanted: Wanted) -> int | None:
        """Return the maximum rows of a call; None for any number."""
        asked = wanted.rows_per_call
        if asked is None:
            limit, size = self._max_message_bytes, codec.row_bytes
            if size is not None and wanted.explain:
                # Its answer has a number for each feature, and the error, as well.
                size += size + 4
            if limit is None or size is None or size * rows_in(given) <= limit:
                return None
            return max(1, limit // size) if has_rows(codec.spec, given) else None
        if asked < 1 or not has_rows(codec.spec, given):
            raise InvalidInputError(
                f"model {codec.model!r}, rows_per_call: expected 1 or more, for inputs with as "
                f"many rows each and a model that answers rows, got {asked}; leave it out",
                target=self.target,
                model=codec.model,
            )
        return asked

    def _fetch(
        self,
        model: str,
        version: str,
        deadline: float | None,
        stale: ModelCodec | None = None,
    ) -> Steps[ModelCodec]:
        check_texts(self.target, model=model, version=version)
        # Before the lock, which may be locked forever in a forked process.
        self.check_usable()
        return self._codecs.fetch(model, version, deadline, stale)

    def _spec(self, model: str, version: str, deadline: float | None) -> Steps[ModelSpec]:
        request = pb.ModelMetadataRequest(name=model, version=version)
        reply = yield from self._ask(
            "ModelMetadata", request, pb.ModelMetadataResponse, deadline, model
        )
        return ModelSpec.from_message(reply)

    def _ask(
        self,
        method: str,
        request: Message,
        reply: type[M],
        deadline: float | None,
        model: str = "",
    ) -> Steps[M]:
        data = yield from self._exchange(method, request.SerializeToString(), deadline, model)
        return parse(reply, data, target=self.target, model=model)

    def _exchange(
        self,
        method: str,
        data: bytes,
        deadline: float | None,
        model: str,
        *,
        trailers: bool = False,
    ) -> Steps[Any]:
        """Call until there is a reply or the retry policy ends it."""
        attempt = 1
        while True:
            self.check_usable()
            metadata = self._metadata + trace_metadata()
            try:
                reply = yield Send(
                    method, data, remaining(deadline), model, metadata or None, trailers
                )
            except ClientError as error:
                pause_s = self._retrier.pause_s(attempt, error, remaining(deadline))
                if pause_s is None:
                    if attempt > 1:
                        error.add_note(f"after {attempt} calls")
                    raise
            else:
                self._retrier.succeeded()
                return reply
            yield Sleep(pause_s)
            attempt += 1

    def _deadline(self, timeout_s: float | EllipsisType | None = ...) -> float | None:
        if isinstance(timeout_s, EllipsisType):
            timeout_s = self._timeout_s
        return None if timeout_s is None else time.monotonic() + min(timeout_s, LONGEST_S)
