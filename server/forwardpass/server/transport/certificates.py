"""The server's certificate and key and its clients' CA: files that may be replaced at any time.

Both transports ask for the latest at every handshake; open connections keep what they have.
"""

import logging
import re
import ssl
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from threading import Lock
from time import monotonic
from typing import Self

from forwardpass.server.watched_files import exposure, signature

logger = logging.getLogger(__name__)

LOOK_S = 1.0
"""Minimum time between two looks at the files, in seconds."""

_PEM = re.compile(r"-----BEGIN CERTIFICATE-----.+?-----END CERTIFICATE-----", re.DOTALL)
_VERSION, _UTC_TIME = 0xA0, 0x17
"""Tags of DER (X.690)."""


class CertificateError(Exception):
    """A file does not hold a certificate, its key, or a CA."""


@dataclass(frozen=True, slots=True)
class Certificates:
    """The contents of the files as PEM; certificate and key are proven to match."""

    chain: bytes
    key: bytes
    client_ca: bytes | None
    fault: str
    """Why clients would refuse the certificate today; empty if it is valid now."""
    expires_s: float
    """When the first certificate of the chain to expire does, in seconds since the epoch."""

    @classmethod
    def read(cls, cert: Path, key: Path, client_ca: Path | None) -> Self:
        """Read the files.

        Raises CertificateError, which names the files and does not quote the key.
        """
        files = [cert, key, *([] if client_ca is None else [client_ca])]
        before = signature(files)
        try:
            chain_pem, key_pem = cert.read_bytes(), key.read_bytes()
            client_pem = None if client_ca is None else client_ca.read_bytes()
            fault = _rehearse(cert, key, client_ca)
            expires_s = min(map(_expires_s, _PEM.findall(chain_pem.decode("ascii", "replace"))))
        except (OSError, ValueError) as error:
            # ssl's errors are OSErrors too.
            why = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
            names = ", ".join(map(str, files))
            raise CertificateError(f"certificate and key in {names}: {why}") from error
        if signature(files) != before:
            raise CertificateError(f"{cert} or {key} changed while they were read")
        return cls(chain_pem, key_pem, client_pem, fault, expires_s)


class CertificateFiles:
    """The files, read again when they change; thread-safe."""

    def __init__(self, cert: Path, key: Path, client_ca: Path | None = None) -> None:
        """Read them.

        Raises CertificateError.
        """
        self._files = (cert, key, client_ca)
        self._watched = [file for file in self._files if file is not None]
        self._lock = Lock()
        # Kept for invalid files too, so that their error is logged once.
        self._read = signature(self._watched)
        self._look_at = monotonic() + LOOK_S
        self._latest = Certificates.read(*self._files)
        if self._latest.fault:
            logger.error("%s: clients will refuse it: %s", cert, self._latest.fault)
        self._warn()

    def reread(self) -> None:
        """Look at the files now."""
        with self._lock:
            self._look()

    def latest(self) -> Certificates:
        """Return what to use from now on: the same object until valid new files are there."""
        with self._lock:
            if monotonic() >= self._look_at:
                self._look_at = monotonic() + LOOK_S
                self._look()
            return self._latest

    def _look(self) -> None:
        found = signature(self._watched)
        if found == self._read:
            return
        self._read = found
        try:
            fresh = Certificates.read(*self._files)
        except CertificateError as error:
            logger.error("%s; the old certificate stays in use", error)
            return
        if fresh.fault and not self._latest.fault:
            logger.error("%s: %s; the old certificate stays in use", self._files[0], fresh.fault)
            return
        self._latest = fresh
        logger.info("%s: new certificate in use for new connections", self._files[0])
        self._warn()

    def _warn(self) -> None:
        exposed = exposure(self._files[1])
        if exposed:
            logger.warning("private key %s: %s", self._files[1], exposed)


def _rehearse(cert: Path, key: Path, client_ca: Path | None) -> str:
    """Make a TLS handshake in memory; return why a client would refuse the certificate, or "".

    Raises OSError or ValueError for files that cannot be served.
    """
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    # Without a password OpenSSL would ask for one at the terminal.
    server.load_cert_chain(cert, key, password="")
    if client_ca is not None:
        server.load_verify_locations(client_ca)
    client = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    client.check_hostname = False
    # Trusts the certificate itself: what is left to check is its dates and its purpose.
    client.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
    client.load_verify_locations(cert)
    to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
    ours = server.wrap_bio(to_server, to_client, server_side=True)
    theirs = client.wrap_bio(to_client, to_server)
    for _ in range(3):
        for side in (theirs, ours):
            try:
                side.do_handshake()
            except ssl.SSLWantReadError:
                continue
            except ssl.SSLCertVerificationError as error:
                return error.verify_message
    return ""


def _expires_s(pem: str) -> float:
    """Return when a certificate expires (RFC 5280, 4.1), in seconds since the epoch.

    Python's ssl says it of a peer's certificate alone, and only once it is found valid.
    """
    der = ssl.PEM_cert_to_DER_cert(pem)
    _, start, _ = _element(der, 0)
    _, start, end = _element(der, start)
    fields = list(_elements(der, start, end))
    if fields[0][0] == _VERSION:
        del fields[0]
    # serial number, signature, issuer, validity: not before, not after
    _, start, end = fields[3]
    _, (tag, start, end) = _elements(der, start, end)
    form = "%y%m%d%H%M%SZ" if tag == _UTC_TIME else "%Y%m%d%H%M%SZ"
    return datetime.strptime(der[start:end].decode(), form).replace(tzinfo=UTC).timestamp()


def _elements(der: bytes, start: int, end: int) -> Iterator[tuple[int, int, int]]:
    while start < end:
        element = _element(der, start)
        yield element
        start = element[2]


def _element(der: bytes, start: int) -> tuple[int, int, int]:
    """Return the tag of an element of DER, and where its content begins and ends."""
    tag, size = der[start], der[start + 1]
    start += 2
    if size & 0x80:
        count = size & 0x7F
        size = int.from_bytes(der[start : start + count], "big")
        start += count
    return tag, start, start + size
