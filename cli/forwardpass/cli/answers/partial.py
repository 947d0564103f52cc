"""A file that grows beside its final name, with all that is needed to resume after a stop."""

import json
import os
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from forwardpass.cli.answers.formats import Encoder, encoder
from forwardpass.cli.answers.locking import locked
from forwardpass.cli.answers.table import Table
from forwardpass.cli.errors import CommandError

_FORMAT = 1


class PartialFile:
    """Answers that are not complete yet: `NAME.partial`, and `NAME.partial.json` about it.

    After each table the second states how many rows and bytes of the first are valid, so that a
    process may end anywhere: further bytes are cut off when another resumes. A context manager; a
    stop before the first table leaves nothing. Only one process at a time may use it.
    """

    def __init__(self, to: Path, *, resume: bool, hidden: bool = False) -> None:
        """Read the rows to resume from, if `resume` is set; nothing is changed yet.

        hidden: Whether the names begin with a dot, so that engines that read the folder pass over
            them.

        Raises CommandError for a file that another process is writing, that is damaged, or that
        exists although it is not to be resumed.
        """
        self._to = to
        self._part = to.with_name(f"{'.' if hidden else ''}{to.name}.partial")
        self._about = self._part.with_name(f"{self._part.name}.json")
        self._settings: dict[str, Any] = {}
        self.rows = 0
        """Number of rows that are written."""
        self.version = ""
        """The model's version that answered them; empty if none did."""
        self._bytes = 0
        self._begun_with: dict[str, Any] = {}
        self._encoder: Encoder
        self._finished = False
        self._file = locked(self._part)
        try:
            if self._about.exists():
                if not resume:
                    raise CommandError(
                        f"{self._part}: an earlier run stopped here; add --resume to continue, or "
                        f"delete it and {self._about.name}"
                    )
                self._read()
        except BaseException:
            with self._file:
                if not self._part.stat().st_size:
                    self._part.unlink()
            raise

    def begin(self, kind: str, settings: Mapping[str, Any]) -> None:
        """Prepare for tables in a format.

        settings: all on which the answers depend, ready for JSON; the same as before a stop.

        Raises CommandError for a file that was begun with other settings.
        """
        for name, value in settings.items():
            before = self._begun_with.get(name)
            if self._begun_with and before != value:
                raise CommandError(
                    f"{self._part}: begun with {name} {before!r}, now {value!r}; "
                    f"resume it with the settings before, or delete it and {self._about.name}"
                )
        self._settings = dict(settings)
        # Cuts off bytes that a process was writing when it was killed.
        self._file.truncate(self._bytes)
        self._encoder = encoder(kind, self._part if self._bytes else None)

    def add(self, table: Table, rows: int, version: str) -> None:
        """Append a table, and store that it is there."""
        data = self._encoder.encode(table, first=self._bytes == 0)
        self._file.write(data)
        self._file.flush()
        self.rows += rows
        self.version = version
        self._bytes += len(data)
        about = {
            "format": _FORMAT,
            "settings": self._settings,
            "version": version,
            "rows": self.rows,
            "bytes": self._bytes,
        }
        beside = self._about.with_name(f"{self._about.name}.new")
        beside.write_text(json.dumps(about))
        beside.replace(self._about)

    def finish(self) -> None:
        """Put the whole file in its place."""
        self._file.flush()
        os.fsync(self._file.fileno())
        self._encoder.finish(self._part, self.rows, self._to)
        self._about.unlink(missing_ok=True)
        # From now on another process may begin a new file.
        self._finished = True

    @property
    def path(self) -> Path:
        """The file of the rows until all are there."""
        return self._part

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        # Closed last: until then no other process can lock it.
        with self._file:
            if not self._bytes and not self._finished:
                self._part.unlink(missing_ok=True)
                self._about.unlink(missing_ok=True)

    def _read(self) -> None:
        try:
            about = json.loads(self._about.read_text())
            settings, rows, count = dict(about["settings"]), int(about["rows"]), int(about["bytes"])
            version, known = str(about["version"]), about["format"] == _FORMAT
            whole = known and self._part.stat().st_size >= count
        except (ValueError, LookupError, TypeError, OSError):
            whole = False
        if not whole:
            raise CommandError(
                f"{self._about}: does not belong to {self._part.name}, or is damaged; "
                "delete both, and start again without --resume"
            )
        self.rows, self._bytes, self.version = rows, count, version
        self._begun_with = settings
