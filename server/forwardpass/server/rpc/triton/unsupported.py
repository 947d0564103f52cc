"""RPCs of Triton's that this server answers UNIMPLEMENTED, each with what to use instead."""

from typing import NoReturn

from google.protobuf.message import Message

from forwardpass.proto import inference_pb2 as pb
from forwardpass.server.errors import UnsupportedError
from forwardpass.server.rpc.method import Extension, Rpc, rpc

_NO_TRACES = (
    "traces are not kept; send parameter 'forwardpass_timing' with a request and read its times "
    "from the trailer 'forwardpass-timing', or ask ModelStatistics"
)


def unsupported() -> Extension:
    """Reject each of these RPCs, with a text that names what to use instead."""
    return Extension(
        rpcs={"TraceSetting": _refuse(pb.TraceSettingRequest, _NO_TRACES)},
    )


def _refuse(request_type: type[Message], why: str) -> Rpc:
    def answer(_: Message) -> NoReturn:
        raise UnsupportedError(why)

    return rpc(request_type, answer, needs=None)
