"""Who calls, and what they may do: bearer tokens and client certificates against a file.

Without a file everybody may do everything. With one, a call has to bring a token that the file
knows (`authorization: Bearer TOKEN`), or come over a connection whose client certificate it names.
"""

import logging
from collections.abc import Iterable
from pathlib import Path
from threading import Lock
from time import monotonic

from forwardpass.server.caller import ANYONE, Caller
from forwardpass.server.errors import UnauthenticatedError
from forwardpass.server.tokens import Tokens, TokensError
from forwardpass.server.watched_files import signature

logger = logging.getLogger(__name__)

LOOK_S = 1.0
"""Longest time that a change of the file takes to have effect."""

_SCHEME = "bearer "
_MAX_KNOWN = 1024
"""Tokens that are recognised without hashing them again."""


class Access:
    """Says who calls; thread-safe, and a dictionary's look-up for a token that came before."""

    def __init__(self, file: Path | None = None) -> None:
        """Read the file of tokens; None: nobody is asked.

        Raises TokensError.
        """
        self._file = file
        self._looking = Lock()
        # The file as it was when it was read, good or not: a bad one is told once.
        self._read = None if file is None else signature([file])
        self._look_at = monotonic() + LOOK_S
        # Replaced as a whole: a caller found in an old one is never remembered in a new one.
        self._now = _Known(Tokens() if file is None else Tokens.read(file))

    @property
    def required(self) -> bool:
        """Whether callers have to say who they are; if not, `caller` need not be asked."""
        return self._file is not None

    def caller(self, authorization: str | None, identities: Iterable[bytes] = ()) -> Caller:
        """Return who calls.

        authorization: The metadata of that name. identities: What the client's certificate says
        of itself, which counts where there is no authorization.

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
        # Those who come meanwhile go on with what there is.
        if not self._looking.acquire(blocking=False):
            return
        try:
            self._look_at = monotonic() + LOOK_S
            found = signature([file])
            if found == self._read:
                return
            self._read = found
            self._now = _Known(Tokens.read(file))
            logger.info("%s: read again, as it changed", file)
        except TokensError as error:
            logger.error("%s; what stood there before goes on", error)
        finally:
            self._looking.release()


class _Known:
    """The content of a file, and the callers that were recognised by it."""

    def __init__(self, tokens: Tokens) -> None:
        self._tokens = tokens
        self.callers: dict[str, Caller] = {}
        """By their metadata."""

    def by_token(self, authorization: str) -> Caller:
        """Recognise a caller that did not come before."""
        if not authorization.lower().startswith(_SCHEME):
            raise UnauthenticatedError("it is not 'Bearer TOKEN'")
        caller = self._tokens.of_token(authorization[len(_SCHEME) :].strip())
        if caller is None:
            raise UnauthenticatedError("its token is unknown here, or was revoked")
        # Only what is right is remembered: guesses cannot push it out.
        if len(self.callers) >= _MAX_KNOWN:
            self.callers.clear()
        self.callers[authorization] = caller
        return caller

    def by_certificate(self, identities: Iterable[bytes]) -> Caller:
        """Recognise a caller without a token."""
        for identity in identities:
            caller = self._tokens.of_certificate(identity.decode("utf-8", "replace"))
            if caller is not None:
                return caller
        raise UnauthenticatedError("there is none")
