"""TLS for the event loop: the latest certificate at every handshake."""

import ssl
from pathlib import Path
from tempfile import TemporaryDirectory

from forwardpass.server.certificates import CertificateFiles, Certificates


class Tls:
    """What asyncio needs to speak TLS with certificates that may be replaced."""

    def __init__(self, files: CertificateFiles) -> None:
        self._files = files
        self._used = files.latest()
        self._current = self.context = _context(self._used)
        # Asked at every handshake, whether the client names a server or not.
        self.context.sni_callback = self._renew

    def _renew(self, connection: ssl.SSLObject, name: str | None, _: ssl.SSLContext) -> None:
        del name
        latest = self._files.latest()
        if latest is not self._used:
            self._used, self._current = latest, _context(latest)
        connection.context = self._current


def _context(certificates: Certificates) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    # RFC 9113, section 9.2.1.
    context.options |= ssl.OP_NO_RENEGOTIATION
    context.set_alpn_protocols(["h2"])
    with TemporaryDirectory(prefix="forwardpass-") as folder:
        # ssl reads files alone, and those of the operator may have changed since.
        chain, key = Path(folder) / "chain.pem", Path(folder) / "key.pem"
        chain.write_bytes(certificates.chain)
        key.write_bytes(certificates.key)
        context.load_cert_chain(chain, key)
    if certificates.client_ca is not None:
        context.load_verify_locations(cadata=certificates.client_ca.decode())
        context.verify_mode = ssl.CERT_REQUIRED
    return context
