"""Unary RPCs but ModelInfer: a message in, a message out, and bytes at the edge."""

import logging
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import TypeVar

from google.protobuf.message import DecodeError, Message

from forwardpass.server.caller import Action, Caller
from forwardpass.server.errors import (
    InternalError,
    InvalidRequestError,
    ModelNotFoundError,
    ServingError,
)

logger = logging.getLogger(__name__)

NAMES_BYTES = 2**16
"""Most of a request that has names alone: without tensors or files in it."""


@dataclass(frozen=True, slots=True)
class Rpc:
    """One RPC of the server."""

    answer: Callable[[bytes, Caller], bytes]
    """Serialized request, who sent it -> serialized reply; raises ServingError."""
    open: bool = False
    """Whether it answers everybody, so that nobody has to be asked who calls."""
    names_bytes: int | None = NAMES_BYTES
    """Most of a request, where it has names alone; None: as of any message."""


_M = TypeVar("_M", bound=Message)


@dataclass(frozen=True, slots=True)
class Extension:
    """What a server can do beyond the six RPCs of the Open Inference Protocol."""

    names: Iterable[str] = ()
    """As ServerMetadata lists them; clients look there before they ask."""
    rpcs: Mapping[str, Rpc] = field(default_factory=dict)
    """By the method's name."""


def rpc(
    request_type: type[_M],
    answer: Callable[[_M], Message],
    *,
    needs: Action | None,
    model: str | None = None,
) -> Rpc:
    """Make an RPC of a function of messages.

    needs: What a caller has to have permission for; None: any caller who is known may call it.
    model: The request's field that names the model; None: it is about the server as a whole.
    """

    def permitted(request: _M, caller: Caller) -> Message:
        if needs is not None:
            caller.check(needs, None if model is None else getattr(request, model))
        return answer(request)

    return rpc_for_caller(request_type, permitted)


def open_rpc(request_type: type[_M], answer: Callable[[_M], Message]) -> Rpc:
    """Make an RPC for everybody, known or not, of a function of messages."""
    return Rpc(rpc(request_type, answer, needs=None).answer, open=True)


def rpc_for_caller(
    request_type: type[_M],
    answer: Callable[[_M, Caller], Message],
    names_bytes: int | None = NAMES_BYTES,
) -> Rpc:
    """Make an RPC of a function that looks itself at what its caller may do.

    What it raises unexpectedly is InternalError.
    """

    def call(message: bytes, caller: Caller) -> bytes:
        try:
            return answer(parse(request_type, message), caller).SerializeToString()
        except ModelNotFoundError as error:
            raise error.as_seen(lambda name: caller.may(Action.READ, name)) from error
        except ServingError:
            raise
        except Exception as error:
            logger.exception("unexpected error in the answer to a %s", request_type.DESCRIPTOR.name)
            raise InternalError from error

    return Rpc(call, names_bytes=names_bytes)


def parse(message_type: type[_M], message: bytes | memoryview) -> _M:
    """Read a message; raises InvalidRequestError if the bytes are none."""
    try:
        return message_type.FromString(bytes(message))
    # protobuf in pure Python raises UnicodeDecodeError for text that is not UTF-8.
    except (DecodeError, UnicodeDecodeError) as error:
        raise InvalidRequestError(
            message_type.DESCRIPTOR.name, "expected this message, got bytes that do not parse as it"
        ) from error
