"""Checks of TLS files: whether they can be read and fit, and how long they are valid."""

import re
import ssl
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

from forwardpass.cli.doctor.finding import Finding, fine, note, wrong

_SOON = timedelta(days=14)
_PEM = re.compile(r"-----BEGIN CERTIFICATE-----.+?-----END CERTIFICATE-----", re.DOTALL)


def check_tls(cert: Path | None, key: Path | None, client_ca: Path | None) -> Iterator[Finding]:
    """Yield a finding for each file given, and whether certificate and key belong together."""
    if cert is None and key is None and client_ca is None:
        return
    if (cert is None) != (key is None):
        yield wrong("TLS", "one of certificate and key", "give both --tls-cert and --tls-key")
    for what, file in (("certificate", cert), ("CA of clients", client_ca)):
        if file is not None:
            yield _check_validity(what, file)
    if cert is not None and key is not None:
        yield _check_pair(cert, key)


def _check_validity(what: str, file: Path) -> Finding:
    try:
        valid = [validity(ssl.PEM_cert_to_DER_cert(pem)) for pem in _PEM.findall(file.read_text())]
    except OSError as error:
        return wrong(what, f"{file}: {error.strerror}", "name a file that can be read")
    except (ValueError, IndexError):
        valid = []
    if not valid:
        return wrong(what, f"{file}: no certificate in PEM form", "convert it to PEM")
    # A chain is valid until its first certificate expires.
    begin, end = max(since for since, _ in valid), min(until for _, until in valid)
    now = datetime.now(UTC)
    days = f"{file}: valid until {end:%Y-%m-%d %H:%M} UTC"
    if now < begin:
        return wrong(what, f"{file}: valid from {begin:%Y-%m-%d %H:%M} UTC", "check the clock")
    if now > end:
        return wrong(what, f"{file}: expired on {end:%Y-%m-%d %H:%M} UTC", "renew it")
    return note(what, days, "renew it soon") if end - now < _SOON else fine(what, days)


def _check_pair(cert: Path, key: Path) -> Finding:
    what = "key"
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(cert, key, _no_password)
    except ssl.SSLError as error:
        return wrong(what, f"{key}: {error.reason or error}", "give the key of the certificate")
    except OSError as error:
        return wrong(what, f"{key}: {error.strerror}", "name a file that can be read")
    return fine(what, f"{key}: belongs to the certificate")


def _no_password() -> str:
    # Otherwise OpenSSL would ask at the terminal, which a server cannot answer either.
    return ""


_SEQUENCE, _UTC_TIME, _VERSION = 0x30, 0x17, 0xA0


def validity(der: bytes) -> tuple[datetime, datetime]:
    """Return the begin and the end of a certificate's validity: X.509, RFC 5280 section 4.1.

    Raises ValueError or IndexError for anything else. Python's own reader of certificates is not
    public.
    """
    certificate = _inside(der, 0)
    body = _inside(der, certificate)
    at = body
    # version (may be left out), serialNumber, signature and issuer are before it.
    for _ in range(4 if der[body] == _VERSION else 3):
        at = _after(der, at)
    since = _inside(der, at)
    return _time(der, since), _time(der, _after(der, since))


def _inside(der: bytes, at: int) -> int:
    """Return the start of the first element within a sequence."""
    if der[at] != _SEQUENCE:
        raise ValueError(f"expected a sequence at byte {at}")
    return _length(der, at)[0]


def _after(der: bytes, at: int) -> int:
    start, size = _length(der, at)
    return start + size


def _length(der: bytes, at: int) -> tuple[int, int]:
    """Return the start of an element's content, and its length."""
    size = der[at + 1]
    if size < 0x80:
        return at + 2, size
    count = size & 0x7F
    return at + 2 + count, int.from_bytes(der[at + 2 : at + 2 + count], "big")


def _time(der: bytes, at: int) -> datetime:
    start, size = _length(der, at)
    text = der[start : start + size].decode("ascii")
    # RFC 5280, 4.1.2.5.1: years from 50 on are of the last century; for strptime, from 69 on.
    if der[at] == _UTC_TIME:
        text = ("19" if int(text[:2]) >= 50 else "20") + text
    return datetime.strptime(text, "%Y%m%d%H%M%SZ").replace(tzinfo=UTC)
