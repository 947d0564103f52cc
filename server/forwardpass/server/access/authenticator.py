"""Authenticates callers: bearer tokens and client certificates, checked against a file.

Without a file everyone may do everything. With one, a call needs a token of the file
(`authorization: Bearer TOKEN`), or a connection with a client certificate that the file names.
"""

import logging
from collections.abc import Iterable
from pathlib import Path
from threading import Lock
from time import monotonic

from forwardpass.server.access.caller import ANYONE, Caller
from forwardpass.server.access.quota import NewQuota, own_quota
from forwardpass.server.access.tokens import Tokens, TokensError
from forwardpass.server.errors import UnauthenticatedError
from forwardpass.server.watched_files import exposure, signature

logger = logging.getLogger(__name__)

LOOK_S = 1.0
"""Maximum time until a change of the file takes effect, in seconds."""

_SCHEME = "bearer "
_MAX_KNOWN = 1024
"""Maximum number of tokens that are recognized without hashing them again."""


class Access:
    """Authenticates callers; thread-safe, and one dictionary lookup for a known token."""

    def __init__(self, file: Path | None = None, new_quota: NewQuota = own_quota) -> None:
        """Read the file of tokens; None: no authentication. new_quota: see `Tokens.read`.

        Raises TokensError.
        """
        self._file = file
        self._new_quota = new_quota
        self._looking = Lock()
        # Kept for an invalid file too, so that its error is logged once.
        self._read = None if file is None else signature([file])
        self._look_at = monotonic() + LOOK_S
        # Replaced as a whole, so that no caller of an old file is cached in the new one.
        self._now = _Known(Tokens() if file is None else Tokens.read(file, new_quota))
        if file is not None:
            _warn(file)

    @property
    def required(self) -> bool:
        """Whether callers have to authenticate; if not, `caller` need not be called."""
        return self._file is not None

    def reread(self) -> None:
        """Read the file now, whether it seems to have changed or not."""
        if self._file is not None:
            with self._looking:
                self._read = signature([self._file])
                self._take(self._file)

    def caller(self, authorization: str | None, identities: Iterable[bytes] = ()) -> Caller:
        """Return the caller.

        authorization: The metadata of that name. identities: The names in the client's
        certificate, which count if there is no authorization.

        Raises UnauthenticatedError.
        """
        if self._file is None:
            return ANYONE
        if monotonic() >= self._look_at:
            self._look(self._file)
        known = self._now
        if authorization is None:
            return known.by_certificate(identities)
        return known.callers.get(authorization) or known.by_token(authorization)

    def _look(self, file: Path) -> None:
        # Calls that arrive in the meantime use the file read before.
        if not self._looking.acquire(blocking=False):
            return
        try:
            self._look_at = monotonic() + LOOK_S
            found = signature([file])
            if found == self._read:
                return
            self._read = found
            self._take(file)
        finally:
            self._looking.release()

    def _take(self, file: Path) -> None:
        """Read the file; keep what was read before if it is invalid or was emptied."""
        try:
            tokens = Tokens.read(file, self._new_quota)
        except TokensError as error:
            logger.error("%s; the previous content stays in force", error)
            return
        if tokens.blank and self._now.tokens:
            logger.error(
                "file of tokens %s: it is empty; the previous content stays in force. To revoke "
                "all tokens, leave a line that begins with #",
                file,
            )
            return
        self._now = _Known(tokens.after(self._now.tokens))
        logger.info("%s: read again", file)
        _warn(file)


def _warn(file: Path) -> None:
    exposed = exposure(file)
    if exposed:
        logger.warning("file of tokens %s: %s", file, exposed)


class _Known:
    """The content of a file, and the callers recognized by it."""

    def __init__(self, tokens: Tokens) -> None:
        self.tokens = tokens
        self.callers: dict[str, Caller] = {}
        """Callers by their `authorization`."""

    def by_token(self, authorization: str) -> Caller:
        """Recognize a caller that is not cached."""
        if not authorization.lower().startswith(_SCHEME):
            raise UnauthenticatedError("it is not 'Bearer TOKEN'")
        caller = self.tokens.of_token(authorization[len(_SCHEME) :].strip())
        if caller is None:
            raise UnauthenticatedError("its token is unknown here, or was revoked")
        # Only valid tokens are cached: guesses cannot evict them.
        if len(self.callers) >= _MAX_KNOWN:
            self.callers.clear()
        self.callers[authorization] = caller
        return caller

    def by_certificate(self, identities: Iterable[bytes]) -> Caller:
        """Recognize a caller without a token."""
        for identity in identities:
            caller = self.tokens.of_certificate(identity.decode("utf-8", "replace"))
            if caller is not None:
                return caller
        raise UnauthenticatedError("there is none")
