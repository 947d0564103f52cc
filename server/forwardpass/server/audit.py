"""The audit: who changed the server, and whom it refused; a line of JSON for each.

Its logger has a level of its own, so that a caller who changes the log's settings cannot turn it
off.
"""

import json
import logging
from collections.abc import Callable

from forwardpass.server.errors import (
    STATUS,
    NotAllowedError,
    PermissionDeniedError,
    ServingError,
    Status,
    UnauthenticatedError,
)
from forwardpass.server.process.incidents import Incident, Incidents

logger = logging.getLogger("forwardpass.audit")
logger.setLevel(logging.INFO)

FILE = "file"
"""The caller of a change that a file on disk made."""

_INCIDENTS = {
    UnauthenticatedError: Incident.UNAUTHENTICATED,
    PermissionDeniedError: Incident.PERMISSION_DENIED,
    NotAllowedError: Incident.PERMISSION_DENIED,
}


def record(event: str, *, caller: str, peer: str = "", **details: object) -> None:
    """Log a change; caller: its name, FILE, or empty for a caller without authentication."""
    fields = {"event": event, "caller": caller, "peer": peer, **details}
    text = json.dumps(fields, ensure_ascii=False, default=str)
    logger.info("%s", text, extra={"fields": {"message": "audit", **fields}})


def ending(error: BaseException | None) -> str:
    """Return the name of the status that a change ended with."""
    if error is None:
        return Status.OK.name
    return STATUS.get(type(error), Status.INTERNAL).name  # type: ignore[arg-type]  # may be any


class Denials:
    """Counts refused callers, and records them at a limited rate; thread-safe."""

    def __init__(
        self, incidents: Incidents | None = None, known: Callable[[str], bool] = lambda _: False
    ) -> None:
        """Prepare; known: returns whether a model is served: names that are not are not logged."""
        self._incidents = Incidents() if incidents is None else incidents
        self._known = known

    def record(self, error: ServingError, caller: str, peer: str) -> None:
        """Record a caller that was refused; other errors are ignored."""
        kind = _INCIDENTS.get(type(error))
        if kind is None:
            return
        unlogged = self._incidents.count(kind)
        if unlogged is None:
            return
        details: dict[str, object] = {"code": STATUS[type(error)].name}
        if isinstance(error, PermissionDeniedError):
            details["needs"] = error.action
            if error.model is not None and self._known(error.model):
                details["model"] = error.model
        if unlogged:
            details["unlogged_before"] = unlogged
        record("refused", caller=caller, peer=peer, **details)
