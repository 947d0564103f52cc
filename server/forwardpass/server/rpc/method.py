"""Unary RPCs except ModelInfer: functions of messages, wrapped to take and return bytes."""

import logging
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import CancelledError, Future
from dataclasses import dataclass, field
from typing import NamedTuple, TypeVar

from google.protobuf.message import DecodeError, Message

from forwardpass.server.access.caller import Action, Caller
from forwardpass.server.errors import (
    CallCancelledError,
    InternalError,
    InvalidRequestError,
    ModelNotFoundError,
    NamesTooLargeError,
    ServingError,
)

logger = logging.getLogger(__name__)

NAMES_BYTES = 2**16
"""Maximum size of every request but ModelInfer's, in bytes: they only have names and settings,
and whatever is made of them takes 40 times as much at most. Files are not taken."""


class Pending(NamedTuple):
    """A reply that is valid once something is done."""

    done: "Future[None]"
    """Cancelled when the caller goes away."""
    reply: Message


class Later:
    """A serialized reply that comes later; no thread has to wait for it."""

    def __init__(self, waiting: Pending, seen: Callable[[Exception], ServingError]) -> None:
        """Prepare; seen: makes the error for the caller."""
        self.done = waiting.done
        """Done, or cancelled, when `result` has an answer."""
        self._reply = waiting.reply
        self._seen = seen

    def result(self) -> bytes:
        """Wait for the answer and return it; raises ServingError."""
        try:
            self.done.result()
        except CancelledError:
            raise CallCancelledError("") from None
        except Exception as error:
            raise self._seen(error) from None
        return self._reply.SerializeToString()


class Rpc(NamedTuple):
    """One RPC of the server."""

    answer: Callable[[bytes, Caller], bytes | Later]
    """Serialized request, caller -> serialized reply; raises ServingError."""
    open: bool = False
    """Whether it answers everyone, without authentication."""
    waits: bool = False
    """Whether the reply may come `Later`."""
    too_large: Callable[[int, int], ServingError] = NamesTooLargeError
    """Makes the error for a message above `max_bytes`, of its size and that."""
    max_bytes: int = NAMES_BYTES
    """Maximum size of a message, in bytes."""


_M = TypeVar("_M", bound=Message)


@dataclass(frozen=True, slots=True)
class Extension:
    """An addition to the six RPCs of the Open Inference Protocol."""

    names: Iterable[str] = ()
    """Names of the extension in ServerMetadata, for clients."""
    rpcs: Mapping[str, Rpc] = field(default_factory=dict)
    """Added RPCs, by name of the method."""


def rpc(
    request_type: type[_M],
    answer: Callable[[_M], Message],
    *,
    needs: Action | None,
    model: str | None = None,
) -> Rpc:
    """Make an RPC of a function of messages.

    needs: Action that the caller needs permission for; None: any authenticated caller may call.
    model: Field of the request with the model's name; None: it concerns the server as a whole.
    """

    def permitted(request: _M, caller: Caller) -> Message:
        if needs is not None:
            caller.check(needs, None if model is None else getattr(request, model))
        return answer(request)

    return rpc_for_caller(request_type, permitted)


def open_rpc(request_type: type[_M], answer: Callable[[_M], Message]) -> Rpc:
    """Make an RPC without authentication of a function of messages."""
    return Rpc(rpc(request_type, answer, needs=None).answer, open=True)


def rpc_for_caller(
    request_type: type[_M],
    answer: Callable[[_M, Caller], Message | Pending],
    *,
    waits: bool = False,
    too_large: Callable[[int, int], ServingError] = NamesTooLargeError,
) -> Rpc:
    """Make an RPC of a function that checks the caller's permissions itself.

    waits: Whether the function returns Pending. too_large: `Rpc.too_large`. Unexpected errors
    become InternalError.
    """

    def call(message: bytes, caller: Caller) -> bytes | Later:
        def seen(error: Exception) -> ServingError:
            return as_seen(error, caller, request_type.DESCRIPTOR.name)

        try:
            found = answer(parse(request_type, message), caller)
            return Later(found, seen) if isinstance(found, Pending) else found.SerializeToString()
        except Exception as error:
            # Not `from error`, which may be the same: it would keep itself alive.
            raise seen(error) from None

    return Rpc(call, waits=waits, too_large=too_large)


def as_seen(error: Exception, caller: Caller, what: str) -> ServingError:
    """Return the error that a caller receives; an unexpected one is logged with what it asked."""
    if isinstance(error, ModelNotFoundError):
        return error.as_seen(lambda name: caller.may(Action.READ, name))
    if isinstance(error, ServingError):
        return error
    logger.error("unexpected error in the answer to %s", what, exc_info=error)
    return InternalError()


def parse(message_type: type[_M], message: bytes | memoryview) -> _M:
    """Parse a message; raises InvalidRequestError for bytes that are not one."""
    try:
        return message_type.FromString(bytes(message))
    # Pure Python protobuf raises UnicodeDecodeError for text that is not UTF-8.
    except (DecodeError, UnicodeDecodeError) as error:
        raise malformed(message_type) from error


def malformed(message_type: type[Message]) -> InvalidRequestError:
    """Return the error for bytes that are not a message of a type."""
    return InvalidRequestError(
        message_type.DESCRIPTOR.name, "expected this message, got bytes that do not parse as it"
    )
