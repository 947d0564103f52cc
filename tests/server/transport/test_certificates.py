"""A certificate that is replaced while the server runs."""

import logging
import shutil
import socket
import ssl
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    PrivateFormat,
)
from support import onnx_files
from support.certificates import Identity
from support.rpc import Stub
from support.served import GOOD, assert_answered

from forwardpass.server.app import Server
from forwardpass.server.config import Config
from forwardpass.server.transport import certificates
from forwardpass.server.transport.certificates import CertificateError, CertificateFiles

pytestmark = pytest.mark.usefixtures("transport")


@pytest.fixture
def authority() -> Identity:
    return Identity.make("authority")


@pytest.fixture(autouse=True)
def _look_at_every_handshake(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(certificates, "LOOK_S", 0.0)


@pytest.fixture
def server(tmp_path: Path, authority: Identity) -> Iterator[Server]:
    cert, key = Identity.make("first", authority).write(tmp_path)
    (tmp_path / "ca.pem").write_bytes(authority.chain_pem)
    onnx_files.save(onnx_files.linear(), tmp_path / "linear.onnx")
    config = Config(models=tmp_path / "linear.onnx", port=0, tls_cert=cert, tls_key=key)
    with Server(config) as server:
        yield server


def served(port: int, authority: Identity) -> str:
    """Connect, check the certificate, and return whose it is."""
    client = ssl.create_default_context(cadata=authority.chain_pem.decode())
    client.set_alpn_protocols(["h2"])
    with socket.create_connection(("127.0.0.1", port), timeout=20) as connection:
        with client.wrap_socket(connection, server_hostname="127.0.0.1") as encrypted:
            certificate = encrypted.getpeercert()
            assert certificate is not None
            subject: Any = certificate["subject"]
            return str(dict(part[0] for part in subject)["commonName"])


def test_a_new_certificate_is_for_the_next_connection(
    server: Server, tmp_path: Path, authority: Identity
) -> None:
    assert served(server.port, authority) == "first"
    with Stub(server.port, grpc.ssl_channel_credentials(authority.chain_pem)) as stub:
        assert_answered(stub, GOOD["linear"])

        Identity.make("second", authority).write(tmp_path)

        assert served(server.port, authority) == "second"
        # The connection that was open goes on.
        assert_answered(stub, GOOD["linear"])


def test_a_certificate_of_another_authority_may_follow(server: Server, tmp_path: Path) -> None:
    other = Identity.make("another authority")
    Identity.make("second", other).write(tmp_path)

    assert served(server.port, other) == "second"


def test_files_that_are_links_change_with_what_they_point_to(
    tmp_path: Path, authority: Identity
) -> None:
    # As Kubernetes mounts a secret: a link to a folder, replaced as a whole.
    for name in ("first", "second"):
        (tmp_path / name).mkdir()
        Identity.make(name, authority).write(tmp_path / name)
    (tmp_path / "data").symlink_to("first")
    files = CertificateFiles(tmp_path / "data/cert.pem", tmp_path / "data/key.pem")
    first = files.latest()

    (tmp_path / "next").symlink_to("second")
    (tmp_path / "next").replace(tmp_path / "data")

    assert files.latest().chain == (tmp_path / "second/cert.pem").read_bytes() != first.chain


def broken(kind: str, folder: Path, authority: Identity) -> None:
    good = Identity.make("second", authority)
    if kind == "garbage":
        (folder / "cert.pem").write_bytes(b"no certificate")
    elif kind == "empty":
        (folder / "key.pem").write_bytes(b"")
    elif kind == "missing":
        (folder / "cert.pem").unlink()
    elif kind == "half replaced":
        good.write(folder)
        shutil.copy(folder / "cert.pem", folder / "kept.pem")
        Identity.make("third", authority).write(folder)
        (folder / "kept.pem").replace(folder / "cert.pem")
    elif kind == "encrypted key":
        good.write(folder)
        secret = good.key.private_bytes(
            Encoding.PEM, PrivateFormat.PKCS8, BestAvailableEncryption(b"secret")
        )
        (folder / "key.pem").write_bytes(secret)
    elif kind == "expired":
        Identity.make("second", authority, valid_h=(-2.0, -1.0)).write(folder)
    elif kind == "not yet valid":
        Identity.make("second", authority, valid_h=(1.0, 2.0)).write(folder)


KINDS = ["garbage", "empty", "missing", "half replaced", "encrypted key", "expired"]
KINDS += ["not yet valid"]


@pytest.mark.parametrize("kind", KINDS)
def test_the_old_certificate_goes_on_where_the_new_one_is(
    server: Server,
    tmp_path: Path,
    authority: Identity,
    kind: str,
    caplog: pytest.LogCaptureFixture,
) -> None:
    broken(kind, tmp_path, authority)

    for _ in range(3):
        assert served(server.port, authority) == "first"

    (record,) = [each for each in caplog.records if each.levelno == logging.ERROR]
    assert "the old certificate stays in use" in record.getMessage()
    assert "cert.pem" in record.getMessage()

    Identity.make("mended", authority).write(tmp_path)
    assert served(server.port, authority) == "mended"


@pytest.mark.parametrize("kind", KINDS[:5])
def test_without_an_old_one_it_is_refused(tmp_path: Path, authority: Identity, kind: str) -> None:
    cert, key = Identity.make("first", authority).write(tmp_path)
    broken(kind, tmp_path, authority)

    with pytest.raises(CertificateError, match=r"cert\.pem"):
        CertificateFiles(cert, key)


def test_an_unchanged_certificate_stays_the_same_object(
    tmp_path: Path, authority: Identity
) -> None:
    files = CertificateFiles(*Identity.make("first", authority).write(tmp_path))

    assert files.latest() is files.latest()


def test_rotation_under_load_fails_no_call(
    server: Server, tmp_path: Path, authority: Identity
) -> None:
    credentials = grpc.ssl_channel_credentials(authority.chain_pem)
    end = threading.Event()
    calls: list[int] = []
    errors: list[BaseException] = []

    def call(*, connections: bool) -> None:
        answered = 0
        try:
            with Stub(server.port, credentials) as kept:
                while not end.is_set():
                    if connections:
                        with Stub(server.port, credentials) as fresh:
                            assert_answered(fresh, GOOD["linear"])
                    else:
                        assert_answered(kept, GOOD["linear"])
                    answered += 1
                    # At full speed they would take a core for themselves.
                    end.wait(0.02)
        except BaseException as error:
            errors.append(error)
        calls.append(answered)

    callers = [
        threading.Thread(target=call, kwargs={"connections": connections})
        for connections in (False, False, True, True)
    ]
    for caller in callers:
        caller.start()
    for number in range(20):
        Identity.make(f"rotated {number}", authority).write(tmp_path)
        time.sleep(0.1)
    end.set()
    for caller in callers:
        caller.join()

    assert errors == []
    assert all(calls)
    assert served(server.port, authority) == "rotated 19"


def test_the_authority_of_the_clients_is_replaced_too(tmp_path: Path, authority: Identity) -> None:
    cert, key = Identity.make("server", authority).write(tmp_path)
    ca = tmp_path / "ca.pem"
    others = [Identity.make("clients 1"), Identity.make("clients 2")]
    ca.write_bytes(others[0].chain_pem)
    onnx_files.save(onnx_files.linear(), tmp_path / "linear.onnx")
    config = Config(
        models=tmp_path / "linear.onnx", port=0, tls_cert=cert, tls_key=key, tls_client_ca=ca
    )

    def outcomes(port: int) -> list[grpc.StatusCode]:
        codes = []
        for other in others:
            client = Identity.make("client", other)
            credentials = grpc.ssl_channel_credentials(
                authority.chain_pem, client.key_pem, client.chain_pem
            )
            with Stub(port, credentials) as stub:
                codes.append(stub.outcome("ModelInfer", GOOD["linear"].request()))
        return codes

    with Server(config) as server:
        assert outcomes(server.port) == [grpc.StatusCode.OK, grpc.StatusCode.UNAVAILABLE]
        ca.write_bytes(others[1].chain_pem)
        assert outcomes(server.port) == [grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.OK]


def test_a_key_that_others_may_read_is_warned_of_at_the_start_and_when_it_is_read_again(
    tmp_path: Path, authority: Identity, caplog: pytest.LogCaptureFixture
) -> None:
    cert, key = Identity.make("first", authority).write(tmp_path)
    text = f"private key {key}: others may read or change it (mode 6"
    key.chmod(0o600)
    files = CertificateFiles(cert, key)
    assert text not in caplog.text

    Identity.make("second", authority).write(tmp_path)
    key.chmod(0o604)
    files.reread()
    assert f"{text}04)" in caplog.text

    key.chmod(0o602)
    CertificateFiles(cert, key)
    assert f"{text}02)" in caplog.text
