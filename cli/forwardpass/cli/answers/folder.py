"""A folder of answers: a file for each file of rows, and the record of those that are whole."""

import json
import os
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from forwardpass.cli.answers.locking import locked
from forwardpass.cli.errors import CommandError
from forwardpass.cli.rows import files_below

_FORMAT = 1
_RECORD = "_forwardpass.jsonl"
_WHOLE = "_SUCCESS"
"""The file that reports, as Hadoop's does, that all answers are there."""


class AnswersFolder:
    """Files of answers that are not all there yet, and `_forwardpass.jsonl` about them.

    Its lines are the settings, the version that answers, and each file that is whole, with what
    identifies its rows; a process may end anywhere. A context manager; a stop before the first
    answer leaves nothing. Only one process at a time may use it.
    """

    def __init__(self, folder: Path, *, resume: bool, overwrite: bool) -> None:
        """Read the record of an earlier run; nothing is changed, but an empty folder made.

        Raises CommandError for a folder that another process is writing, whose record is damaged,
        or that has files although it is neither to be resumed nor replaced.
        """
        self.path = folder
        self._resume, self._overwrite = resume, overwrite
        self._settings: dict[str, Any] = {}
        self._is_new = True
        self._whole: dict[str, Any] = {}
        """What identified the rows of each file of answers."""
        self.version = ""
        """The model's version that answers them; empty if none has yet."""
        folder.mkdir(exist_ok=True)
        self._file = locked(folder / _RECORD)
        try:
            self._file.seek(0)
            self._lines = self._file.read().splitlines(keepends=True)
            # The last one may be torn: a process was writing it when it was killed.
            if self._lines and not self._lines[-1].endswith(b"\n"):
                self._lines.pop()
            self._read()
            if not overwrite and not (resume and self._lines):
                self._check_empty()
        except BaseException:
            self._close()
            raise

    @property
    def count(self) -> int:
        """Number of files that are whole."""
        return len(self._whole)

    def to_write(self, rows: Mapping[str, Any]) -> list[str]:
        """Return the names of the files of answers that are not there yet, in the order of rows.

        rows: what identifies the rows of each file, by the name of the file of its answers.

        Raises CommandError for answers to rows that have changed since or are not there any more,
        and for files that are no answers at all.
        """
        for name in self._there():
            path = self.path / name
            if name not in rows and name not in self._whole:
                raise CommandError(
                    f"{path}: expected only answers to files of --input in the folder of --output; "
                    "move it away, or name another folder"
                )
            if self._is_stale(name, rows) and not self._overwrite:
                what = "have changed" if name in rows else "are not there any more"
                raise CommandError(
                    f"{path}: its rows {what} since it was written; delete it, or add --overwrite, "
                    "to have what is there now predicted"
                )
        if not self._resume:
            return [*rows]
        there = {*self._there()}
        return [name for name in rows if self._whole.get(name) != rows[name] or name not in there]

    def is_done(self, rows: Mapping[str, Any]) -> bool:
        """Whether an earlier run has finished, and there is nothing to write or to delete."""
        stale = any(self._is_stale(name, rows) for name in self._there())
        return (
            self._resume and (self.path / _WHOLE).exists() and not self.to_write(rows) and not stale
        )

    def begin(self, settings: Mapping[str, Any], rows: Mapping[str, Any]) -> None:
        """Delete what is to be replaced, if anything is, and prepare to write.

        settings: all on which the answers depend but the rows; the same as before a stop.

        Raises CommandError for a folder that was begun with other settings.
        """
        for name, value in settings.items():
            before = self._settings.get(name)
            if self._settings and before != value:
                raise CommandError(
                    f"{self.path}: begun with {name} {before!r}, now {value!r}; resume it with the "
                    "settings before, or begin anew with --overwrite and without --resume"
                )
        (self.path / _WHOLE).unlink(missing_ok=True)
        self._file.truncate(sum(map(len, self._lines)) if self._resume else 0)
        for name in self._there():
            if not self._resume or self._is_stale(name, rows):
                (self.path / name).unlink()
        if not self._resume:
            self._whole.clear()
            for partial in self.path.rglob(".*.partial*"):
                partial.unlink()
        self._settings, self._is_new = dict(settings), not self._settings

    def pin(self, version: str) -> None:
        """Store the version of the model that answers, before its first answers are."""
        if self._is_new:
            self._append({"format": _FORMAT, "settings": self._settings})
            self._is_new = False
        if version != self.version:
            self._append({"version": version})
            self.version = version

    def add(self, name: str, rows: Any) -> None:
        """Store that a file is whole, and what identifies its rows."""
        self._append({"file": name, "rows": rows})
        self._whole[name] = rows

    def finish(self) -> None:
        """Report to whoever reads the folder that all answers are there."""
        (self.path / _WHOLE).touch()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._close()

    def _close(self) -> None:
        # Closed last: until then no other process can lock it.
        with self._file:
            if not (self.path / _RECORD).stat().st_size:
                (self.path / _RECORD).unlink()
                for folder, _, _ in os.walk(self.path, topdown=False):
                    with suppress(OSError):
                        os.rmdir(folder)

    def _there(self) -> list[str]:
        return [path.relative_to(self.path).as_posix() for path in files_below(self.path)]

    def _is_stale(self, name: str, rows: Mapping[str, Any]) -> bool:
        return self._resume and name in self._whole and rows.get(name) != self._whole[name]

    def _append(self, line: Mapping[str, Any]) -> None:
        self._file.write(json.dumps(line).encode() + b"\n")
        self._file.flush()

    def _check_empty(self) -> None:
        if self._lines and not (self.path / _WHOLE).exists():
            raise CommandError(
                f"{self.path}: an earlier run stopped here; add --resume to continue, or "
                "--overwrite to begin anew"
            )
        if self._lines or self._there():
            raise CommandError(
                f"{self.path} has files already; --overwrite replaces the answers of an earlier "
                "run, or name another folder"
            )

    def _read(self) -> None:
        try:
            for line in map(json.loads, self._lines):
                if "settings" in line:
                    self._settings = dict(line["settings"])
                    if line["format"] != _FORMAT:
                        raise ValueError(f"format {line['format']}")
                elif "version" in line:
                    self.version = str(line["version"])
                else:
                    self._whole[line["file"]] = line["rows"]
        except (ValueError, LookupError, TypeError) as error:
            if self._resume:
                raise CommandError(
                    f"{self.path / _RECORD}: damaged, or of another version of forwardpass "
                    f"({error}); begin anew with --overwrite and without --resume"
                ) from error
        if not self._resume:
            # Only the names of its files matter, which may be replaced.
            self._settings, self.version = {}, ""
