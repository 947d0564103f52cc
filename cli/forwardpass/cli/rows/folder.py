"""A folder of Parquet files, as other engines write one: with partitions in its folders' names."""

import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import unquote

from forwardpass.cli.errors import CommandError

_NULL = "__HIVE_DEFAULT_PARTITION__"


@dataclass(frozen=True, slots=True, kw_only=True)
class RowsFile:
    """A file of rows in a folder."""

    path: Path
    name: str
    """Its path below the folder, with slashes."""
    partitions: Mapping[str, str | None]
    """The columns that folders between the two name, as `year=2026` does; None is null."""


def is_hidden(name: str) -> bool:
    """Whether engines pass over a file or a folder, such as `_SUCCESS` and `.part.crc`."""
    return name.startswith((".", "_")) and "=" not in name


def rows_files(folder: Path) -> list[RowsFile]:
    """Return the Parquet files of a folder and those below it, sorted by name.

    Raises CommandError for a folder without any, for files of other kinds, and for links to
    folders: rows are not left out in silence.
    """
    found = []
    for path in files_below(folder):
        below = path.relative_to(folder)
        if path.suffix != ".parquet":
            raise CommandError(
                f"{path}: expected only .parquet files in a folder of rows; move it away, or give "
                "it a name that begins with _, which is passed over"
            )
        partitions = _partitions(path, below)
        found.append(RowsFile(path=path, name=below.as_posix(), partitions=partitions))
    if not found:
        raise CommandError(f"{folder}: expected .parquet files in it or in folders below, got none")
    return sorted(found, key=lambda file: file.name)


def files_below(folder: Path) -> Iterator[Path]:
    """Yield the files of a folder and those below it, but for hidden ones.

    Raises CommandError for a link to a folder, OSError for a folder that cannot be read.
    """
    with os.scandir(folder) as entries:
        for entry in entries:
            if is_hidden(entry.name):
                continue
            if entry.is_dir(follow_symlinks=False):
                yield from files_below(folder / entry.name)
            elif entry.is_dir():
                raise CommandError(
                    f"{folder / entry.name}: expected a folder, got a link to one, which may lead "
                    "back; put the files there, or give the folder as --input"
                )
            else:
                yield folder / entry.name


def _partitions(path: Path, below: Path) -> dict[str, str | None]:
    found: dict[str, str | None] = {}
    for folder in below.parent.parts:
        name, equals, text = folder.partition("=")
        if not equals:
            continue
        # Engines write what a folder's name cannot hold as %2F and the like.
        name = unquote(name)
        if name in found:
            raise CommandError(f"{path}: expected one folder for column {name!r}, got two")
        found[name] = None if text == _NULL else unquote(text)
    return found
