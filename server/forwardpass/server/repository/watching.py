"""Wait until the files of a repository may have changed: by file events, or at intervals."""

import logging
from collections.abc import Collection
from threading import Event
from types import TracebackType
from typing import TYPE_CHECKING, Self

from forwardpass.server.importing import import_alone
from forwardpass.server.repository.disk import Folder

if TYPE_CHECKING:
    from watchfiles._rust_notify import RustNotify

logger = logging.getLogger(__name__)

RESCAN_S = 10.0
"""Maximum seconds between two looks: changes without an event are found then."""
_GROUP_MS = 50
"""Events that follow one another this closely are reported as one."""
_MOST_GROUPED_MS = 500
_SOONEST_S = 0.25
_FALLBACK_S = 2.0
"""Seconds between two looks where there are no file events, and no interval was set."""


class Watcher:
    """Waits for changes in some folders; a context manager that ends the watch."""

    def __init__(self, stop: Event, poll_s: float | None = None) -> None:
        """Prepare to wait until `stop` is set.

        poll_s: Seconds between two looks, for volumes that have no file events; None: events.
        """
        self._stop = stop
        self._poll_s = poll_s
        self._watched: Collection[Folder] = ()
        self._events: RustNotify | None = None

    def wait(self, folders: Collection[Folder], within_s: float | None = None) -> None:
        """Return when something in the folders may have changed since they were looked into.

        within_s: Seconds after which to return anyway.
        """
        most_s = RESCAN_S if self._poll_s is None else self._poll_s
        if within_s is not None:
            most_s = min(most_s, max(within_s, _SOONEST_S))
        if self._poll_s is not None:
            self._stop.wait(most_s)
            return
        try:
            if self._events is None or folders != self._watched:
                # What changed before the watch began shows only in another look: return.
                self._watch(folders)
            else:
                self._events.watch(_MOST_GROUPED_MS, _GROUP_MS, int(most_s * 1e3), self._stop)
        except FileNotFoundError:
            # A folder was removed; the next look finds those that are there.
            self._close()
            self._stop.wait(_GROUP_MS / 1e3)
        except Exception as error:
            # There is no watchfiles for this platform, or inotify's limits are reached.
            self._close()
            self._poll_s = _FALLBACK_S
            logger.warning("no file events (%s); looking every %g s instead", error, self._poll_s)

    def _watch(self, folders: Collection[Folder]) -> None:
        # Imported here: a server that polls, or does not watch, does not need it.
        notify = import_alone("watchfiles._rust_notify")
        self._close()
        # Each folder alone: a link somewhere below could lead to the whole disk.
        self._events = notify.RustNotify(
            [str(folder.path) for folder in folders],
            debug=False,
            force_polling=False,
            poll_delay_ms=0,
            recursive=False,
            ignore_permission_denied=True,
        )
        self._watched = folders

    def _close(self) -> None:
        if self._events is not None:
            self._events.close()
            self._events = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        at: TracebackType | None,
    ) -> None:
        self._close()
