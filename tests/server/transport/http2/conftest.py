"""A server on asyncio that scripted peers talk to."""

import logging
from collections.abc import Iterator
from pathlib import Path

import pytest
from support import onnx_files
from support.peers.streams import MAX_STREAMS
from support.process import ServerProcess, server_process
from support.rpc import Stub
from support.served import GOOD, assert_answered
from support.transports import as_default

from forwardpass.server.app import Server
from forwardpass.server.config import Config, Transport


@pytest.fixture(scope="session")
def linear(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A repository of the model that the calls of `support.peers` ask for."""
    root = tmp_path_factory.mktemp("repository")
    onnx_files.save(onnx_files.linear(), root / "linear" / "1" / "model.onnx")
    return root


@pytest.fixture(scope="module")
def port(linear: Path) -> Iterator[int]:
    config = Config(
        models=linear,
        port=0,
        transport=Transport.ASYNCIO,
        max_calls_per_connection=MAX_STREAMS,
    )
    with Server(config) as server:
        yield server.port


@pytest.fixture(scope="module")
def bystander(port: int) -> Iterator[Stub]:
    """A client of its own connection, which nothing that others send may touch."""
    with Stub(port) as stub:
        yield stub


@pytest.fixture(scope="module")
def process(linear: Path) -> Iterator[ServerProcess]:
    """A server whose memory and CPU are its own."""
    with as_default(Transport.ASYNCIO), server_process(linear) as process:
        with Stub(process.port) as stub:
            assert_answered(stub, GOOD["linear"])
        yield process


@pytest.fixture(autouse=True)
def quiet(caplog: pytest.LogCaptureFixture) -> Iterator[None]:
    """Nothing that a client sends is an error of the server's."""
    yield
    assert not [record for record in caplog.records if record.levelno >= logging.ERROR]
