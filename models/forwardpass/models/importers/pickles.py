"""Files that run code of their author's choice when they are loaded; none is ever read."""

import os
from pathlib import Path

from forwardpass.models.errors import UnsupportedSourceError

_SUFFIXES = frozenset({".pkl", ".pickle", ".dill", ".joblib", ".pt", ".pth", ".ckpt", ".bin"})


def is_pickle(path: Path) -> bool:
    """Whether a path is that of a pickle, by its suffix."""
    return path.suffix.lower() in _SUFFIXES


def refuse_file(model: object, fix: str) -> None:
    """Raise UnsupportedSourceError if a path was passed where a model is expected."""
    if isinstance(model, str | os.PathLike):
        raise unread(Path(model), "a path where a model was expected", fix)


def unread(path: Path, otherwise: str, fix: str) -> UnsupportedSourceError:
    """Return the error for a file that is not read; otherwise: the reason if it is not a pickle."""
    why = "a pickle, which runs whatever code it holds when it is loaded"
    return UnsupportedSourceError(f"file {str(path)!r}", why if is_pickle(path) else otherwise, fix)
