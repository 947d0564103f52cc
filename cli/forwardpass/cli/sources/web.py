"""A model on a web server, with the checksum that says which."""

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.client import HTTPException, HTTPMessage, HTTPResponse
from ipaddress import ip_address
from pathlib import Path
from typing import IO, Any
from urllib.error import HTTPError, URLError
from urllib.parse import unquote, urlsplit
from urllib.request import HTTPRedirectHandler, Request, build_opener

from forwardpass.cli.errors import CommandError, UsageError
from forwardpass.cli.sources.origin import name_of, sha256, write_pieces
from forwardpass.proto.version import __version__

_CHECKSUM = re.compile(r"sha256=([0-9a-fA-F]{64})")
_PIECE = 2**20
"""Bytes that are read at once."""
_SILENT_S = 60.0
"""Maximum seconds for which a server may send nothing."""


@dataclass(frozen=True)
class WebFile:
    """A file at an address, with the SHA-256 that it has to have."""

    url: str = field(repr=False)
    """The whole address, which may have secrets in its query."""
    sha256: str
    name: str
    text: str
    facts: dict[str, str] = field(default_factory=dict)

    @classmethod
    def of(cls, source: str) -> "WebFile":
        """Read `https://HOST/PATH#sha256=HEX`; raises UsageError, also for http beyond loopback."""
        url, _, checksum = source.partition("#")
        try:
            parts = urlsplit(url)
        except ValueError as error:
            raise UsageError(
                f"{source.partition('?')[0]}: expected an address ({error})"
            ) from error
        # The query of a signed address is a secret.
        shown = f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}"
        if "@" in parts.netloc:
            raise UsageError(
                f"{shown}: expected an address without user and password, got one with them; "
                "use a signed address, or download the file and give file://PATH"
            )
        if parts.scheme == "http" and not _is_here(parts.hostname or ""):
            raise UsageError(
                f"{shown}: expected https, got http, by which anybody on the way may read and "
                "change it; http is for servers on this machine"
            )
        found = _CHECKSUM.fullmatch(checksum)
        if found is None:
            raise UsageError(
                f"{shown}: expected #sha256= and 64 hexadecimal digits at its end, got "
                f"{checksum[:80] or 'none'!r}; add the SHA-256 that the model's owner states "
                "(`sha256sum FILE` prints it)"
            )
        name = name_of(unquote(parts.path))
        digest = found[1].lower()
        return cls(url, digest, name, f"{shown}#sha256={digest}")

    def fetch(self, beside: str, to: Path, max_bytes: int) -> None:
        """Write the file; raises CommandError unless it is the one with the checksum."""
        if beside:
            raise CommandError(
                f"{self._shown}: expected weights inside the file, which its checksum covers, got "
                f"some in {beside!r}; save it as one file (onnx.save of a loaded model does), or "
                "pull it from a store"
            )
        try:
            agent = {"User-Agent": f"forwardpass/{__version__}"}
            request = Request(self.url, headers=agent)  # noqa: S310 - https, or here: see `of`
            opener = build_opener(_ToHttps(self._shown))
            with opener.open(request, timeout=_SILENT_S) as answer:
                write_pieces(self._shown, _pieces(self._shown, answer), to, max_bytes)
        except HTTPError as error:
            with error:
                raise CommandError(
                    f"{self._shown}: expected the file, got status {error.code} {error.reason}; "
                    "check the address, and that it needs no login"
                ) from error
        except (URLError, HTTPException, TimeoutError, ConnectionError, UnicodeError) as error:
            reason = error.reason if isinstance(error, URLError) else error
            raise CommandError(
                f"{self._shown}: {reason or type(error).__name__}; check the address, and the "
                "authorities that are trusted (SSL_CERT_FILE names others)"
            ) from error
        got = sha256(to)
        if got != self.sha256:
            raise CommandError(
                f"{self._shown}: expected SHA-256 {self.sha256}, got {got}; the file was replaced "
                "or is another one: ask its owner, and give the checksum that is stated now"
            )

    @property
    def _shown(self) -> str:
        return self.text.partition("#")[0]


def _pieces(shown: str, answer: HTTPResponse) -> Iterator[bytes]:
    while piece := answer.read(_PIECE):
        yield piece
    if answer.length:
        raise CommandError(
            f"{shown}: the connection ended {answer.length} bytes before the file; pull it again"
        )


class _ToHttps(HTTPRedirectHandler):
    """Follows redirects to https alone: what is sent in the clear can be read."""

    def __init__(self, shown: str) -> None:
        self._shown = shown

    def redirect_request(
        self,
        req: Request,
        fp: IO[bytes],
        code: int,
        msg: str,
        headers: HTTPMessage,
        newurl: str,
        **further: Any,
    ) -> Request | None:
        parts = urlsplit(newurl)
        if parts.scheme != "https":
            fp.close()
            raise CommandError(
                f"{self._shown}: expected a redirect to https, got one to "
                f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}; give the address of the file "
                "itself"
            )
        return super().redirect_request(req, fp, code, msg, headers, newurl, **further)


def _is_here(host: str) -> bool:
    try:
        return host == "localhost" or ip_address(host).is_loopback
    except ValueError:
        return False
