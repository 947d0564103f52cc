"""The RPCs about shared memory, the system's and CUDA's: register, unregister, status."""

from typing import NoReturn

from forwardpass.proto import inference_pb2 as pb
from forwardpass.proto.spec import quote
from forwardpass.server.access.caller import Action
from forwardpass.server.errors import InvalidRequestError, RegionNotFoundError
from forwardpass.server.rpc.method import Extension, rpc
from forwardpass.server.rpc.regions import Regions


def shared_memory(regions: Regions) -> Extension:
    """Offer the RPCs on regions, which are rejected unless the operator allows shared memory."""

    def status(
        request: pb.SystemSharedMemoryStatusRequest,
    ) -> pb.SystemSharedMemoryStatusResponse:
        return pb.SystemSharedMemoryStatusResponse(
            regions={
                region.name: pb.SystemSharedMemoryStatusResponse.RegionStatus(
                    name=region.name,
                    key=region.key,
                    offset=region.offset,
                    byte_size=region.byte_size,
                )
                for region in regions.status(request.name)
            }
        )

    def register(
        request: pb.SystemSharedMemoryRegisterRequest,
    ) -> pb.SystemSharedMemoryRegisterResponse:
        regions.register(request.name, request.key, request.offset, request.byte_size)
        return pb.SystemSharedMemoryRegisterResponse()

    def unregister(
        request: pb.SystemSharedMemoryUnregisterRequest,
    ) -> pb.SystemSharedMemoryUnregisterResponse:
        regions.unregister(request.name)
        return pb.SystemSharedMemoryUnregisterResponse()

    return Extension(
        names=["system_shared_memory"] if regions.allowed else [],
        rpcs={
            "SystemSharedMemoryStatus": rpc(
                pb.SystemSharedMemoryStatusRequest, status, needs=Action.READ
            ),
            "SystemSharedMemoryRegister": rpc(
                pb.SystemSharedMemoryRegisterRequest, register, needs=Action.CONTROL
            ),
            "SystemSharedMemoryUnregister": rpc(
                pb.SystemSharedMemoryUnregisterRequest, unregister, needs=Action.CONTROL
            ),
        },
    )


def cuda_shared_memory() -> Extension:
    """Answer as a Triton without GPUs does: no region is registered, and none can be.

    Clients unregister all regions before they begin, those of CUDA among them.
    """

    def status(request: pb.CudaSharedMemoryStatusRequest) -> pb.CudaSharedMemoryStatusResponse:
        if request.name:
            raise RegionNotFoundError(request.name, ())
        return pb.CudaSharedMemoryStatusResponse()

    def register(request: pb.CudaSharedMemoryRegisterRequest) -> NoReturn:
        raise InvalidRequestError(
            "name",
            "expected no CUDA shared memory, since models run on CPUs, got region "
            f"{quote(request.name)}; send the tensor itself, or use system shared memory",
        )

    def unregister(
        _: pb.CudaSharedMemoryUnregisterRequest,
    ) -> pb.CudaSharedMemoryUnregisterResponse:
        return pb.CudaSharedMemoryUnregisterResponse()

    return Extension(
        rpcs={
            "CudaSharedMemoryStatus": rpc(
                pb.CudaSharedMemoryStatusRequest, status, needs=Action.READ
            ),
            "CudaSharedMemoryRegister": rpc(
                pb.CudaSharedMemoryRegisterRequest, register, needs=Action.CONTROL
            ),
            "CudaSharedMemoryUnregister": rpc(
                pb.CudaSharedMemoryUnregisterRequest, unregister, needs=Action.CONTROL
            ),
        }
    )
