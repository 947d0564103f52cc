"""TLS, and certificates asked of the clients."""

import socket
import ssl
import tempfile
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest
from cryptography.x509 import DNSName
from support import onnx_files
from support.certificates import Identity
from support.rpc import Stub
from support.served import GOOD, assert_answered

from forwardpass.server.app import Server
from forwardpass.server.config import Config, Transport
from forwardpass.server.transport.listening import ListenError

pytestmark = pytest.mark.usefixtures("transport")


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
def one_way(files: Path, transport: Transport) -> Iterator[int]:
    with Server(config(files)) as server:
        yield server.port


@pytest.fixture(scope="module")
def mutual(files: Path, transport: Transport) -> Iterator[int]:
    with Server(config(files, tls_client_ca=files / "ca.pem")) as server:
        yield server.port


def code_for(port: int, credentials: grpc.ChannelCredentials | None) -> grpc.StatusCode:
    with Stub(port, credentials) as stub:
        return stub.refusal("ModelInfer", GOOD["linear"].request()).code


def test_tls_answers_who_trusts_its_authority(one_way: int, authority: Identity) -> None:
    with Stub(one_way, grpc.ssl_channel_credentials(authority.chain_pem)) as stub:
        assert_answered(stub, GOOD["linear"])


def test_tls_needs_no_folder_to_write_to(
    files: Path, authority: Identity, monkeypatch: pytest.MonkeyPatch
) -> None:
    # As in a container whose root is read-only.
    monkeypatch.setattr(tempfile, "tempdir", "/nowhere/at/all")
    with Server(config(files)) as server:
        test_tls_answers_who_trusts_its_authority(server.port, authority)


def test_tls_answers_nobody_else(one_way: int) -> None:
    stranger = grpc.ssl_channel_credentials(Identity.make("stranger").chain_pem)

    assert code_for(one_way, None) is grpc.StatusCode.UNAVAILABLE
    assert code_for(one_way, stranger) is grpc.StatusCode.UNAVAILABLE


@pytest.mark.parametrize(
    ("server", "trusted"),
    [
        ({"valid_h": (-2.0, -1.0)}, True),
        ({"valid_h": (1.0, 2.0)}, True),
        ({"names": [DNSName("elsewhere.example.org")]}, True),
        ({}, False),
    ],
    ids=["expired", "not yet valid", "of another host", "of another authority"],
)
def test_clients_refuse_a_certificate_that_is(
    files: Path, tmp_path: Path, authority: Identity, server: dict[str, Any], trusted: bool
) -> None:
    issuer = authority if trusted else Identity.make("authority")
    cert, key = Identity.make("server", issuer, **server).write(tmp_path)

    with Server(config(files, tls_cert=cert, tls_key=key)) as bad:
        credentials = grpc.ssl_channel_credentials(authority.chain_pem)
        assert code_for(bad.port, credentials) is grpc.StatusCode.UNAVAILABLE


def test_a_certificate_that_clients_refuse_is_logged_at_the_start(
    files: Path, tmp_path: Path, authority: Identity, caplog: pytest.LogCaptureFixture
) -> None:
    cert, key = Identity.make("server", authority, valid_h=(-2.0, -1.0)).write(tmp_path)

    with Server(config(files, tls_cert=cert, tls_key=key)):
        pass

    assert "certificate has expired" in caplog.text


def handshake(port: int, version: ssl.TLSVersion, authority: Identity) -> str | None:
    """Shake hands in one version of TLS alone; return the version agreed on."""
    client = ssl.create_default_context(cadata=authority.chain_pem.decode())
    client.set_alpn_protocols(["h2"])
    # OpenSSL's own scruples about old versions must not be what is tested.
    client.set_ciphers("ALL:@SECLEVEL=0")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        client.minimum_version = client.maximum_version = version
    with socket.create_connection(("127.0.0.1", port), timeout=20) as connection:
        with client.wrap_socket(connection, server_hostname="127.0.0.1") as encrypted:
            return encrypted.version()


@pytest.mark.parametrize("version", ["TLSv1", "TLSv1_1"])
def test_old_versions_of_tls_are_refused_by_the_server(
    one_way: int, authority: Identity, version: str
) -> None:
    with pytest.raises(ssl.SSLError) as raised:
        handshake(one_way, ssl.TLSVersion[version], authority)
    # grpcio closes the connection without a word; what else would be a reason of our own client.
    assert raised.value.reason in ("TLSV1_ALERT_PROTOCOL_VERSION", "UNEXPECTED_EOF_WHILE_READING")


@pytest.mark.parametrize("version", ["TLSv1_2", "TLSv1_3"])
def test_new_versions_of_tls_are_taken(one_way: int, authority: Identity, version: str) -> None:
    agreed = handshake(one_way, ssl.TLSVersion[version], authority)
    assert agreed == version.replace("_", ".")


def test_mutual_tls_refuses_a_clients_certificate_that_has_expired(
    mutual: int, authority: Identity
) -> None:
    client = Identity.make("client", authority, valid_h=(-2.0, -1.0))
    credentials = grpc.ssl_channel_credentials(
        authority.chain_pem, client.key_pem, client.chain_pem
    )

    assert code_for(mutual, credentials) is grpc.StatusCode.UNAVAILABLE


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
