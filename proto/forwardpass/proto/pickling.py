"""Errors that can be sent from one process to another, with any arguments of their constructors.

Python itself calls the class with only the text. If a constructor takes something else, that
fails in the process that receives the error, and kills or hangs its pool.
"""

from collections.abc import Mapping
from typing import Any, TypeVar

E = TypeVar("E", bound=Exception)


class PicklableError(Exception):
    """Base of errors whose text is made by their constructor."""

    def __reduce__(self) -> tuple[Any, ...]:
        state = dict(vars(self))
        if isinstance(self, ImportError):
            state["name"] = self.name
        return _restored, (type(self), self.args, state)


def _restored(error_type: type[E], args: tuple[Any, ...], state: Mapping[str, Any]) -> E:
    error = error_type.__new__(error_type)
    error.args = args
    for name, value in state.items():
        setattr(error, name, value)
    return error
