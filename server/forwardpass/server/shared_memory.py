"""The RPCs about system shared memory: register, unregister, status."""

from forwardpass.proto import inference_pb2 as pb
from forwardpass.server.caller import Action
from forwardpass.server.regions import Regions
from forwardpass.server.rpc import Extension, rpc


def shared_memory(regions: Regions) -> Extension:
    """Offer the RPCs on regions, which refuse where the operator does not allow them."""

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
