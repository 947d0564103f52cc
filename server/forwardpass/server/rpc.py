"""Unary RPCs but ModelInfer: a message in, a message out, and bytes at the edge."""

import logging
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import TypeVar

from google.protobuf.message import DecodeError, Message

from forwardpass.server.errors import InternalError, InvalidRequestError, ServingError

logger = logging.getLogger(__name__)

Rpc = Callable[[bytes], bytes]
"""Serialized request -> serialized reply; raises ServingError."""

_M = TypeVar("_M", bound=Message)


@dataclass(frozen=True, slots=True)
class Extension:
    """What a server can do beyond the six RPCs of the Open Inference Protocol."""

    names: Iterable[str] = ()
    """As ServerMetadata lists them; clients look there before they ask."""
    rpcs: Mapping[str, Rpc] = field(default_factory=dict)
    """By the method's name."""


def rpc(request_type: type[_M], answer: Callable[[_M], Message]) -> Rpc:
    """Make an RPC of a function of messages; what it raises unexpectedly is InternalError."""

    def call(message: bytes) -> bytes:
        try:
            return answer(parse(request_type, message)).SerializeToString()
        except ServingError:
            raise
        except Exception as error:
            logger.exception("unexpected error in %s", answer.__name__)
            raise InternalError from error

    return call


def parse(message_type: type[_M], message: bytes) -> _M:
    """Read a message; raises InvalidRequestError if the bytes are none."""
    try:
        return message_type.FromString(message)
    # protobuf in pure Python raises UnicodeDecodeError for text that is not UTF-8.
    except (DecodeError, UnicodeDecodeError) as error:
        raise InvalidRequestError(
            message_type.DESCRIPTOR.name, "expected this message, got bytes that do not parse as it"
        ) from error
