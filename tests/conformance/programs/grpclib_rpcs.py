"""grpclib: gRPC without any of grpcio, on asyncio and an HTTP/2 of Python.

Its plugin for protoc makes the stub from our inference.proto. See report.py.
"""

import asyncio
import importlib
import os
import sys
from collections.abc import Awaitable, Coroutine
from concurrent.futures import Future
from pathlib import Path
from tempfile import TemporaryDirectory
from threading import Thread
from types import ModuleType
from typing import Any

import numpy as np
from grpc_tools import protoc
from grpclib import GRPCError, Status
from grpclib.client import Channel
from grpclib.health.v1.health_grpc import HealthStub
from grpclib.health.v1.health_pb2 import HealthCheckRequest, HealthCheckResponse
from grpclib.reflection.v1.reflection_grpc import ServerReflectionStub
from grpclib.reflection.v1.reflection_pb2 import ServerReflectionRequest
from report import Report
from six_rpcs import SixRpcs, joined

SERVING = HealthCheckResponse.SERVING
NOT_SERVING = HealthCheckResponse.NOT_SERVING


class RefusedError(Exception):
    """A call that ended with a status code."""

    def code(self) -> Status:
        return self.args[0]


class Method:
    """A unary method that can be called without an event loop, as SixRpcs calls it."""

    def __init__(self, loop: asyncio.AbstractEventLoop, method: Any) -> None:
        self._loop = loop
        self._method = method

    def __call__(self, request: Any, timeout: float | None = None) -> Any:
        return self._submit(self._answer(request, timeout)).result(60)

    def future(self, request: Any) -> Future[Any]:
        return self._submit(self._answer(request, None))

    def _submit(self, answer: Coroutine[Any, Any, Any]) -> Future[Any]:
        return asyncio.run_coroutine_threadsafe(answer, self._loop)

    async def _answer(self, request: Any, timeout: float | None) -> Any:
        try:
            return await self._method(request, timeout=timeout)
        except GRPCError as error:
            raise RefusedError(error.status) from error
        except TimeoutError as error:
            raise RefusedError(Status.DEADLINE_EXCEEDED) from error


class Stub:
    """A stub of grpclib whose unary methods are Methods."""

    def __init__(self, loop: asyncio.AbstractEventLoop, stub: Any) -> None:
        self._loop = loop
        self._stub = stub

    def __getattr__(self, name: str) -> Method:
        return Method(self._loop, getattr(self._stub, name))


def generated(proto: Path) -> tuple[ModuleType, ModuleType]:
    """Generate the messages and the stub of a .proto file, and import them."""
    # The plugin lies beside Python, in an environment that is not activated.
    os.environ["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    with TemporaryDirectory() as folder:
        options = [f"-I{proto.parent}", f"--python_out={folder}", f"--grpclib_python_out={folder}"]
        assert protoc.main(["protoc", *options, str(proto)]) == 0
        sys.path.insert(0, folder)
        try:
            messages, services = (
                importlib.import_module(f"{proto.stem}_{part}") for part in ("pb2", "grpc")
            )
        finally:
            sys.path.remove(folder)
    return messages, services


async def beyond(report: Report, channel: Channel, stub: Any, pb: Any, six: SixRpcs) -> None:
    """Stream, watch and reflect."""
    with report.row("ModelStreamInfer"):
        requests = [six.request(one[np.newaxis], id=str(i)) for i, one in enumerate(report.x)]
        answers = await stub.ModelStreamInfer(requests)
        assert [answer.infer_response.id for answer in answers] == [r.id for r in requests]
        report.predicted("stream", joined([six.outputs(a.infer_response) for a in answers]))
    health = HealthStub(channel)
    with report.row("Health: Check"):
        for name in ("", report.model):
            assert (await health.Check(HealthCheckRequest(service=name))).status == SERVING
        assert await status_of(health.Check(HealthCheckRequest(service="no"))) is Status.NOT_FOUND
    with report.row("Health: Watch", "RepositoryModelUnload", "RepositoryModelLoad"):
        async with health.Watch.open() as stream:
            await stream.send_message(HealthCheckRequest(service=report.model), end=True)
            assert (await stream.recv_message()).status == SERVING
            unload = pb.RepositoryModelUnloadRequest(model_name=report.model)
            await stub.RepositoryModelUnload(unload)
            assert (await stream.recv_message()).status == NOT_SERVING
            await stub.RepositoryModelLoad(pb.RepositoryModelLoadRequest(model_name=report.model))
            assert (await stream.recv_message()).status == SERVING
            await stream.cancel()
    with report.row("Reflection v1"):
        request = ServerReflectionRequest(list_services="")
        (listed,) = await ServerReflectionStub(channel).ServerReflectionInfo([request])
        services = {service.name for service in listed.list_services_response.service}
        assert {"inference.GRPCInferenceService", "grpc.health.v1.Health"} <= services


async def status_of(call: Awaitable[Any]) -> Status:
    try:
        await call
    except GRPCError as error:
        return error.status
    return Status.OK


async def connected(target: str) -> Channel:
    host, _, port = target.rpartition(":")
    return Channel(host, int(port))


def main() -> None:
    loop = asyncio.new_event_loop()
    Thread(target=loop.run_forever, daemon=True).start()

    def run(work: Coroutine[Any, Any, Any]) -> Any:
        return asyncio.run_coroutine_threadsafe(work, loop).result(120)

    with Report("grpclib") as report:
        pb, services = generated(Path(report.task["proto"]))
        channel = run(connected(report.target))
        stub = services.GRPCInferenceServiceStub(channel)
        six = SixRpcs(report, pb, Stub(loop, stub))
        six.try_all()
        run(beyond(report, channel, stub, pb, six))
        loop.call_soon_threadsafe(channel.close)


main()
