"""The file of tokens: callers and their permissions, without the tokens themselves.

Each line is a JSON object; empty lines and those that begin with `#` are ignored:

    {"name": "web", "sha256": "9f86...", "models": ["iris_*"], "calls": ["infer", "read"]}

`sha256` is the hash of a token, in hexadecimal. Instead, `certificate` may have a name of a client
certificate: a subject alternative name, or the common name if it has none. `calls_per_s` and
`max_in_flight` limit how much the caller may use, and `priority` may be `batch`.
"""

import json
import math
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple, Self

from forwardpass.server.access.caller import Action, Caller
from forwardpass.server.access.quota import NewQuota, own_quota

_PREFIX = "fp_"
"""Prefix of every generated token, so that scanners for leaked secrets can find it."""
_LIMITS = ("calls_per_s", "max_in_flight", "priority")
"""Fields that may be left out."""
_FIELDS = {"name", "sha256", "certificate", "models", "calls", *_LIMITS}
_PRIORITIES = ("interactive", "batch")
_SHA256 = re.compile(r"[0-9a-f]{64}")


class TokensError(Exception):
    """A file of tokens cannot be read, or has an invalid line."""


class NewToken(NamedTuple):
    """A new token and its line for the file."""

    token: str
    line: str
    """Line for the file; the token cannot be derived from it."""


def new_token(
    name: str, models: Sequence[str], actions: Sequence[Action], **limits: float | str | None
) -> NewToken:
    """Make a token of 256 random bits: it cannot be guessed, so a plain hash is safe.

    limits: calls_per_s, max_in_flight and priority; None as if left out.

    Raises TokensError for an invalid name, pattern or limit.
    """
    # Imported here and below: most servers have no tokens.
    import hashlib
    import secrets

    token = _PREFIX + secrets.token_urlsafe(32)
    fields = {
        "name": name,
        "sha256": hashlib.sha256(token.encode()).hexdigest(),
        "models": list(models),
        "calls": [str(action) for action in actions],
        **{name: limit for name, limit in limits.items() if limit is not None},
    }
    _entry(fields)
    return NewToken(token, json.dumps(fields))


class _Entry(NamedTuple):
    caller: Caller
    digest: bytes | None
    certificate: str | None

    @property
    def key(self) -> bytes | str | None:
        """What the caller shows."""
        return self.digest or self.certificate


class Tokens:
    """The content of a file of tokens."""

    def __init__(self, entries: Sequence[_Entry] = (), *, blank: bool = False) -> None:
        self.blank = blank
        """Whether the file had no line at all, not even a comment: a write may have failed."""
        self._callers = {entry.key: entry.caller for entry in entries}
        self._by_digest = [(entry.digest, entry.caller) for entry in entries if entry.digest]
        self._by_certificate = {
            entry.certificate: entry.caller for entry in entries if entry.certificate is not None
        }

    @classmethod
    def read(cls, file: Path, new_quota: NewQuota = own_quota) -> Self:
        """Read a file; new_quota: Makes the quota of a line that has limits.

        Raises TokensError, which names the line without quoting it.
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
                entries.append(_entry(json.loads(line), new_quota))
            except (ValueError, RecursionError) as error:
                # Not JSON's own text: its position says little without the line.
                raise TokensError(f"file of tokens {file}, line {number}: not JSON") from error
            except TokensError as error:
                raise TokensError(f"file of tokens {file}, line {number}: {error}") from error
        return cls(entries, blank=not any(line.strip() for line in lines))

    def __len__(self) -> int:
        """Return the number of tokens and certificates."""
        return len(self._by_digest) + len(self._by_certificate)

    def after(self, earlier: Self) -> Self:
        """Take over what callers with the same limits have used, and return this."""
        for key, caller in self._callers.items():
            before = earlier._callers.get(key)
            used = None if before is None else before.quota
            if used is not None and caller.quota is not None and used.limits == caller.quota.limits:
                caller.quota = used
        return self

    def of_token(self, token: str) -> Caller | None:
        """Return the caller with this token; the time does not reveal how close a guess was."""
        import hashlib
        import hmac

        digest = hashlib.sha256(token.encode("utf-8", "replace")).digest()
        found = None
        for known, caller in self._by_digest:
            if hmac.compare_digest(known, digest):
                found = caller
        return found

    def of_certificate(self, name: str) -> Caller | None:
        """Return the caller with a certificate of this name."""
        return self._by_certificate.get(name)


def _entry(fields: Any, new_quota: NewQuota = own_quota) -> _Entry:
    if not isinstance(fields, dict):
        raise TokensError("expected a JSON object")
    unknown = sorted(fields.keys() - _FIELDS)
    if unknown:
        # Not ignored: a misspelled field must not permit what it was meant to forbid.
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
    calls_per_s, max_in_flight, priority = (fields.get(limit) for limit in _LIMITS)
    if calls_per_s is not None and not (_is_number(calls_per_s) and calls_per_s > 0):
        raise TokensError("calls_per_s: expected a number above 0")
    if max_in_flight is not None and not (type(max_in_flight) is int and max_in_flight > 0):
        raise TokensError("max_in_flight: expected a whole number of at least 1")
    if priority not in (None, *_PRIORITIES):
        raise TokensError(f"priority: expected {' or '.join(_PRIORITIES)}")
    limited = calls_per_s is not None or max_in_flight is not None
    shown = str(sha256 or certificate)
    quota = new_quota(shown, name, calls_per_s, max_in_flight) if limited else None
    caller = Caller(name, models, actions, quota=quota, batch=priority == "batch")
    return _Entry(caller, digest, certificate)


def _is_number(value: Any) -> bool:
    return type(value) in (int, float) and math.isfinite(value)


def _texts(field: str, fields: dict[str, Any]) -> list[str]:
    texts = fields.get(field)
    if not isinstance(texts, list) or not texts or not all(isinstance(t, str) for t in texts):
        raise TokensError(f"{field}: expected a non-empty list of strings")
    return texts
