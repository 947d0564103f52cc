"""TLS, and certificates asked of the clients."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest
from support import onnx_files
from support.certificates import Identity
from support.rpc import Stub
from support.served import GOOD, assert_answered

from forwardpass.server.app import Server
from forwardpass.server.config import Config
from forwardpass.server.transport.grpcio import ListenError


@pytest.fixture(scope="module")
def authority() -> Identity:
    return Identity.make("authority")


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory, authority: Identity) -> Path:
    root = tmp_path_factory.mktemp("tls")
    own = Identity.make("server", authority)
    (root / "cert.pem").write_bytes(own.chain_pem)
    (root / "key.pem").write_bytes(own.key_pem)
    (root / "ca.pem").write_bytes(authority.chain_pem)
    (root / "garbage.pem").write_bytes(b"no certificate")
    onnx_files.save(onnx_files.linear(), root / "linear.onnx")
    return root


def config(files: Path, **settings: Path) -> Config:
    pair: dict[str, Any] = {"tls_cert": files / "cert.pem", "tls_key": files / "key.pem"}
    return Config(models=files / "linear.onnx", port=0, **(pair | settings))


@pytest.fixture(scope="module")
def one_way(files: Path) -> Iterator[int]:
    with Server(config(files)) as server:
        yield server.port


@pytest.fixture(scope="module")
def mutual(files: Path) -> Iterator[int]:
    with Server(config(files, tls_client_ca=files / "ca.pem")) as server:
        yield server.port


def code_for(port: int, credentials: grpc.ChannelCredentials | None) -> grpc.StatusCode:
    with Stub(port, credentials) as stub:
        return stub.refusal("ModelInfer", GOOD["linear"].request()).code


def test_tls_answers_who_trusts_its_authority(one_way: int, authority: Identity) -> None:
    with Stub(one_way, grpc.ssl_channel_credentials(authority.chain_pem)) as stub:
        assert_answered(stub, GOOD["linear"])


def test_tls_answers_nobody_else(one_way: int) -> None:
    stranger = grpc.ssl_channel_credentials(Identity.make("stranger").chain_pem)

    assert code_for(one_way, None) is grpc.StatusCode.UNAVAILABLE
    assert code_for(one_way, stranger) is grpc.StatusCode.UNAVAILABLE


def test_mutual_tls_answers_clients_of_its_authority(mutual: int, authority: Identity) -> None:
    client = Identity.make("client", authority)
    credentials = grpc.ssl_channel_credentials(
        authority.chain_pem, client.key_pem, client.chain_pem
    )

    with Stub(mutual, credentials) as stub:
        assert_answered(stub, GOOD["linear"])


def test_mutual_tls_answers_nobody_else(mutual: int, authority: Identity) -> None:
    stranger = Identity.make("client", Identity.make("another authority"))
    anonymous = grpc.ssl_channel_credentials(authority.chain_pem)
    unknown = grpc.ssl_channel_credentials(
        authority.chain_pem, stranger.key_pem, stranger.chain_pem
    )

    assert code_for(mutual, anonymous) is grpc.StatusCode.UNAVAILABLE
    assert code_for(mutual, unknown) is grpc.StatusCode.UNAVAILABLE


@pytest.mark.parametrize("setting", ["tls_cert", "tls_key", "tls_client_ca"])
@pytest.mark.parametrize("file", ["missing.pem", "garbage.pem"])
def test_a_file_that_is_missing_or_no_certificate_is_refused_at_the_start(
    files: Path, setting: str, file: str
) -> None:
    with pytest.raises(ListenError, match=r"127\.0\.0\.1"):
        Server(config(files, **{setting: files / file}))
