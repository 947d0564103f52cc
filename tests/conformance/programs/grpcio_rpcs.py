"""A stub that grpcio-tools makes of our inference.proto, and grpcio's own health and reflection.

See report.py.
"""

import importlib
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from queue import SimpleQueue
from tempfile import TemporaryDirectory
from threading import Thread
from types import ModuleType
from typing import Any

import grpc
import numpy as np
from google.protobuf import descriptor_pool, message_factory
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import (
    ProtoReflectionDescriptorDatabase,
)
from grpc_tools import protoc
from report import Report
from six_rpcs import SixRpcs, joined

SERVICE = "inference.GRPCInferenceService"
SERVING = health_pb2.HealthCheckResponse.SERVING
NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING


def generated(proto: Path) -> tuple[ModuleType, ModuleType]:
    """Generate the messages and the stub of a .proto file, and import them."""
    with TemporaryDirectory() as folder:
        options = [f"-I{proto.parent}", f"--python_out={folder}", f"--grpc_python_out={folder}"]
        assert protoc.main(["protoc", *options, str(proto)]) == 0
        sys.path.insert(0, folder)
        try:
            pb, services = (
                importlib.import_module(f"{proto.stem}_{part}") for part in ("pb2", "pb2_grpc")
            )
            return pb, services
        finally:
            sys.path.remove(folder)


def beyond(report: Report, pb: ModuleType, stub: Any, six: SixRpcs) -> None:
    """Ask what Triton's clients ask besides the six RPCs."""
    row, model = report.row, report.model
    with row("ModelStreamInfer"):
        requests = [six.request(one[np.newaxis], id=str(i)) for i, one in enumerate(report.x)]
        parts: list[dict[str, np.ndarray]] = []
        for answer in stub.ModelStreamInfer(iter(requests)):
            assert not answer.error_message
            assert answer.infer_response.id == str(len(parts))
            parts.append(six.outputs(answer.infer_response))
        report.predicted("stream", joined(parts))
    with row("ModelConfig"):
        config = stub.ModelConfig(pb.ModelConfigRequest(name=model)).config
        assert config.input[0].data_type == pb.TYPE_FP32
    with row("ModelStatistics"):
        (told,) = stub.ModelStatistics(pb.ModelStatisticsRequest(name=model)).model_stats
        assert told.inference_count >= len(report.x)
    with row("RepositoryIndex"):
        index = stub.RepositoryIndex(pb.RepositoryIndexRequest()).models
        assert {entry.name: entry.state for entry in index}[model] == "READY"
    with row("LogSettings"):
        assert "log_verbose_level" in stub.LogSettings(pb.LogSettingsRequest()).settings
    with row("CudaSharedMemoryStatus"):
        assert not stub.CudaSharedMemoryStatus(pb.CudaSharedMemoryStatusRequest()).regions
    with row("CudaSharedMemoryUnregister"):
        stub.CudaSharedMemoryUnregister(pb.CudaSharedMemoryUnregisterRequest())
    request = pb.TraceSettingRequest()
    report.refused("TraceSetting", "UNIMPLEMENTED", partial(code, stub.TraceSetting, request))


def code(call: Callable[[Any], object], request: Any) -> str:
    try:
        call(request)
    except grpc.RpcError as error:
        return str(error.code().name)
    return "OK"


def health(
    report: Report, channel: grpc.Channel, unload: Callable[[], None], load: Callable[[], None]
) -> None:
    """Ask for the health of the server and of a model that goes and comes back."""
    stub: Any = health_pb2_grpc.HealthStub(channel)  # whose types know no method

    def check(name: str) -> int:
        return int(stub.Check(health_pb2.HealthCheckRequest(service=name), timeout=20).status)

    with report.row("Health: Check"):
        assert check("") == check(report.model) == SERVING
        try:
            check("no such model")
        except grpc.RpcError as error:
            assert error.code() is grpc.StatusCode.NOT_FOUND, error.code()
        else:
            raise AssertionError("the health of nothing was told")
    with report.row("Health: List"):
        messages: Any = health_pb2  # whose types know nothing of List
        statuses = stub.List(messages.HealthListRequest(), timeout=20).statuses
        assert statuses[""].status == statuses[report.model].status == SERVING
    with report.row("Health: Watch"):
        told: SimpleQueue[int] = SimpleQueue()
        stream = stub.Watch(health_pb2.HealthCheckRequest(service=report.model))

        def read() -> None:
            try:
                for reply in stream:
                    told.put(reply.status)
            except grpc.RpcError as error:
                assert error.code() is grpc.StatusCode.CANCELLED, error.code()

        reader = Thread(target=read)
        reader.start()
        try:
            assert told.get(timeout=20) == SERVING
            unload()
            assert told.get(timeout=20) == NOT_SERVING
            load()
            assert told.get(timeout=20) == SERVING
        finally:
            stream.cancel()
            reader.join()


def reflection(report: Report, channel: grpc.Channel) -> None:
    """Call with messages that reflection tells."""
    with report.row("Reflection v1alpha"):
        database = ProtoReflectionDescriptorDatabase(channel)
        assert {SERVICE, "grpc.health.v1.Health"} <= set(database.get_services())
        service = descriptor_pool.DescriptorPool(database).FindServiceByName(SERVICE)
        method = service.methods_by_name["ModelReady"]
        request_type = message_factory.GetMessageClass(method.input_type)
        reply_type = message_factory.GetMessageClass(method.output_type)
        ready = channel.unary_unary(
            f"/{SERVICE}/ModelReady",
            request_serializer=request_type.SerializeToString,
            response_deserializer=reply_type.FromString,
        )
        reply: Any = ready(request_type(name=report.model))
        assert reply.ready


def main() -> None:
    with Report("grpcio") as report, grpc.insecure_channel(report.target) as channel:
        pb, services = generated(Path(report.task["proto"]))
        stub = services.GRPCInferenceServiceStub(channel)
        six = SixRpcs(report, pb, stub, grpc.Compression.Gzip)
        six.try_all()
        beyond(report, pb, stub, six)

        def unload() -> None:
            with report.row("RepositoryModelUnload"):
                stub.RepositoryModelUnload(pb.RepositoryModelUnloadRequest(model_name=report.model))

        def load() -> None:
            with report.row("RepositoryModelLoad"):
                stub.RepositoryModelLoad(pb.RepositoryModelLoadRequest(model_name=report.model))

        health(report, channel, unload, load)
        reflection(report, channel)


main()
