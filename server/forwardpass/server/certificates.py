"""The server's certificate, its key and its clients' authority: files that may be replaced.

Both transports ask for the latest at every handshake; connections that are open keep theirs.
"""

import logging
import ssl
from dataclasses import dataclass
from pathlib import Path
from threading import Lock
from time import monotonic
from typing import Self

from forwardpass.server.watched_files import signature

logger = logging.getLogger(__name__)

LOOK_S = 1.0
"""Least time between two looks at the files."""


class CertificateError(Exception):
    """Files that are no certificate, no key of it, or no authority."""


@dataclass(frozen=True, slots=True)
class Certificates:
    """What was in the files, PEM; proven to be one another's."""

    chain: bytes
    key: bytes
    client_ca: bytes | None
    fault: str
    """Why clients would refuse the certificate today; empty if it is valid now."""

    @classmethod
    def read(cls, cert: Path, key: Path, client_ca: Path | None) -> Self:
        """Read the files.

        Raises CertificateError that names them, and says nothing of the key's content.
        """
        files = [cert, key, *([] if client_ca is None else [client_ca])]
        before = signature(files)
        try:
            chain_pem, key_pem = cert.read_bytes(), key.read_bytes()
            client_pem = None if client_ca is None else client_ca.read_bytes()
            fault = _rehearse(cert, key, client_ca)
        except (OSError, ValueError) as error:
            # ssl's errors are OSErrors, too.
            why = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
            names = ", ".join(map(str, files))
            raise CertificateError(f"certificate and key in {names}: {why}") from error
        if signature(files) != before:
            raise CertificateError(f"{cert} or {key} changed while they were read")
        return cls(chain_pem, key_pem, client_pem, fault)


class CertificateFiles:
    """The files, read again when they change; thread-safe."""

    def __init__(self, cert: Path, key: Path, client_ca: Path | None = None) -> None:
        """Read them.

        Raises CertificateError.
        """
        self._files = (cert, key, client_ca)
        self._watched = [file for file in self._files if file is not None]
        self._lock = Lock()
        # The files as they were when they were read, good or not: bad ones are told once.
        self._read = signature(self._watched)
        self._look_at = monotonic() + LOOK_S
        self._latest = Certificates.read(*self._files)
        if self._latest.fault:
            logger.error("%s: clients will refuse it: %s", cert, self._latest.fault)

    def latest(self) -> Certificates:
        """Return what to use from now on: the same object as long as nothing better came."""
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
            logger.error("%s; the old certificate goes on", error)
            return
        if fresh.fault and not self._latest.fault:
            logger.error("%s: %s; the old certificate goes on", self._files[0], fresh.fault)
            return
        self._latest = fresh
        logger.info("%s: a new certificate, for connections from now on", self._files[0])


def _rehearse(cert: Path, key: Path, client_ca: Path | None) -> str:
    """Shake hands with ourselves; return why a client would refuse the certificate, if so.

    Raises OSError or ValueError for what cannot be served.
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
