"""One model at one state, where others keep it; and what fails there, in a line."""

import hashlib
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import Protocol

from forwardpass.cli.errors import CommandError, is_expected
from forwardpass.proto.stores import without_secrets

_LONGEST = 400
"""Maximum characters of another package's error."""


class Origin(Protocol):
    """A model's file where others keep it, at a state that does not change."""

    @property
    def name(self) -> str:
        """Name of the model."""

    @property
    def text(self) -> str:
        """The source that names exactly this state, without secrets."""

    @property
    def facts(self) -> Mapping[str, str]:
        """Further texts for the provenance."""

    def fetch(self, beside: str, to: Path, max_bytes: int) -> None:
        """Write the model's file to a new one; or, unless `beside` is empty, one beside it.

        beside: its path from the folder of the model's. Raises CommandError.
        """


def name_of(path: str) -> str:
    """Return a model's name from the path of its file: `iris.onnx`, or `iris/3/model.onnx`."""
    file = PurePosixPath(path)
    if file.stem != "model":
        return file.stem
    folders = [part for part in file.parts[:-1] if not part.isdigit()]
    return folders[-1] if folders else file.stem


def the_onnx_file(source: str, files: Iterable[str], fix: str) -> str:
    """Return the one .onnx file of several; raises CommandError if there are none or more."""
    found = sorted(file for file in files if file.endswith(".onnx"))
    if len(found) != 1:
        listed = ", ".join(found[:8]) + (", ..." if len(found) > 8 else "")
        raise CommandError(f"{source}: expected one .onnx file, got {listed or 'none'}; {fix}")
    return found[0]


def write_pieces(source: str, pieces: Iterable[bytes], to: Path, max_bytes: int) -> None:
    """Write a new file; raises CommandError as soon as there are more bytes than may be."""
    left = max_bytes
    with to.open("xb") as file:
        for piece in pieces:
            left -= len(piece)
            if left < 0:
                raise too_large(source, max_bytes)
            file.write(piece)


def too_large(source: str, max_bytes: int) -> CommandError:
    """Return the error of a file with more bytes than are left for it."""
    return CommandError(
        f"{source}: expected at most {max_bytes} bytes, got more; raise --max-model-bytes, here "
        "and for the server"
    )


def sha256(path: Path) -> str:
    """Return the SHA-256 of a file in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@contextmanager
def reported(source: str, fix: str) -> Iterator[None]:
    """Raise what another package raises as a CommandError of one line, without passwords."""
    try:
        yield
    except ImportError as error:
        fix = f"pip install {error.name}" if isinstance(error, ModuleNotFoundError) else fix
        raise CommandError(f"{source}: {_line(error)}; {fix}") from error
    except Exception as error:
        if is_expected(error) and not isinstance(error, OSError):
            raise
        raise CommandError(f"{source}: {_line(error)}; {fix}") from error


def _line(error: Exception) -> str:
    text = without_secrets(" ".join(str(error).split())) or type(error).__name__
    return text if len(text) <= _LONGEST else f"{text[:_LONGEST]}..."
