"""Real certificates for tests: authorities, servers, clients, good ones and bad ones."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from pathlib import Path
from typing import Self

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID

HERE: Sequence[x509.GeneralName] = (
    x509.DNSName("localhost"),
    x509.IPAddress(ip_address("127.0.0.1")),
)


@dataclass(frozen=True)
class Identity:
    """A certificate and its key."""

    certificate: x509.Certificate
    key: ec.EllipticCurvePrivateKey

    @classmethod
    def make(
        cls,
        name: str,
        issuer: Self | None = None,
        *,
        names: Sequence[x509.GeneralName] = HERE,
        valid_h: tuple[float, float] = (-1.0, 1.0),
    ) -> Self:
        """Make a certificate of the issuer or, without one, an authority.

        names: subject alternative names; none for a certificate without them.
        valid_h: begin and end of its validity, in hours from now.
        """
        key = ec.generate_private_key(ec.SECP256R1())
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        now = datetime.now(UTC)
        builder = (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(subject if issuer is None else issuer.certificate.subject)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now + timedelta(hours=valid_h[0]))
            .not_valid_after(now + timedelta(hours=valid_h[1]))
            .add_extension(
                x509.BasicConstraints(ca=issuer is None, path_length=None), critical=True
            )
        )
        if names:
            builder = builder.add_extension(x509.SubjectAlternativeName(names), critical=False)
        signed = builder.sign(key if issuer is None else issuer.key, hashes.SHA256())
        return cls(signed, key)

    @property
    def chain_pem(self) -> bytes:
        return self.certificate.public_bytes(Encoding.PEM)

    @property
    def key_pem(self) -> bytes:
        return self.key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())

    def write(self, folder: Path, name: str = "") -> tuple[Path, Path]:
        """Write `NAMEcert.pem` and `NAMEkey.pem`, each as a whole."""
        return (
            _replace(folder / f"{name}cert.pem", self.chain_pem),
            _replace(folder / f"{name}key.pem", self.key_pem),
        )


def write_self_signed(folder: Path, name: str = "") -> tuple[Path, Path]:
    """Write `NAMEcert.pem` and `NAMEkey.pem`; a client that trusts the first trusts the server."""
    return Identity.make(f"{name}test").write(folder, name)


def _replace(file: Path, content: bytes) -> Path:
    fresh = file.with_name(f".{file.name}")
    fresh.write_bytes(content)
    return fresh.replace(file)
