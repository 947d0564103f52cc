"""Encrypted connections, with certificates made for these tests."""

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from pathlib import Path
from types import SimpleNamespace

import grpc
import pytest
from client.conftest import OipServer
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
)
from cryptography.x509.oid import NameOID
from support.clients import AnyClient

from forwardpass.client import ServerUnavailableError


class Authority:
    """A certificate authority that writes PEM files."""

    def __init__(self, folder: Path, name: str) -> None:
        self._folder = folder
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        certificate = (
            self._builder(self._name, self._key)
            .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
            .sign(self._key, hashes.SHA256())
        )
        self.file = folder / f"{name}.pem"
        self.file.write_bytes(certificate.public_bytes(Encoding.PEM))

    def issue(self, name: str, *hosts: x509.GeneralName) -> tuple[Path, Path]:
        """Return the files of a certificate for hosts and of its key."""
        key = ec.generate_private_key(ec.SECP256R1())
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        builder = self._builder(subject, key)
        if hosts:
            builder = builder.add_extension(x509.SubjectAlternativeName(hosts), critical=False)
        certificate = builder.sign(self._key, hashes.SHA256())
        files = self._folder / f"{name}.pem", self._folder / f"{name}.key"
        files[0].write_bytes(certificate.public_bytes(Encoding.PEM))
        files[1].write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
        return files

    def _builder(self, subject: x509.Name, key: ec.EllipticCurvePrivateKey):
        now = datetime.now(UTC)
        return (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(self._name)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - timedelta(hours=1))
            .not_valid_after(now + timedelta(hours=1))
        )


@pytest.fixture(scope="module")
def pki(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pki")
    ours, others = Authority(folder, "ours"), Authority(folder, "others")
    return SimpleNamespace(
        ca=ours.file,
        other_ca=others.file,
        server=ours.issue(
            "server", x509.DNSName("localhost"), x509.IPAddress(ip_address("127.0.0.1"))
        ),
        elsewhere=ours.issue("elsewhere", x509.DNSName("elsewhere.example")),
        client=ours.issue("client"),
        stranger=others.issue("stranger"),
    )


@pytest.fixture
def serve(pki):
    """Return a function that starts a server with TLS and returns its target."""
    started = []

    def start(oip, pair, *, client_ca=None):
        certificate, key = (file.read_bytes() for file in pair)
        credentials = grpc.ssl_server_credentials(
            [(key, certificate)],
            root_certificates=None if client_ca is None else client_ca.read_bytes(),
            require_client_auth=client_ca is not None,
        )
        started.append(oip.start(credentials))
        return oip.target

    yield start
    for running in started:
        running.stop(None).wait()


def test_a_server_of_a_trusted_authority_is_called(
    make_server, serve, pki, connect: Callable[..., AnyClient]
) -> None:
    target = serve(make_server(), pki.server)
    with connect(target, retry=None, tls=True, ca_file=pki.ca) as client:
        assert client.predict("net", [1, 2, 3])["total"] == 6


def test_a_server_of_another_authority_is_refused(
    make_server, serve, pki, connect: Callable[..., AnyClient]
) -> None:
    target = serve(make_server(), pki.server)
    with (
        connect(target, retry=None, tls=True, ca_file=pki.other_ca) as client,
        pytest.raises(ServerUnavailableError, match=r"(?i)certificate"),
    ):
        client.live()


def test_a_private_authority_is_not_among_the_public_ones(
    make_server, serve, pki, connect: Callable[..., AnyClient]
) -> None:
    target = serve(make_server(), pki.server)
    with connect(target, retry=None, tls=True) as client, pytest.raises(ServerUnavailableError):
        client.live()


OTHER_HOST = "Hostname Verification"


def test_a_server_of_another_host_name_is_refused(
    make_server, serve, pki, connect: Callable[..., AnyClient]
) -> None:
    target = serve(make_server(), pki.elsewhere)
    with (
        connect(target, retry=None, tls=True, ca_file=pki.ca) as client,
        pytest.raises(ServerUnavailableError, match=OTHER_HOST),
    ):
        client.live()


def test_plain_text_to_a_server_with_tls_is_refused(
    make_server, serve, pki, connect: Callable[..., AnyClient]
) -> None:
    target = serve(make_server(), pki.server)
    with connect(target, retry=None) as client, pytest.raises(ServerUnavailableError):
        client.live()


def test_tls_to_a_server_in_plain_text_is_refused(
    server: OipServer, pki, connect: Callable[..., AnyClient]
) -> None:
    with (
        connect(server.target, retry=None, tls=True, ca_file=pki.ca) as client,
        pytest.raises(ServerUnavailableError, match="both use TLS or neither"),
    ):
        client.live()


def test_mutual_tls_takes_a_client_with_a_certificate(
    make_server, serve, pki, connect: Callable[..., AnyClient]
) -> None:
    target = serve(make_server(), pki.server, client_ca=pki.ca)
    certificate, key = pki.client
    with connect(
        target, tls=True, ca_file=pki.ca, cert_file=certificate, key_file=str(key)
    ) as client:
        assert client.predict("net", [1, 2, 3])["total"] == 6


@pytest.mark.parametrize("who", [None, "stranger"])
def test_mutual_tls_refuses_a_client_that_it_does_not_trust(
    make_server, serve, pki, who, connect: Callable[..., AnyClient]
) -> None:
    target = serve(make_server(), pki.server, client_ca=pki.ca)
    certificate, key = getattr(pki, who) if who else (None, None)
    with (
        connect(
            target, retry=None, tls=True, ca_file=pki.ca, cert_file=certificate, key_file=key
        ) as client,
        pytest.raises(ServerUnavailableError),
    ):
        client.live()
