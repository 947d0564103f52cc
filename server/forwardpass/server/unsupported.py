"""RPCs of Triton's that this server answers UNIMPLEMENTED, each with what to use instead."""

from typing import NoReturn

from google.protobuf.message import Message

from forwardpass.proto import inference_pb2 as pb
from forwardpass.server.errors import UnsupportedError
from forwardpass.server.rpc import Extension, Rpc, rpc

_NO_CUDA = (
    "CUDA shared memory is not served, since models run on CPUs; send the tensor itself, or use "
    "system shared memory"
)
_NO_TRACES = (
    "traces are not kept; send parameter 'forwardpass_timing' with a request and read its times "
    "from the trailer 'forwardpass-timing', or ask ModelStatistics"
)


def unsupported() -> Extension:
    """Refuse, with a text that helps."""
    return Extension(
        rpcs={
            "CudaSharedMemoryStatus": _refuse(pb.CudaSharedMemoryStatusRequest, _NO_CUDA),
            "CudaSharedMemoryRegister": _refuse(pb.CudaSharedMemoryRegisterRequest, _NO_CUDA),
            "CudaSharedMemoryUnregister": _refuse(pb.CudaSharedMemoryUnregisterRequest, _NO_CUDA),
            "TraceSetting": _refuse(pb.TraceSettingRequest, _NO_TRACES),
        }
    )


def _refuse(request_type: type[Message], why: str) -> Rpc:
    def answer(_: Message) -> NoReturn:
        raise UnsupportedError(why)

    return rpc(request_type, answer, needs=None)
