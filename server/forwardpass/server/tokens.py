"""The file of tokens: who there is and what they may do; a token itself stands nowhere.

Each line is a JSON object; empty lines and those that begin with `#` are left aside:

    {"name": "web", "sha256": "9f86...", "models": ["iris_*"], "calls": ["infer", "read"]}

`sha256` is the hash of a token, in hexadecimal. In its place `certificate` may name what a client
certificate says of itself: a subject alternative name, or the common name if it has none.
"""

import hashlib
import hmac
import json
import re
import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from forwardpass.server.caller import Action, Caller

_PREFIX = "fp_"
"""Of every token that is made here, so that scanners for leaked secrets can know them."""
_FIELDS = {"name", "sha256", "certificate", "models", "calls"}
_SHA256 = re.compile(r"[0-9a-f]{64}")


class TokensError(Exception):
    """A file of tokens that cannot be read, or a line of it that is none."""


@dataclass(frozen=True, slots=True)
class NewToken:
    """A token just made."""

    token: str
    line: str
    """For the file; the token does not follow from it."""


def new_token(name: str, models: Sequence[str], actions: Sequence[Action]) -> NewToken:
    """Make a token of 256 random bits: no list of words has it, so a plain hash keeps it.

    Raises TokensError for a name or patterns that no line may have.
    """
    token = _PREFIX + secrets.token_urlsafe(32)
    fields = {
        "name": name,
        "sha256": hashlib.sha256(token.encode()).hexdigest(),
        "models": list(models),
        "calls": [str(action) for action in actions],
    }
    _entry(fields)
    return NewToken(token, json.dumps(fields))


@dataclass(frozen=True, slots=True)
class _Entry:
    caller: Caller
    digest: bytes | None
    certificate: str | None


class Tokens:
    """What stands in a file of tokens."""

    def __init__(self, entries: Sequence[_Entry] = ()) -> None:
        self._by_digest = [(entry.digest, entry.caller) for entry in entries if entry.digest]
        self._by_certificate = {
            entry.certificate: entry.caller for entry in entries if entry.certificate is not None
        }

    @classmethod
    def read(cls, file: Path) -> Self:
        """Read a file.

        Raises TokensError, which names the line and quotes nothing of it.
        """
        try:
            lines = file.read_text("utf-8").splitlines()
        except (OSError, UnicodeDecodeError) as error:
            why = error.strerror if isinstance(error, OSError) else "not UTF-8"
            raise TokensError(f"file of tokens {file}: {why}") from error
        entries = []
        for number, line in enumerate(lines, 1):
            if not line.strip() or line.lstrip().startswith("#"):
                continue
            try:
                entries.append(_entry(json.loads(line)))
            except (ValueError, RecursionError) as error:
                # Not JSON's own text alone: its position says little without the line.
                raise TokensError(f"file of tokens {file}, line {number}: not JSON") from error
            except TokensError as error:
                raise TokensError(f"file of tokens {file}, line {number}: {error}") from error
        return cls(entries)

    def of_token(self, token: str) -> Caller | None:
        """Return whose token it is, in a time that does not tell how nearly it was one."""
        digest = hashlib.sha256(token.encode("utf-8", "replace")).digest()
        found = None
        for known, caller in self._by_digest:
            if hmac.compare_digest(known, digest):
                found = caller
        return found

    def of_certificate(self, name: str) -> Caller | None:
        """Return who brings a certificate of that name."""
        return self._by_certificate.get(name)


def _entry(fields: Any) -> _Entry:
    if not isinstance(fields, dict):
        raise TokensError("expected a JSON object")
    unknown = sorted(fields.keys() - _FIELDS)
    if unknown:
        # Not left aside: a field that is misspelt must not permit what it was to forbid.
        raise TokensError(f"expected the fields {', '.join(sorted(_FIELDS))}, got {unknown[0]!r}")
    name, sha256, certificate = (fields.get(key) for key in ("name", "sha256", "certificate"))
    if not isinstance(name, str) or not name.isprintable() or not 0 < len(name) <= 100:
        raise TokensError("name: expected 1 to 100 printable characters")
    if (sha256 is None) == (certificate is None):
        raise TokensError("expected either sha256 or certificate")
    if sha256 is not None and not (isinstance(sha256, str) and _SHA256.fullmatch(sha256)):
        raise TokensError("sha256: expected 64 hexadecimal digits in lower case")
    if certificate is not None and not (isinstance(certificate, str) and certificate):
        raise TokensError("certificate: expected the name in it")
    models = _texts("models", fields)
    calls = _texts("calls", fields)
    actions = [action for action in Action if action in calls]
    if len(actions) != len(set(calls)):
        raise TokensError(f"calls: expected some of {', '.join(Action)}")
    digest = None if sha256 is None else bytes.fromhex(sha256)
    return _Entry(Caller(name, models, actions), digest, certificate)


def _texts(field: str, fields: dict[str, Any]) -> list[str]:
    texts = fields.get(field)
    if not isinstance(texts, list) or not texts or not all(isinstance(t, str) for t in texts):
        raise TokensError(f"{field}: expected a list of texts, not empty")
    return texts
