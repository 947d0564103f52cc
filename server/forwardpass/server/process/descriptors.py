"""The limit of open files."""

import logging
import sys

logger = logging.getLogger(__name__)

_BESIDE_CONNECTIONS = 256
"""Files that a server opens beside one for each connection."""


def allow_connections(count: int) -> None:
    """Raise the limit of open files as far as that many connections need and the system allows.

    Logs a warning if that is not far enough.
    """
    if sys.platform == "win32":
        return
    import resource

    needed = count + _BESIDE_CONNECTIONS
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY or soft >= needed:
        return
    wanted = needed if hard == resource.RLIM_INFINITY else min(needed, hard)
    if wanted > soft:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
    if wanted < needed:
        logger.warning(
            "max_connections: expected at most %d with a limit of %d open files, got %d; raise the "
            "limit (ulimit -n), or lower --max-connections",
            max(0, wanted - _BESIDE_CONNECTIONS),
            wanted,
            count,
        )
