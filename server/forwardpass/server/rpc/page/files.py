"""The page's files, as they are in the package."""

from collections.abc import Mapping
from hashlib import sha256
from pathlib import Path
from typing import NamedTuple

_FOLDER = Path(__file__).parent / "assets"
_TYPES: Mapping[str, bytes] = {
    ".html": b"text/html; charset=utf-8",
    ".css": b"text/css; charset=utf-8",
    ".js": b"text/javascript; charset=utf-8",
    ".svg": b"image/svg+xml",
}


class File(NamedTuple):
    """One file."""

    content: bytes
    content_type: bytes
    etag: bytes
    """Weak: it is the same for the compressed content."""


def find(name: str) -> File | None:
    """Return a file; None if there is none of that name."""
    # Compared with the names that are there: a caller's text is never part of a path.
    path = next((each for each in _FOLDER.iterdir() if each.name == name), None)
    if path is None or path.suffix not in _TYPES:
        return None
    content = path.read_bytes()
    return File(content, _TYPES[path.suffix], b'W/"%b"' % sha256(content).hexdigest()[:16].encode())
