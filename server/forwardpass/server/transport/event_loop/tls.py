"""TLS for the event loop: the latest certificate at every handshake."""

import os
import ssl
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

from forwardpass.server.transport.certificates import CertificateFiles, Certificates


class Tls:
    """The TLS context for asyncio, with certificates that may be replaced."""

    def __init__(self, files: CertificateFiles, protocol: str) -> None:
        """Prepare; protocol: The one that is agreed on by ALPN."""
        self._files = files
        self._protocol = protocol
        self._used = files.latest()
        self._current = self.context = _context(self._used, protocol)
        # Called at every handshake, even if the client names no server.
        self.context.sni_callback = self._renew

    def reread(self) -> None:
        """Look at the files now."""
        self._files.reread()

    @property
    def expires_s(self) -> float:
        """When the latest certificate expires, in seconds since the epoch."""
        return self._files.latest().expires_s

    def _renew(self, connection: ssl.SSLObject, name: str | None, _: ssl.SSLContext) -> None:
        del name
        latest = self._files.latest()
        if latest is not self._used:
            self._used, self._current = latest, _context(latest, self._protocol)
        connection.context = self._current


def _context(certificates: Certificates, protocol: str) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    # RFC 9113, section 9.2.1.
    context.options |= ssl.OP_NO_RENEGOTIATION
    context.set_alpn_protocols([protocol])
    with _as_file(certificates.chain) as chain, _as_file(certificates.key) as key:
        context.load_cert_chain(chain, key)
    if certificates.client_ca is not None:
        context.load_verify_locations(cadata=certificates.client_ca.decode())
        context.verify_mode = ssl.CERT_REQUIRED
    return context


@contextmanager
def _as_file(content: bytes) -> Iterator[Path]:
    """Yield the path of a file with some content.

    ssl reads nothing else, and the operator's files may have changed since. In memory where that is
    possible: a container may have no folder to write to, and a key belongs on no disk.
    """
    if not hasattr(os, "memfd_create"):
        with TemporaryDirectory(prefix="forwardpass-") as folder:
            path = Path(folder) / "content.pem"
            path.write_bytes(content)
            yield path
        return
    with open(os.memfd_create("pem", os.MFD_CLOEXEC), "wb") as file:
        file.write(content)
        file.flush()
        yield Path(f"/proc/self/fd/{file.fileno()}")
