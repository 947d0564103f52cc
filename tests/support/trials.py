"""The bytes of a file as the guard hands them on, and their trial."""

from pathlib import Path

from forwardpass.server.guard.files import ModelBytes, read_model
from forwardpass.server.repository.trial import Trial


def bytes_of(path: Path) -> ModelBytes:
    return read_model(path, None, 2**31 - 1)


def try_file(trial: Trial, path: Path, *, general: bool = False, unproven: bool = False) -> bool:
    """Let a file that nobody checked have its trial."""
    with bytes_of(path) as content:
        return trial.run(path, content, general=general, unproven=unproven)
